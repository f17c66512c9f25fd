"""Calling a served model: texts by themselves, or in a session."""

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fwl_keras._arguments import is_int, require_bool, require_int
from fwl_keras.files import replace_file
from fwl_keras.serving.status import is_refusal
from fwl_keras.serving.transports import GrpcTransport, RestTransport, Transport

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


@dataclass(frozen=True)
class TextScore:
    """How likely a text is.

    Attributes:
        log_probabilities: float32 [T] in nats, a token each; 0 for a first token that nothing
            predicted.
        total_log_probability: their sum.
        token_count: tokens that were predicted.
        perplexity: exp(-total_log_probability / token_count).
        status: 0, or why the text was refused; from 100 on it was answered, with a warning.
        message: the same in words.
    """

    log_probabilities: np.ndarray
    total_log_probability: float
    token_count: int
    perplexity: float
    status: int = 0
    message: str = ""


@dataclass(frozen=True)
class WrittenText:
    """What was written after a text.

    Attributes:
        text: the new text.
        token_count: its tokens.
        finish_reason: `"stop"` at the text's own end, `"length"` at the limit, or `"refused"`.
        status: 0, or why the text was refused; from 100 on it was answered, with a warning.
        message: the same in words.
    """

    text: str
    token_count: int
    finish_reason: str
    status: int = 0
    message: str = ""


class Client:
    """A model on a TensorFlow Serving server, by REST or gRPC.

    Methods take one text or a list of texts, and answer in kind.

    Args:
        transport: what sends the requests, with a method `call(signature, inputs)`; `rest` and
            `grpc` make one.
        strict: whether a refused text raises a ValueError; False leaves it to you to look at every
            answer's `status`.

    Raises:
        ConnectionError: if the server gives no answer, by every method.
        RuntimeError: if the server refuses a whole request, by every method.

    Example:
        >>> client = Client.rest("http://localhost:8501", "my_lm")
        >>> client.score("def main():").perplexity
        >>> client.generate(["def main(", "class A"], max_new_tokens=20)[1].text
    """

    def __init__(self, transport: Transport, *, strict: bool = True):
        require_bool("strict", strict)
        self._transport = transport
        self._strict = strict

    @classmethod
    def rest(cls, address: str, model: str, *, strict: bool = True, **settings) -> "Client":
        """Return a client that speaks REST; `settings` are those of `RestTransport`."""
        return cls(RestTransport(address, model, **settings), strict=strict)

    @classmethod
    def grpc(cls, address: str, model: str, *, strict: bool = True, **settings) -> "Client":
        """Return a client that speaks gRPC; `settings` are those of `GrpcTransport`."""
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

    def score(self, texts: str | Sequence[str]) -> TextScore | list[TextScore]:
        """Return how likely texts are, the model adapting to each while it reads it."""
        outputs = self._checked("score", {"text": texts})
        return _in_kind(_scores_of(outputs), texts)

    def generate(
        self,
        prompts: str | Sequence[str],
        max_new_tokens: int | Sequence[int] = 64,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.9,
        seed: int | Sequence[int] | None = None,
    ) -> WrittenText | list[WrittenText]:
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
        inputs = _writing_inputs(
            rows, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        outputs = self._checked("generate", {"text": prompts, **inputs})
        return _in_kind(_written_of(outputs), prompts)

    def tokenize(self, texts: str | Sequence[str]) -> list[int] | list[list[int]]:
        """Return the token ids of texts."""
        outputs = self._checked("tokenize", {"text": texts})
        lengths = outputs["lengths"].tolist()
        ids = outputs["token_ids"].astype(np.int32)
        rows = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
        return _in_kind(rows, texts)

    def session(self, path: str | Path | None = None) -> "Session":
        """Begin a text that goes on from call to call, or go on with one.

        Args:
            path: a file that `Session.save` wrote, to go on from; None to begin.

        Raises:
            ValueError: if the file is of another model, or none that `Session.save` wrote.
        """
        fresh = self._checked("initial_state", {"text": ""})
        fresh = {k: v for k, v in fresh.items() if k not in ("status", "message")}
        if path is None:
            return Session(self, fresh)
        try:
            with np.load(path, allow_pickle=False) as file:
                state = dict(file)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{str(path)!r} is no file of a session ({error}); give one that `Session.save` "
                "wrote."
            ) from error
        shapes, expected = ({k: v.shape for k, v in one.items()} for one in (state, fresh))
        if shapes != expected:
            raise ValueError(
                f"{str(path)!r} is a session with another model, whose state does not fit this "
                "one's; begin a new session."
            )
        return Session(self, state)

    def _checked(self, signature, inputs):
        outputs = self.call(signature, inputs)
        refused = [
            f"row {row}: {outputs['message'][row].decode()}"
            for row in np.flatnonzero(is_refusal(outputs["status"]))
        ]
        if refused and self._strict:
            raise ValueError(f"`{signature}` refused {'; '.join(refused)}.")
        return outputs


