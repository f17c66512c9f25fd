"""What an operator may choose when a model is exported."""

from dataclasses import dataclass

from fwl_keras._arguments import require_count

# Of the weights on disk.
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class ServingOptions:
    """Caps of a served model.

    Attributes:
        max_tokens: tokens of a row's text, or ids, in one request.
        max_new_tokens: tokens that a row may have written in one request.
        dtype: of the weights on disk, `"float32"` or `"bfloat16"`; all is computed as the model
            computes.

    Raises:
        ValueError: if a cap is below 1, or `dtype` is neither.
    """

    max_tokens: int = 4096
    max_new_tokens: int = 512
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_new_tokens"):
            require_count(name, getattr(self, name))
        if self.dtype not in DTYPES:
            raise ValueError(
                f"`dtype` must be one of {', '.join(DTYPES)}; received {self.dtype!r}."
            )

    @property
    def max_bytes(self) -> int:
        """Bytes of a row's text: longer texts are refused before they cost anything."""
        return 32 * self.max_tokens
