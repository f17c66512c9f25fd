"""A conversation with a served model, which adapts to it."""

import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fwl_keras.serving.answers import Score, Written, is_refusal, scores_of, written_of

if TYPE_CHECKING:
    from fwl_keras.serving.client import Client


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
        ValueError: by every method, if the text is refused.

    Example:
        >>> session = client.session()
        >>> session.read(open("manual.txt").read())
        >>> session.generate("To reset the device, ", max_new_tokens=40).text
        >>> session.save("manual.npz")
    """

    def __init__(self, client: "Client", state: dict[str, np.ndarray]):
        self._client = client
        self.state = state

    def read(self, text: str) -> int:
        """Read a text and adapt to it; returns its tokens."""
        outputs = self._call("read", {"text": text})
        return int(outputs["token_count"][0])

    def score(self, text: str) -> Score:
        """As `Client.score`, after what was read before; the text is read, too."""
        return scores_of(self._call("score_from", {"text": text}))[0]

    def generate(
        self,
        prompt: str = "",
        max_new_tokens: int = 64,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.9,
        seed: int | None = None,
    ) -> Written:
        """As `Client.generate`, after what was read before; the session goes on after it.

        Args:
            prompt: may be empty once something was read.
            max_new_tokens: as for `Client.generate`, like all others.
            temperature: likewise.
            top_k: likewise.
            top_p: likewise.
            seed: likewise, an int.
        """
        inputs = self._client.writing_inputs(
            1, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        return written_of(self._call("generate_from", {"text": prompt, **inputs}))[0]

    def save(self, path: str | Path) -> None:
        """Keep the state in a file, `.npz`; `Client.session(path)` goes on from it."""
        path = Path(path)
        handle, beside = tempfile.mkstemp(dir=path.absolute().parent, suffix=".npz")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **self.state)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise

    def _call(self, signature, inputs):
        if not isinstance(inputs["text"], str | bytes):
            raise ValueError(f"a session takes one text; received {inputs['text']!r}.")
        outputs = self._client.call(signature, {**inputs, **self.state})
        # The status comes first: a refused row's state is none to go on from.
        status, message = int(outputs["status"][0]), outputs["message"][0].decode()
        if is_refusal(status):
            raise ValueError(f"the text was refused: {message} (status {status}).")
        if status:
            warnings.warn(f"{message} (status {status}).", RuntimeWarning, stacklevel=3)
        self.state = {name: outputs[name] for name in self.state}
        return outputs
