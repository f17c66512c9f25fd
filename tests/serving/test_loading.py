"""Exports load and answer where nothing of the package is installed."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from served_models import SIGNATURES, TEXTS

HERE = Path(__file__).parent

# Run before a program: a module of the package, or of KerasHub, cannot be imported.
GUARD = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fwl_keras", "keras_hub"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
"""


def run_guarded(code, *arguments):
    """Run a program in a process that has TensorFlow and TensorFlow Text only."""
    command = [sys.executable, "-I", "-c", GUARD + code, *map(str, arguments)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    assert result.returncode == 0, result.stderr[-2000:] + result.stdout[-2000:]
    return result.stdout


def test_the_guard_guards():
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        run_guarded("import fwl_keras.serving.client")


@pytest.mark.slow
def test_the_c_runtime_gives_the_same_answers(exported, served, tmp_path):
    """What TensorFlow Serving is built on, without any Python of TensorFlow's."""
    path, served = exported(), served()
    texts = {"text": TEXTS}
    ids = served("tokenize", **texts)
    ids = {key: ids[key] for key in ("token_ids", "lengths")}
    state = served.read(TEXTS)
    rows = len(TEXTS)
    writing = {
        "max_new_tokens": [5] * rows,
        "temperature": [1.0] * rows,
        "top_k": [0] * rows,
        "top_p": [0.9] * rows,
        "seed": list(range(rows)),
    }
    asked = {
        "score": texts,
        "detokenize": ids,
        "generate_from": {**texts, **writing, **state},
    }
    tensors = {}
    for name, signature in signature_defs(path).items():
        inputs = {key: one.name for key, one in signature.inputs.items()}
        tensors[name] = inputs, {key: one.name for key, one in signature.outputs.items()}
        for key, one in signature.inputs.items():
            if name in asked:
                dtype = tf.as_dtype(one.dtype)
                value = asked[name][key]
                if dtype == tf.string:
                    value = np.array([text.encode() for text in value], object)
                asked[name] = {**asked[name], key: np.asarray(value, dtype.as_numpy_dtype)}
    place = tmp_path / "asked"
    place.write_bytes(pickle.dumps((asked, {name: tensors[name] for name in asked})))
    code = """
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from verify import run_in_c
run_in_c(Path(sys.argv[2]), Path(sys.argv[3]), bytes.fromhex(sys.argv[4]))
"""
    # The graphs as they are, as in this process: to the bit only the same graph gives the same.
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    run_guarded(code, HERE, path, place, config.SerializeToString().hex())
    answers = pickle.loads(place.read_bytes())
    for name, inputs in asked.items():
        expected = served(name, **inputs)
        assert set(answers[name]) == set(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(answers[name][key], value, err_msg=key)


def signature_defs(path):
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString((path / "saved_model.pb").read_bytes())
    (graph,) = model.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    found = dict(graph.signature_def)
    found.pop("__saved_model_init_op")
    return found


@pytest.mark.slow
def test_a_state_goes_on_in_another_process(exported, served, tmp_path):
    path, served = exported(), served()
    state = served.read(TEXTS)
    np.savez(tmp_path / "state.npz", **state)
    code = """
import numpy as np, tensorflow as tf, tensorflow_text
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
model = tf.saved_model.load(sys.argv[1])
def ask(name, **inputs):
    inputs = {key: tf.constant(value) for key, value in inputs.items()}
    return {key: value.numpy() for key, value in model.signatures[name](**inputs).items()}
texts = sys.argv[4:]
state = dict(np.load(sys.argv[2]))
answers = ask("score_from", text=texts[::-1], **state)
fresh = ask("initial_state", text=texts)
again = ask("read", text=texts, **{key: fresh[key] for key in state})
answers = {f"score_from/{key}": value for key, value in answers.items() if key != "message"}
again = {f"read/{key}": value for key, value in again.items() if key in state}
np.savez(sys.argv[3], **answers, **again)
"""
    run_guarded(code, path, tmp_path / "state.npz", tmp_path / "answers.npz", *TEXTS)
    found = np.load(tmp_path / "answers.npz")
    expected = served("score_from", text=TEXTS[::-1], state=state)
    del expected["message"]
    expected = {f"score_from/{key}": value for key, value in expected.items()}
    expected |= {f"read/{key}": value for key, value in state.items()}
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma"])
def test_every_way_to_load_it_gives_the_same_answers(exported, kind, served, tmp_path):
    code = """
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    results = tmp_path / "results.json"
    output = run_guarded(code, HERE / "verify.py", exported(kind), "--json", results)
    assert "own packages: none" in output
    results = json.loads(results.read_text())
    assert results["fine"]
    loaders = [(one["loader"], one["signatures"]) for one in results["loaders"]]
    assert loaders == [
        ("tf.saved_model.load", len(SIGNATURES) + 1),
        ("TensorFlow 1 session", len(SIGNATURES) + 1),
        ("C runtime", len(SIGNATURES) + 1),
        ("saved_model_cli", 1),
    ]
    # Beside TensorFlow's own, those of TensorFlow Text that TensorFlow Serving has built in.
    assert results["foreign_operations"] == [
        "SentencepieceDetokenizeOp",
        "SentencepieceOp",
        "SentencepieceTokenizeOp",
    ]


def test_requests_of_a_server_fit_what_the_model_says_of_itself(exported, served):
    """Real protos, made from `signatures.json` alone, name what the signatures take."""
    predict = pytest.importorskip(
        "tensorflow_serving.apis.predict_pb2", reason="tensorflow-serving-api is not installed"
    )
    described = json.loads((exported() / "signatures.json").read_text())
    definitions = signature_defs(exported())
    assert set(described) == set(definitions) == {*SIGNATURES, "serving_default"}
    same_as = described["serving_default"].pop("same_as")
    described["serving_default"] = described[same_as]
    for name, signature in described.items():
        definition = definitions[name]
        for side, infos in (("inputs", definition.inputs), ("outputs", definition.outputs)):
            said = {
                key: (tf.as_dtype(one["dtype"]), one["shape"])
                for key, one in signature[side].items()
            }
            assert said == {
                key: (tf.as_dtype(one.dtype), [dim.size for dim in one.tensor_shape.dim])
                for key, one in infos.items()
            }, name
            assert all(shape[0] == -1 for _, shape in said.values()), name
        request = predict.PredictRequest()
        request.model_spec.name = "lm"
        request.model_spec.signature_name = name
        for key, one in signature["inputs"].items():
            shape = [3 if size == -1 else size for size in one["shape"]]
            dtype = tf.as_dtype(one["dtype"])
            value = tf.fill(shape, "text") if dtype == tf.string else tf.ones(shape, dtype)
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        request = predict.PredictRequest.FromString(request.SerializeToString())
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        outputs = served()(name, **inputs)
        assert outputs["status"].tolist() == [0, 0, 0], (name, outputs["message"])
        assert set(outputs) == set(signature["outputs"])
        for key, value in outputs.items():
            said = signature["outputs"][key]
            assert tf.as_dtype(said["dtype"]) == tf.as_dtype(value.dtype), key
            assert len(said["shape"]) == value.ndim, key
