"""Archives, weights, run directories and presets that reach for what is outside of them."""

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from attacks import marshalled, named, put, serialized, small_model, was_read, write_archive
from test_hostile_configs import PAYLOADS, PLACES

from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.inference.texts import TextPreprocessor
from fwl_keras.runs import RunConfig
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.train import begin_with, restore


@pytest.fixture
def run(tmp_path):
    """A directory that looks like a finished run's, without a model."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.json").write_text(RunConfig().to_json())
    return RunDirectory(directory)


# ----------------------------------------------------------------------------------- weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A compiled model, its weights file, and its `.keras` file."""
    directory = tmp_path_factory.mktemp("trained")
    lm = small_model()
    lm.compile("sgd")
    lm.optimizer.build(lm.trainable_variables)
    lm.save_weights(directory / "lm.weights.h5")
    lm.save(directory / "lm.keras")
    return lm, directory


def first_dataset(file):
    names = []
    file.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None)
    return next(name for name in sorted(names) if file[name].ndim == 2)


def link_elsewhere(file, name, secret):
    file[name] = h5py.ExternalLink(str(secret), "secret")


def link_the_group(file, name, secret):
    group = name.rpartition("/")[0]
    del file[group]
    file[group] = h5py.ExternalLink(str(secret), "/")


def link_within(file, name, secret):
    file["copy"] = np.zeros((2, 2), "float32")
    file[name] = h5py.SoftLink("/copy")


def store_elsewhere(file, name, secret):
    shape = file["shape"][()]
    file.create_dataset(
        name, shape, "float32", external=[(str(secret), 0, int(np.prod(shape)) * 4)]
    )


def gather_from_elsewhere(file, name, secret):
    shape = tuple(file["shape"][()])
    layout = h5py.VirtualLayout(shape, "float32")
    layout[:] = h5py.VirtualSource(str(secret), "secret", shape)
    file.create_virtual_dataset(name, layout)


def claim_a_huge_shape(file, name, secret):
    file.create_dataset(name, (1 << 20, 1 << 20), "float32", chunks=(1024, 1024))


LINKS = {
    "a link to another file": (link_elsewhere, "ExternalLink"),
    "a group of another file": (link_the_group, "ExternalLink"),
    "a link within": (link_within, "SoftLink"),
    "raw bytes of another file": (store_elsewhere, "an external dataset"),
    "a view of another file": (gather_from_elsewhere, "a virtual dataset"),
    "terabytes of nothing": (claim_a_huge_shape, "4,398,046,511,104 bytes, of which 0 are stored"),
}


def tamper(source, attack, secret):
    """Bytes of a weights file with one matrix replaced."""
    content = io.BytesIO(Path(source).read_bytes() if isinstance(source, Path) else source)
    with h5py.File(content, "a") as file:
        name = first_dataset(file)
        file["shape"] = file[name].shape
        with h5py.File(secret, "w") as other:
            other["secret"] = np.full(file[name].shape, 7, "float32")
        del file[name]
        LINKS[attack][0](file, name, secret)
    return content.getvalue()


def values(lm):
    return [np.array(v) for v in lm.block.trainable_variables]


@pytest.mark.parametrize("attack", LINKS)
def test_a_checkpoint(attack, trained, run, tmp_path):
    lm, directory = trained
    run.checkpoint.write_bytes(tamper(directory / "lm.weights.h5", attack, tmp_path / "secret.h5"))
    with pytest.raises(ValueError, match=LINKS[attack][1]):
        restore(run, lm)
    assert not any((value == 7).all() for value in values(lm))


@pytest.mark.parametrize("attack", LINKS)
def test_weights_of_a_finished_run(attack, trained, run, tmp_path):
    _, directory = trained
    with zipfile.ZipFile(directory / "lm.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = tamper(members["model.weights.h5"], attack, tmp_path / "secret.h5")
    with zipfile.ZipFile(run.model, "w") as archive:
        for name, content in {**members, "model.weights.h5": weights}.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=LINKS[attack][1]):
        load_run_model(run.path)


def test_weights_in_several_files_elsewhere(trained, tmp_path):
    """A list of shards that leads out of the preset's directory."""
    lm, directory = trained
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(directory / "lm.weights.h5", tmp_path / "outside.weights.h5")
    shutil.copy(directory / "lm.weights.h5", inside / "model_00000.weights.h5")
    paths = []
    with h5py.File(directory / "lm.weights.h5") as file:
        file.visit(lambda name: paths.append(f"/{name}"))
    shards = dict.fromkeys(paths, "../outside.weights.h5")
    (inside / "model.weights.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ValueError, match="Invalid name"):
        lm.load_weights(inside / "model.weights.json")


# ---------------------------------------------------------------------------------- archives


@pytest.mark.parametrize(
    "name", ["../canary", "assets/../../canary", "/tmp/fwl_canary", "assets\\..\\..\\canary"]
)
def test_a_member_that_would_be_unpacked_elsewhere(name, trained, run, tmp_path):
    _, directory = trained
    shutil.copy(directory / "lm.keras", run.model)
    with zipfile.ZipFile(run.model, "a") as archive:
        # Keras unpacks what has assets.
        archive.writestr("assets/a.txt", "a")
        archive.writestr(name, "ran")
    with pytest.raises(ValueError, match="unpacked elsewhere"):
        load_run_model(run.path)


def test_a_link_in_an_archive(trained, run, tmp_path):
    """What follows it would be written, or read, behind it: Keras makes a plain file of it."""
    _, directory = trained
    shutil.copy(directory / "lm.keras", run.model)
    outside = tmp_path / "outside"
    outside.mkdir()
    with zipfile.ZipFile(run.model, "a") as archive:
        link = zipfile.ZipInfo("assets")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(outside))
        archive.writestr("assets/canary", "ran")
    with pytest.raises((ValueError, OSError)):
        load_run_model(run.path)
    assert not any(outside.iterdir())


