"""KerasHub presets that name what they may not, or read what is outside of them."""

import json
import shutil

import h5py
import keras_hub
import numpy as np
import pytest
from attacks import named, put, was_read
from test_hostile_configs import PAYLOADS
from test_hostile_files import LINKS, tamper

from fwl_keras.models import from_causal_lm, from_preset

WIDTH = 8


def gpt2():
    pieces = {piece: i for i, piece in enumerate([*"abcdefg", "ab", "\u0120", "<|endoftext|>"])}
    tokenizer = keras_hub.models.GPT2Tokenizer(pieces, ["a b"])
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=6)
    backbone = keras_hub.models.GPT2Backbone(10, 1, 2, WIDTH, 16, max_sequence_length=16, dropout=0)
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor)


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Directories of a preset with fast weights, and of one without."""
    directory = tmp_path_factory.mktemp("presets")
    causal_lm = gpt2()
    causal_lm.save_to_preset(str(directory / "plain"))
    lm = from_causal_lm(causal_lm)
    lm({"token_ids": np.ones((1, 4), "int32"), "padding_mask": np.ones((1, 4), "bool")})
    lm.save_to_preset(directory / "fast")
    return directory


@pytest.fixture
def preset(presets, tmp_path):
    """A copy of them to tamper with."""
    return shutil.copytree(presets, tmp_path / "presets")


def tamper_with(path, place, payload):
    path.write_text(json.dumps(put(json.loads(path.read_text()), place, payload)))


def test_the_presets_are_good_without_a_payload(preset):
    for kind in ("fast", "plain"):
        assert from_preset(preset / kind).preprocessor.tokenizer.vocabulary_size() == 10


PLACES = {
    "the block's initialiser": (
        "fast/task.json",
        ("config", "block", "config", "kernel_initializer"),
    ),
    "the block": ("fast/task.json", ("config", "block", "config", "unembedding")),
    "the preprocessor": ("fast/task.json", ("config", "preprocessor")),
    "the body": ("fast/config.json", ("config", "dtype")),
    "a preprocessor's tokeniser": ("fast/preprocessor.json", ("config", "tokenizer")),
    "the tokeniser's dtype": ("fast/tokenizer.json", ("config", "dtype")),
    "a plain body": ("plain/config.json", ("config", "dtype")),
    "a plain task": ("plain/task.json", ("config", "backbone")),
    "a plain tokeniser": ("plain/tokenizer.json", ("config", "dtype")),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "attack",
    ["a module on the path", "a module of this package", "a marshalled lambda", "a shell"],
)
def test_a_preset(attack, place, preset, canary):
    payload, what = PAYLOADS[attack]
    file, keys = PLACES[place]
    tamper_with(preset / file, keys, payload(canary))
    with pytest.raises(ValueError) as caught:
        from_preset(preset / file.partition("/")[0])
    assert what in str(caught.value)
    assert file.partition("/")[2] in str(caught.value)


@pytest.mark.parametrize("kind", ["fast", "plain"])
@pytest.mark.parametrize("argument", ["vocabulary", "merges"])
def test_a_vocabulary_that_is_a_file_elsewhere(argument, kind, preset, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text('{"a": 0}')
    tamper_with(preset / kind / "tokenizer.json", ("config", argument), str(secret))
    with pytest.raises(ValueError, match=r"secret\.json"):
        from_preset(preset / kind)
    assert not was_read(secret)


@pytest.mark.parametrize("attack", LINKS)
def test_weights_of_the_block(attack, preset, tmp_path):
    path = preset / "fast" / "task.weights.h5"
    path.write_bytes(tamper(path, attack, tmp_path / "secret.h5"))
    with pytest.raises(ValueError, match=LINKS[attack][1]):
        from_preset(preset / "fast")


def test_weights_of_the_body(preset, tmp_path):
    """KerasHub reads them, with Keras, which refuses links."""
    path = preset / "fast" / "model.weights.h5"
    path.write_bytes(tamper(path, "a link to another file", tmp_path / "secret.h5"))
    with pytest.raises(ValueError):
        from_preset(preset / "fast")


def test_weights_of_the_body_elsewhere(preset):
    directory = preset / "fast"
    paths = []
    with h5py.File(directory / "model.weights.h5") as file:
        file.visit(lambda name: paths.append(f"/{name}"))
    shutil.copy(directory / "model.weights.h5", directory / "model_00000.weights.h5")
    (directory / "model.weights.h5").rename(preset / "outside.weights.h5")
    shards = {"weight_map": dict.fromkeys(paths, "../outside.weights.h5")}
    (directory / "model.weights.json").write_text(json.dumps(shards))
    with pytest.raises(ValueError, match="Invalid name"):
        from_preset(directory)


def test_a_preprocessor_that_is_a_model(preset):
    """Which would load the same preset again, and again."""
    registered = "fwl_keras>KerasHubFWLCausalLM"
    tamper_with(preset / "fast" / "preprocessor.json", ("registered_name",), registered)
    with pytest.raises(ValueError, match=r"no\s+keras_hub\.models\.Preprocessor"):
        from_preset(preset / "fast")


def test_a_preprocessor_that_nobody_knows(preset):
    registered = "keras_hub>NoSuchPreprocessor"
    tamper_with(preset / "fast" / "preprocessor.json", ("registered_name",), registered)
    with pytest.raises(ValueError, match="NoSuchPreprocessor"):
        from_preset(preset / "fast")


@pytest.mark.parametrize("file", ["config.json", "preprocessor.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content", [{"registered_name": "x"}, {"registered_name": "x", "config": 3}]
)
def test_files_without_an_object(content, file, preset):
    (preset / "fast" / file).write_text(json.dumps({"registered_name": "x", **content}))
    with pytest.raises(ValueError, match=f"has a {file} that holds no configuration"):
        from_preset(preset / "fast")


def test_a_body_that_is_none(preset):
    path = preset / "fast" / "config.json"
    path.write_text(json.dumps(named("keras.layers", "Dense", {"units": 3})))
    with pytest.raises(ValueError, match="Dense"):
        from_preset(preset / "fast")
