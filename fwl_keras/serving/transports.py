"""TensorFlow Serving's two interfaces, REST and gRPC."""

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from fwl_keras._arguments import require_int, require_positive


class Transport(Protocol):
    """What sends a client's requests to a model."""

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
        ...


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
        """Call a signature; see `Transport.call`."""
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
            raise ConnectionError(
                _no_answer(self._url, getattr(error, "reason", error), self._timeout)
            ) from error
        outputs = json.loads(answer)["outputs"]
        return {name: _from_json(value) for name, value in outputs.items()}


class GrpcTransport:
    """Sends requests as protocol buffers. Needs `pip install "fwl_keras[serving]"`.

    Args:
        address: host and port of the server, e.g. `"localhost:8500"`.
        model: the model's name.
        version: a version; None for the newest.
        timeout: seconds that an answer may take.
        credentials: `grpc.ChannelCredentials`, or None for no encryption.

    Raises:
        ImportError: if `tensorflow-serving-api` is not installed.

    Example:
        >>> GrpcTransport("localhost:8500", "my_lm").call("tokenize", {"text": np.array([b"a b"])})
    """

    def __init__(
        self,
        address: str,
        model: str,
        version: int | None = None,
        timeout: float = 300.0,
        credentials=None,
    ):
        require_server(address, model, version, timeout)
        try:
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc
        except ImportError as error:
            raise ImportError(
                'To use gRPC, install tensorflow-serving-api: `pip install "fwl_keras[serving]"`. '
                "REST does without."
            ) from error
        # gRPC's own limit, 4 MiB, is below a few rows of state.
        sizes = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        settings = [(size, -1) for size in sizes]
        if credentials is None:
            self._channel = grpc.insecure_channel(address, settings)
        else:
            self._channel = grpc.secure_channel(address, credentials, settings)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._address = address
        self._model = model
        self._version = version
        self._timeout = timeout

    def call(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call a signature; see `Transport.call`."""
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature
        if self._version is not None:
            request.model_spec.version.value = self._version
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        try:
            response = self._stub.Predict(request, timeout=self._timeout)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ConnectionError(
                    _no_answer(self._address, error.details(), self._timeout)
                ) from error
            raise RuntimeError(
                f"{self._address} refused `{signature}` with {code.name}: {error.details()}"
            ) from None
        return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


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


def _no_answer(address: str, reason: object, timeout: float) -> str:
    return (
        f"{address} gave no answer ({reason}); check the address, and that the server runs and is "
        f"not busy for longer than `timeout`={timeout:g} seconds."
    )


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
