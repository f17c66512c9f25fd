"""The same block under the JAX backend: same outputs, same gradients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from block_helpers import arrays, assert_close, random_batch, random_block, read, tensors

SCRIPT = Path(__file__).with_name("jax_backend.py")
ROOT = SCRIPT.parents[2]


def under_jax(path, block, arguments, cotangent):
    """What jax_backend.py says about this block and this call."""
    stored = {"config": json.dumps(block.get_config()), "cotangent": cotangent}
    stored["weights_count"] = len(block.weights)
    stored |= {f"weight/{i}": value for i, value in enumerate(block.get_weights())}
    stored |= {name: arguments[name] for name in ("x", "labels", "weights", "x_mask")}
    stored |= {f"state/{name}": value for name, value in (arguments["state"] or {}).items()}
    np.savez(path / "in.npz", **stored)
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    subprocess.run(
        [sys.executable, SCRIPT, path / "in.npz", path / "out.npz"], env=environment, check=True
    )
    with np.load(path / "out.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.slow
@pytest.mark.parametrize("with_state", [True, False])
def test_jax_agrees_with_tensorflow(tmp_path, with_state):
    rng = np.random.default_rng(0)
    block = random_block(rng, segment_length=4, chunk_length=3)
    arguments = random_batch(rng, block, 2, 7, with_state=with_state)
    cotangent = rng.normal(size=(2, 7, 7)).astype(np.float32)
    found = under_jax(tmp_path, block, arguments, cotangent)

    logits, state = read(block, arguments)
    for name in ("logits", "eager"):
        assert_close(found[name], logits, name=name)
    for name, value in state.items():
        assert_close(found[f"state/{name}"], value, name=name)
    unlabelled = arguments | {"labels": None, "weights": None}
    assert_close(found["unlabelled"], read(block, unlabelled)[0])
    first = {n: a if n == "state" else a[:, :1] for n, a in arguments.items()}
    assert_close(found["token"], read(block, first)[0])

    given = tensors(arguments)
    sources = {str(i): v.value for i, v in enumerate(block.trainable_variables)}
    sources["x"] = given["x"]
    if with_state:
        sources |= {f"state/{n}": s for n, s in given["state"].items() if n != "position"}
    with tf.GradientTape() as tape:
        tape.watch(sources)
        logits, last = block(**given, return_state=True)
        total = tf.reduce_sum(logits * cotangent)
        for name, value in last.items():
            if name != "position":
                total += tf.reduce_sum(tf.square(value))
    expected = arrays(tape.gradient(total, sources, unconnected_gradients="zero"))
    actual = {n.removeprefix("gradient/"): a for n, a in found.items() if n.startswith("gradient/")}
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_close(actual[name], value, 1e-3, name=name)
