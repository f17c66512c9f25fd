"""TensorFlow Serving's REST interface."""

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping

import numpy as np

from fwl_keras.serving.server import require_server


class RestTransport:
    """Sends requests as JSON, in the columnar format.

    Args:
        address: the server, e.g. `"http://localhost:8501"`.
        model: the model's name.
        version: a version; None for the newest.
        timeout: seconds that an answer may take.

    Example:
        >>> RestTransport("http://localhost:8501", "my_lm").call("tokenize", {"text": [b"a b"]})
    """

    def __init__(
        self, address: str, model: str, version: int | None = None, timeout: float = 300.0
    ):
        require_server(address, model, version, timeout)
        which = "" if version is None else f"/versions/{version}"
        self._url = f"{address.rstrip('/')}/v1/models/{model}{which}:predict"
        self._timeout = timeout

    def call(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call a signature.

        Args:
            signature: its name.
            inputs: arrays [B, ...] by name, strings as bytes.

        Returns:
            Arrays [B, ...] by name: float32, int32, bool, and object for strings, as bytes.

        Raises:
            ConnectionError: if there is no answer.
            RuntimeError: if the server refuses the request.
        """
        columns = {name: _to_json(value) for name, value in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
        request = urllib.request.Request(
            self._url, body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(
                f"{self._url} refused `{signature}` with HTTP status {error.code}: "
                f"{_error_of(error.read())}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(
                f"{self._url} gave no answer ({reason}); check the address, and that the server "
                f"runs and is not busy for longer than timeout={self._timeout:g} seconds."
            ) from error
        outputs = json.loads(answer)["outputs"]
        return {name: _from_json(value) for name, value in outputs.items()}


def _to_json(value):
    value = np.asarray(value)
    if value.dtype.kind in "OSU":
        return [_text_to_json(one) for one in value.tolist()]
    return value.tolist()


def _text_to_json(text):
    text = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        # The server shall say what is wrong with it.
        return {"b64": base64.b64encode(text).decode("ascii")}


def _from_json(value):
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, str | dict):
        return np.array([_text_from_json(one) for one in value] + [None], object)[:-1]
    array = np.asarray(value)
    # JSON has one kind of number; a float always comes with a point or an exponent.
    kinds = {"f": np.float32, "i": np.int32}
    return array.astype(kinds.get(array.dtype.kind, array.dtype))


def _text_from_json(text):
    return base64.b64decode(text["b64"]) if isinstance(text, dict) else text.encode("utf-8")


def _error_of(body):
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()
