"""Parity mode against the published code: outputs and every gradient, within 1e-4."""

import numpy as np
import pytest
from block_helpers import assert_close, differentiated, read
from golden_files import golden_files, golden_gradients, load_block

each_file = pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
each_mode = pytest.mark.parametrize("mode", ["eager", "graph"])


def close(actual, expected, name):
    assert_close(actual, expected, tolerance=1e-4, floor=0.0, name=name)


def inputs_of(arrays):
    return {name: arrays[name] for name in ("x", "labels", "weights")}


@each_mode
@each_file
def test_logits_and_gradients(path, mode):
    block, arrays = load_block(path)
    cotangent = arrays["cotangent"] / arrays["logits"].size
    logits, _, found = differentiated(block, mode)(inputs_of(arrays), cotangent)
    close(logits, arrays["logits"], "logits")
    for name, expected in golden_gradients(arrays).items():
        close(found[name], expected, name)


@each_mode
@each_file
def test_logits_of_one_hot_labels_and_slow_logits(path, mode):
    block, arrays = load_block(path)
    one_hot = np.eye(arrays["logits"].shape[-1], dtype=np.float32)[arrays["labels"]]
    logits = read(block, inputs_of(arrays) | {"labels": one_hot}, mode, return_state=False)
    close(logits, arrays["logits"], "logits, one-hot labels")
    slow = read(block, {"x": arrays["x"]}, mode, return_state=False)
    close(slow, arrays["slow_logits"], "slow_logits")
