"""TensorFlow Serving's gRPC interface: states travel as they are, so sessions are faster."""

from collections.abc import Mapping

import numpy as np

from fwl_keras.serving.server import require_server


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
                'gRPC needs tensorflow-serving-api: pip install "fwl_keras[serving]", or use REST.'
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
        """Call a signature; as `RestTransport.call`."""
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
                    f"{self._address} gave no answer ({error.details()}); check the address, and "
                    "that the server runs and is not busy for longer than "
                    f"timeout={self._timeout:g} seconds."
                ) from error
            raise RuntimeError(
                f"{self._address} refused `{signature}` with {code.name}: {error.details()}"
            ) from None
        return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()
