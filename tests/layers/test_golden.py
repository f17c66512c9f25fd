"""Parity mode against the published code: outputs and every gradient, within 1e-4."""

import numpy as np
import pytest
from block_helpers import assert_close, gradients_of, read
from golden_files import golden_files, golden_gradients, load_block

each_file = pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
each_mode = pytest.mark.parametrize("mode", ["eager", "graph"])


def close(actual, expected, name):
    assert_close(actual, expected, tolerance=1e-4, floor=0.0, name=name)


def inputs_of(arrays):
    return {name: arrays[name] for name in ("x", "labels", "weights")}


@each_mode
@each_file
def test_logits(path, mode):
    block, arrays = load_block(path)
    logits = read(block, inputs_of(arrays), mode, return_state=False)
    close(logits, arrays["logits"], "logits")
    one_hot = np.eye(logits.shape[-1], dtype=np.float32)[arrays["labels"]]
    logits = read(block, inputs_of(arrays) | {"labels": one_hot}, mode, return_state=False)
    close(logits, arrays["logits"], "logits, one-hot labels")


@each_mode
@each_file
def test_slow_logits(path, mode):
    block, arrays = load_block(path)
    slow = read(block, {"x": arrays["x"]}, mode, return_state=False)
    close(slow, arrays["slow_logits"], "slow_logits")


@each_mode
@each_file
def test_gradients(path, mode):
    block, arrays = load_block(path)
    cotangent = arrays["cotangent"] / arrays["logits"].size
    found = gradients_of(block, inputs_of(arrays), cotangent, mode=mode)
    for name, expected in golden_gradients(arrays).items():
        close(found[name], expected, name)