class Session:
    """One text that goes on from call to call; made by `Client.session`.

    The server keeps nothing: the state travels with every request and comes back with the answer,
    so any server with the same version of the model can go on with it. A request that fails leaves
    the state as it was.

    Args:
        client: the Client.
        state: dict of arrays [1, ...].

    Attributes:
        state: the state after the last call.

    Raises:
        ValueError: if the text is refused, by every method.

    Example:
        >>> session = client.session()
        >>> session.read(open("manual.txt").read())
        >>> session.generate("To reset the device, ", max_new_tokens=40).text
        >>> session.save("manual.npz")
    """

    def __init__(self, client: Client, state: dict[str, np.ndarray]):
        self._client = client
        self.state = state

    def read(self, text: str) -> int:
        """Read a text and adapt to it; return the number of its tokens."""
        outputs = self._call("read", {"text": text})
        return int(outputs["token_count"][0])

    def score(self, text: str) -> TextScore:
        """Do as `Client.score`, after what was read before; the text is read, too."""
        return _scores_of(self._call("score_from", {"text": text}))[0]

    def generate(
        self,
        prompt: str = "",
        max_new_tokens: int = 64,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.9,
        seed: int | None = None,
    ) -> WrittenText:
        """Do as `Client.generate`, after what was read before; the session goes on after it.

        Args:
            prompt: may be empty once something was read.
            max_new_tokens: as for `Client.generate`, like all others.
            temperature: likewise.
            top_k: likewise.
            top_p: likewise.
            seed: likewise, an int.
        """
        inputs = _writing_inputs(
            1, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        return _written_of(self._call("generate_from", {"text": prompt, **inputs}))[0]

    def save(self, path: str | Path) -> None:
        """Keep the state in a file, `.npz`; `Client.session(path)` goes on from it."""

        def write(beside: Path) -> None:
            # For the user's eyes alone: a state is as confidential as the text it has read.
            beside.touch(0o600)
            with beside.open("wb") as file:
                np.savez(file, **self.state)

        replace_file(path, write)

    def _call(self, signature, inputs):
        if not isinstance(inputs["text"], str | bytes):
            raise ValueError(f"A session takes one text; received {inputs['text']!r}.")
        outputs = self._client.call(signature, {**inputs, **self.state})
        # The status comes first: a refused row's state is none to go on from.
        status, message = int(outputs["status"][0]), outputs["message"][0].decode()
        if is_refusal(status):
            raise ValueError(f"The text was refused: {message} (status {status}).")
        if status:
            warnings.warn(f"{message} (status {status}).", RuntimeWarning, stacklevel=3)
        self.state = {name: outputs[name] for name in self.state}
        return outputs


def _writing_inputs(rows, max_new_tokens, *, seed, **drawing) -> dict[str, np.ndarray]:
    """Return the inputs of `generate` and `generate_from` besides texts and state, by name."""
    if seed is None:
        seed = random.SystemRandom().randrange(_SEEDS)
    if is_int(seed):
        require_int("seed", seed, 0, _SEEDS)
        seed = [(int(seed) + row) % _SEEDS for row in range(rows)]
    given = {"max_new_tokens": max_new_tokens, **drawing, "seed": seed}
    return {name: _numbers(name, value, rows) for name, value in given.items()}


def _numbers(name, value, rows):
    """Return an array [rows] for a request; what the numbers may be the server says, by row."""
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
    """Return an array [B, ...] for a request."""
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


def _scores_of(outputs: dict[str, np.ndarray]) -> list[TextScore]:
    """Return the rows of the outputs of `score` or `score_from`."""
    return [
        TextScore(
            outputs["log_probabilities"][row, : outputs["lengths"][row]],
            float(outputs["total_log_probability"][row]),
            int(outputs["token_count"][row]),
            float(outputs["perplexity"][row]),
            *_status_of(outputs, row),
        )
        for row in range(len(outputs["status"]))
    ]


def _written_of(outputs: dict[str, np.ndarray]) -> list[WrittenText]:
    """Return the rows of the outputs of `generate` or `generate_from`."""
    return [
        WrittenText(
            outputs["text"][row].decode("utf-8", "replace"),
            int(outputs["token_count"][row]),
            outputs["finish_reason"][row].decode(),
            *_status_of(outputs, row),
        )
        for row in range(len(outputs["status"]))
    ]


def _status_of(outputs, row):
    return int(outputs["status"][row]), outputs["message"][row].decode()
