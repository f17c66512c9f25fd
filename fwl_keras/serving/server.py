"""Where a server is: what both interfaces ask of it."""

from fwl_keras._arguments import require_int, require_positive


def require_server(address: str, model: str, version: int | None, timeout: float) -> None:
    """Raise a ValueError unless the arguments name a server and a model on it.

    Args:
        address: the server's address.
        model: the model's name.
        version: a version, or None.
        timeout: seconds.
    """
    for name, value in (("address", address), ("model", model)):
        if not isinstance(value, str) or not value:
            raise ValueError(f"`{name}` must be a text that is not empty; received {value!r}.")
    if version is not None:
        require_int("version", version, 0)
    require_positive("timeout", timeout)
