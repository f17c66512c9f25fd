"""What an export says of itself, and what an operator may choose."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from served_models import CONTEXT, OPTIONS, SIGNATURES, TEXTS, Served, served_model

from fwl_keras import FWLCausalLM
from fwl_keras.models import TextPreprocessor
from fwl_keras.serving import export
from fwl_keras.serving.options import ServingOptions


@pytest.fixture
def few_signatures(exported, monkeypatch):
    """Exports of one signature, which take a tenth of the time."""
    # Not of the one that others use.
    exported()
    whole = export.Signatures.all
    monkeypatch.setattr(export.Signatures, "all", lambda self: {"score": whole(self)["score"]})


def test_what_an_export_says_of_itself(exported, served, models):
    about = json.loads((exported() / "fwl_keras.json").read_text())
    assert about["corpus"] == "tests"
    assert about["parameters"] == sum(int(np.prod(w.shape)) for w in models().weights)
    assert about["context_length"] == CONTEXT
    assert about["weights_dtype"] == "float32"
    assert about["caps"] == {"max_tokens": 96, "max_bytes": 32 * 96, "max_new_tokens": 40}
    assert about["versions"]["tensorflow"] == tf.__version__
    assert about["versions"]["keras"] == keras.__version__

    described = json.loads((exported() / "signatures.json").read_text())
    assert set(described) == {*SIGNATURES, "serving_default"}
    sizes = {
        key: int(np.prod(one["shape"][1:])) * tf.as_dtype(one["dtype"]).size
        for key, one in described["read"]["inputs"].items()
        if key != "text"
    }
    assert about["state_bytes_per_row"] == sum(sizes.values())
    state = served().fresh_state(3)
    assert sum(value.nbytes for value in state.values()) == 3 * sum(sizes.values())
    for name in ("read", "score_from", "generate_from"):
        assert sizes.keys() < described[name]["inputs"].keys()
        assert sizes.keys() < described[name]["outputs"].keys()


def test_only_whole_versions_are_left(exported):
    names = [one.name for one in exported().parent.iterdir()]
    assert names == ["1"]
    # A server that runs as somebody else may read it.
    assert exported().stat().st_mode & 0o555 == 0o555


def stored_bytes(path):
    """Bytes of a SavedModel's numbers, without those that say what is what."""
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    dtypes = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    return sum(
        int(np.prod(shapes[name])) * dtype.size
        for name, dtype in dtypes.items()
        if dtype != tf.string
    )


def test_weights_are_stored_once(exported, models):
    # Metrics are no part of what is served.
    assert stored_bytes(exported()) <= 4 * models().count_params()


@pytest.mark.slow
def test_half_as_many_bytes(few_signatures, exported, tmp_path):
    lm = served_model("recurrent")
    path = export.export_model(lm, tmp_path / "1", dataclasses.replace(OPTIONS, dtype="bfloat16"))
    about = json.loads((path / "fwl_keras.json").read_text())
    assert about["weights_dtype"] == "bfloat16"
    assert stored_bytes(path) < 0.51 * stored_bytes(exported())
    # The model itself is as it was, and computes as the served one with rounded weights.
    found = Served(tf.saved_model.load(str(path)))("score", text=TEXTS)
    whole = lm.score(TEXTS[-1:])
    for variable in lm.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(tf.cast(tf.cast(variable.value, "bfloat16"), variable.dtype))
    rounded = lm.score(TEXTS[-1:])
    length = found["lengths"][-1]
    answer = found["log_probabilities"][-1][:length]
    np.testing.assert_allclose(answer, rounded.log_probabilities[0][1:], atol=1e-4)
    difference = np.abs(answer - whole.log_probabilities[0][1:])
    assert 1e-4 < difference.max() < 0.5


@pytest.mark.parametrize("name", ["latest", "v1", "1.5", "-1", ".writing-1", "²"])
def test_a_version_is_a_number(models, tmp_path, name):
    with pytest.raises(ValueError, match="must end in a version, a number"):
        export.export_model(models(), tmp_path / name, OPTIONS)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.touch()])
def test_a_version_is_never_written_twice(models, tmp_path, make):
    make(tmp_path / "3")
    with pytest.raises(ValueError, match=r"exists already.*'.*4'"):
        export.export_model(models(), tmp_path / "3", OPTIONS)
    assert [one.name for one in tmp_path.iterdir()] == ["3"]


class _OtherTokenizer:
    bos_id = eos_id = pad_token_id = 0


@pytest.mark.parametrize(
    "preprocessor", [None, TextPreprocessor(_OtherTokenizer())], ids=["none", "no SentencePiece"]
)
def test_a_model_that_cannot_take_text(models, tmp_path, preprocessor):
    lm = models()
    other = FWLCausalLM(lm.backbone, lm.block, preprocessor=preprocessor, context_length=CONTEXT)
    with pytest.raises(ValueError, match="needs a `preprocessor` with a SentencePiece tokeniser"):
        export.export_model(other, tmp_path / "1", OPTIONS)
    assert not any(tmp_path.iterdir())


def test_a_failed_export_leaves_nothing(few_signatures, models, tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(KeyboardInterrupt):
        export.export_model(models(), tmp_path / "1", OPTIONS)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"max_new_tokens": -1},
        {"max_new_tokens": True},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_options_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        ServingOptions(**wrong)
