"""Requests that a server answers while it loads a model, so that no client waits for a first one.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord of PredictionLog,
before it announces a version; a request that fails keeps the version from being served.
"""

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from fwl_keras.serving.signatures import Signature

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MISSING = (
    "No warm-up requests were written, so the server's first requests will be slow; to have them, "
    'install the extra and export again: `pip install "fwl_keras[serving]"`.'
)

_SAMPLES = {
    "text": b"def main():",
    "token_ids": [0, 1],
    "lengths": 2,
    "max_new_tokens": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": 0,
}


def sample_requests(lm, signatures: Mapping[str, Signature]) -> dict[str, dict[str, np.ndarray]]:
    """Return a small request of one row for every signature; states are fresh.

    Args:
        lm: FWLCausalLM.
        signatures: by name.

    Returns:
        Arrays by input, by signature.
    """
    state = {k: keras.ops.convert_to_numpy(v) for k, v in lm.initial_state(1).items()}
    requests = {}
    for name, signature in signatures.items():
        requests[name] = {
            key: np.asarray(state[key])
            if key in state
            else np.array([_SAMPLES[key]], spec.dtype.as_numpy_dtype)
            for key, spec in signature.inputs.items()
        }
    return requests


def write_requests(
    directory: str | Path, requests: Mapping[str, Mapping[str, np.ndarray]], model_name: str
) -> bool:
    """Write a version's warm-up file.

    Args:
        directory: the version directory.
        requests: arrays by input, by signature.
        model_name: the model's name on the server.

    Returns:
        Whether it was written: False if `tensorflow-serving-api` is not installed.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return False
    file = Path(directory) / FILE
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for name, inputs in requests.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = name
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(_to_proto(value))
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())
    return True


def _to_proto(value):
    if value.size > 1 and (value == value.flat[0]).all():
        # One number stands for all: a fresh state would be as large as the model.
        return tf.make_tensor_proto(value.flat[0], value.dtype, value.shape)
    return tf.make_tensor_proto(value)


def read_requests(directory: str | Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return the requests of a version's warm-up file.

    Args:
        directory: the version directory.

    Returns:
        Pairs of a signature's name and arrays by input, in the file's order.

    Raises:
        ImportError: if `tensorflow-serving-api` is not installed.
        ValueError: if there is no such file.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    file = Path(directory) / FILE
    if not file.is_file():
        raise ValueError(f"{str(file)!r} does not exist; {MISSING}")
    requests = []
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        requests.append((request.model_spec.signature_name, inputs))
    return requests
