"""Calling a served model."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fwl_keras._arguments import is_int, require_bool, require_int
from fwl_keras.serving.answers import Score, Written, is_refusal, scores_of, written_of
from fwl_keras.serving.grpc import GrpcTransport
from fwl_keras.serving.rest import RestTransport
from fwl_keras.serving.session import Session

_SEEDS = 2**32
_KINDS = {
    "text": object,
    "token_ids": np.int32,
    "lengths": np.int32,
    "max_new_tokens": np.int32,
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "seed": np.int64,
}


class Client:
    """A model on a TensorFlow Serving server, by REST or gRPC.

    Methods take one text or a list of texts, and answer in kind.

    Args:
        transport: what sends the requests, with a method `call(signature, inputs)`; see `rest` and
            `grpc`.
        strict: whether a refused text raises a ValueError; False leaves it to you to look at every
            answer's `status`.

    Raises:
        ConnectionError: by every method, if the server gives no answer.
        RuntimeError: by every method, if the server refuses a whole request.

    Example:
        >>> client = Client.rest("http://localhost:8501", "my_lm")
        >>> client.score("def main():").perplexity
        >>> client.generate(["def main(", "class A"], max_new_tokens=20)[1].text
    """

    def __init__(self, transport, *, strict: bool = True):
        require_bool("strict", strict)
        self._transport = transport
        self._strict = strict

    @classmethod
    def rest(cls, address: str, model: str, *, strict: bool = True, **settings) -> "Client":
        """A client that speaks REST; `settings` are those of `RestTransport`."""
        return cls(RestTransport(address, model, **settings), strict=strict)

    @classmethod
    def grpc(cls, address: str, model: str, *, strict: bool = True, **settings) -> "Client":
        """A client that speaks gRPC; `settings` are those of `GrpcTransport`."""
        return cls(GrpcTransport(address, model, **settings), strict=strict)

    def call(self, signature: str, inputs: dict) -> dict[str, np.ndarray]:
        """Call any signature.

        Args:
            signature: its name.
            inputs: by name: a text or a list of texts, numbers, arrays.

        Returns:
            Arrays [B, ...] by name, strings as bytes.
        """
        return self._transport.call(signature, {k: _column(k, v) for k, v in inputs.items()})

    def score(self, texts: str | Sequence[str]) -> Score | list[Score]:
        """How likely texts are, the model adapting to each while it reads it."""
        outputs = self._checked("score", {"text": texts})
        return _in_kind(scores_of(outputs), texts)

    def generate(
        self,
        prompts: str | Sequence[str],
        max_new_tokens: int | Sequence[int] = 64,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.9,
        seed: int | Sequence[int] | None = None,
    ) -> Written | list[Written]:
        """Write on from prompts.

        Args:
            prompts: a text or a list of texts.
            max_new_tokens: tokens to write at most; for all rows, or one a row.
            temperature: divides the logits; 0 for the likeliest token.
            top_k: tokens to draw from at most; 0 for no limit.
            top_p: draw from the likeliest tokens with so much probability.
            seed: of the drawing, in [0, 2**32): row i's is `seed + i`; or one a row. None for a
                random one.
        """
        rows = len(_column("text", prompts))
        inputs = self.writing_inputs(
            rows, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        outputs = self._checked("generate", {"text": prompts, **inputs})
        return _in_kind(written_of(outputs), prompts)

    def tokenize(self, texts: str | Sequence[str]) -> list[int] | list[list[int]]:
        """Token ids of texts."""
        outputs = self._checked("tokenize", {"text": texts})
        lengths = outputs["lengths"].tolist()
        ids = outputs["token_ids"].astype(np.int32)
        rows = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
        return _in_kind(rows, texts)

    def session(self, path: str | Path | None = None) -> Session:
        """A text that goes on from call to call.

        Args:
            path: a file that `Session.save` wrote, to go on from; None to begin.

        Raises:
            ValueError: if the file is of another model, or no such file.
        """
        fresh = self._checked("initial_state", {"text": ""})
        fresh = {k: v for k, v in fresh.items() if k not in ("status", "message")}
        if path is None:
            return Session(self, fresh)
        try:
            with np.load(path, allow_pickle=False) as file:
                state = dict(file)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{str(path)!r} is no file of a session: {error}") from error
        shapes, expected = ({k: v.shape for k, v in one.items()} for one in (state, fresh))
        if shapes != expected:
            raise ValueError(
                f"{str(path)!r} is a session with another model: its state does not fit this one's."
            )
        return Session(self, state)

    def writing_inputs(self, rows: int, max_new_tokens, *, temperature, top_k, top_p, seed) -> dict:
        """The inputs of `generate` and `generate_from` besides texts and state, by name.

        Args:
            rows: rows B of the request.
            max_new_tokens: as for `generate`, like all others; for all rows, or one a row.
            temperature: likewise.
            top_k: likewise.
            top_p: likewise.
            seed: likewise.
        """
        if seed is None:
            seed = random.SystemRandom().randrange(_SEEDS)
        if is_int(seed):
            require_int("seed", seed, 0, _SEEDS)
            seed = [(int(seed) + row) % _SEEDS for row in range(rows)]
        given = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
        }
        return {name: _numbers(name, value, rows) for name, value in given.items()}

    def _checked(self, signature, inputs):
        outputs = self.call(signature, inputs)
        refused = [
            f"row {row}: {outputs['message'][row].decode()}"
            for row in np.flatnonzero(is_refusal(outputs["status"]))
        ]
        if refused and self._strict:
            raise ValueError(f"`{signature}` refused {'; '.join(refused)}.")
        return outputs


def _numbers(name, value, rows):
    """An array [rows] for a request; what the numbers may be the server says, row by row."""
    array, kind = np.asarray(value), np.dtype(_KINDS[name])
    fits = array.shape in ((), (1,), (rows,))
    if kind.kind == "f":
        fits = fits and array.dtype.kind in "iuf" and np.isfinite(array).all()
        what = "finite numbers"
    else:
        limits = np.iinfo(kind)
        fits = fits and array.dtype.kind in "iu"
        fits = fits and limits.min <= array.min() and array.max() <= limits.max
        what = f"{kind} numbers"
    if not fits:
        raise ValueError(
            f"`{name}` must be {what}, one for all rows or one for each of {rows}; received "
            f"{value!r}."
        )
    return np.broadcast_to(array.astype(kind), [rows])


def _column(name, value):
    """An array [B, ...] for a request."""
    kind = _KINDS.get(name)
    if kind is object:
        texts = [value] if isinstance(value, str | bytes) else value
        texts = list(texts) if isinstance(texts, Sequence | np.ndarray) else []
        # Surrogates are refused by the server, as not UTF-8, and not here.
        rows = [
            one.encode("utf-8", "surrogatepass") if isinstance(one, str) else one for one in texts
        ]
        if not rows or not all(isinstance(one, bytes) for one in rows):
            raise ValueError(f"`{name}` must be a text or a list of texts; received {value!r}.")
        return np.array([*rows, None], object)[:-1]
    return np.asarray(value, kind)


def _in_kind(answers, asked):
    return answers[0] if isinstance(asked, str | bytes) else answers