# ------------------------------------------------------------------------------------- runs


def test_a_run_whose_model_is_hostile(recurrent, trained, run, canary):
    for payload, what in PAYLOADS.values():
        write_archive(run.model, put(recurrent, PLACES["the body's layers"], payload(canary)))
        with pytest.raises(ValueError) as caught:
            load_run_model(run.path)
        assert what in str(caught.value)
        assert "model.keras" in str(caught.value)
        assert not canary.exists()
    with pytest.raises(ValueError, match="initial_model"):
        begin_with(trained[0], run.path)


OTHERS = {
    "another model": (lambda canary: lambda_model(canary), "has a 'Sequential', not one of"),
    "no object": (lambda canary: ["FWLCausalLM"], "has a None, not one of"),
    "no JSON": (lambda canary: "{", "cannot be read"),
    "too deep": (lambda canary: "[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "a part alone": (
        lambda canary: {**named("x", "FWLBlock"), "registered_name": "fwl_keras>FWLBlock"},
        "has a 'fwl_keras>FWLBlock', not one of",
    ),
}


def lambda_model(canary):
    layer = named("keras.layers", "Lambda", {"function": marshalled(canary)})
    config = {"name": "s", "layers": [layer], "build_input_shape": [1]}
    return {**named("keras", "Sequential", config), "registered_name": "Sequential"}


@pytest.mark.parametrize("what", OTHERS)
def test_a_run_whose_model_is_another(what, run, canary):
    make, message = OTHERS[what]
    write_archive(run.model, make(canary))
    with pytest.raises(ValueError, match=message):
        load_run_model(run.path)


def test_a_run_whose_model_is_no_archive(run):
    run.model.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="cannot be read"):
        load_run_model(run.path)
    run.model.unlink()
    run.model.mkdir()  # Keras would take a directory, too.
    (run.model / "config.json").write_text(json.dumps(serialized(small_model())))
    with pytest.raises(ValueError, match="is not a file"):
        load_run_model(run.path)


def test_a_config_that_would_fill_the_memory(run):
    with zipfile.ZipFile(run.model, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (257 << 20), compresslevel=1)
    assert run.model.stat().st_size < 1 << 21
    with pytest.raises(ValueError, match=r"longer than 268,435,456 bytes"):
        load_run_model(run.path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"/etc/passwd", b"\xff" * 1000])
def test_a_tokeniser_that_is_none(content, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="proto"):
        SentencePieceTokenizer.load(path)


@pytest.mark.parametrize("value", ["/etc/passwd", None, 3, ["a"], "", {"class_name": "x"}])
def test_a_preprocessor_without_a_tokeniser(value):
    with pytest.raises(ValueError, match=r"`tokenizer`|proto|`config`"):
        TextPreprocessor.from_config({"tokenizer": value})


def test_a_tokeniser_that_is_a_path(tmp_path):
    secret = tmp_path / "secret.model"
    secret.write_bytes(b"secret")
    with pytest.raises(ValueError):
        TextPreprocessor.from_config({"tokenizer": str(secret)})
    assert not was_read(secret)


HOSTILE_TOKENIZER = """
import struct, sys
sys.argv = ["fwl-keras"]  # without Keras, which is not needed
from fwl_keras.data.sentencepiece_tokenizer import SentencePieceTokenizer

def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data

proto = SentencePieceTokenizer.train(["some text " * 50], 300).proto
offsets = struct.pack("<I", 0x7FFFFFFF) * int(sys.stdin.readline())
charsmap = field(3, field(2, struct.pack("<I", len(offsets)) + offsets + b"a" + bytes(1)))
long_piece = field(1, field(1, b"a" * 5_000_000) + bytes([0x15]) + struct.pack("<f", -1.0))
for hostile in (charsmap, long_piece):
    try:
        SentencePieceTokenizer(proto + hostile).encode("some text \\u00e9 \\x01")
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize("offsets", [2, 256, 1024])
def test_a_tokeniser_that_would_crash(offsets):
    """A normaliser's table that points outside of itself, and a piece that exhausts the stack."""
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE_TOKENIZER],
        input=str(offsets),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is not a SentencePiece model") == 2
