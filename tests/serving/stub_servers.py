"""TensorFlow Serving's interfaces in this process, answered by a SavedModel."""

import base64
import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import tensorflow as tf


class Refused(Exception):
    pass


class Servable:
    def __init__(self, directory, model):
        self.name = directory.parent.name
        self.version = directory.name
        self.model = model

    def specs(self, signature):
        if signature not in self.model.signatures:
            raise Refused(f'Serving signature name: "{signature}" not found in signature def')
        return self.model.signatures[signature].structured_input_signature[1]

    def run(self, signature, inputs):
        try:
            outputs = self.model.signatures[signature](**inputs)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise Refused(str(error)) from error
        return {name: value.numpy() for name, value in outputs.items()}


def answer_rest(servable, path, body):
    """What tensorflow_serving/util/json_tensor.cc does with a predict request."""
    if path not in (
        f"/v1/models/{servable.name}:predict",
        f"/v1/models/{servable.name}/versions/{servable.version}:predict",
    ):
        raise Refused(f"Servable not found for request: {path}")
    request = json.loads(body)
    signature = request.get("signature_name", "serving_default")
    specs = servable.specs(signature)
    rows = request.get("instances")
    if rows is not None:
        if not isinstance(rows[0], dict) or set(rows[0]) == {"b64"}:
            (name,) = specs
            rows = [{name: row} for row in rows]
        columns = {name: [row[name] for row in rows] for name in specs}
    else:
        columns = request["inputs"]
        if not isinstance(columns, dict):
            (name,) = specs
            columns = {name: columns}
    missing = sorted(set(specs) - set(columns))
    if missing:
        raise Refused(f"Missing named input: {missing[0]} in 'inputs' object.")
    inputs = {name: _tensor(columns[name], spec) for name, spec in specs.items()}
    outputs = {k: _values(k, v) for k, v in servable.run(signature, inputs).items()}
    if rows is None:
        return {"outputs": outputs}
    count = len(rows)
    return {"predictions": [{k: v[i] for k, v in outputs.items()} for i in range(count)]}


def _tensor(values, spec):
    if spec.dtype == tf.string:
        values = [
            base64.b64decode(one["b64"]) if isinstance(one, dict) else one.encode()
            for one in values
        ]
        return tf.constant(values, tf.string)
    array = np.array(values)
    allowed = {"f": "fi", "i": "i", "b": "b"}[np.dtype(spec.dtype.as_numpy_dtype).kind]
    if array.size and array.dtype.kind not in allowed:
        raise Refused(f"JSON Value: {values} is not of expected type: {spec.dtype.name}")
    return tf.constant(array, spec.dtype)


def _values(name, array):
    if array.dtype.kind == "f":
        # As many digits as the server writes.
        flat = [float(f"{one:.9g}") for one in array.ravel().tolist()]
        return np.array(flat).reshape(array.shape).tolist()
    if array.dtype.kind == "O":
        texts = array.tolist()
        if name.endswith("_bytes"):
            return [{"b64": base64.b64encode(one).decode()} for one in texts]
        return [one.decode() for one in texts]
    return array.tolist()


@contextlib.contextmanager
def rest_stub(servable):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                status, answer = 200, answer_rest(servable, self.path, body)
            except Refused as error:
                status, answer = 400, {"error": str(error)}
            answer = json.dumps(answer, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def grpc_stub(servable):
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            try:
                if request.model_spec.name != servable.name:
                    raise Refused("Servable not found for request")
                signature = request.model_spec.signature_name
                specs = servable.specs(signature)
                if set(specs) != set(request.inputs):
                    raise Refused("input size does not match signature")
                values = {name: request.inputs[name] for name in specs}
                inputs = {n: tf.constant(tf.make_ndarray(v)) for n, v in values.items()}
                outputs = servable.run(signature, inputs)
            except Refused as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            response = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(4), options=limits)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)
