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


def store(path, block, arguments, cotangent):
    """Writes what jax_backend.py is to call."""
    stored = {"config": json.dumps(block.get_config()), "cotangent": cotangent}
    stored["weights_count"] = len(block.weights)
    stored |= {f"weight/{i}": value for i, value in enumerate(block.get_weights())}
    stored |= {name: arguments[name] for name in ("x", "labels", "weights", "x_mask")}
    stored |= {f"state/{name}": value for name, value in (arguments["state"] or {}).items()}
    np.savez(path, **stored)


COARSE = {"inner_loss": "coarse", "codebook_size": 3, "exact_every": 2}
CASES = {"state": {}, "fresh": {}, "coarse": COARSE}


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """By case: a block, a call of it, a cotangent, and what JAX makes of them."""
    path, made = tmp_path_factory.mktemp("jax"), {}
    for case, settings in CASES.items():
        rng = np.random.default_rng(0)
        block = random_block(rng, segment_length=4, chunk_length=3, **settings)
        arguments = random_batch(rng, block, 2, 5, with_state=case != "fresh")
        made[case] = block, arguments, rng.normal(size=(2, 5, 7)).astype(np.float32)
        store(path / f"{case}.npz", *made[case])
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    files = [path / f"{case}{end}.npz" for case in CASES for end in ("", "_out")]
    subprocess.run([sys.executable, SCRIPT, *files], env=environment, check=True)
    for case, call in made.items():
        with np.load(path / f"{case}_out.npz") as file:
            made[case] = *call, {name: file[name] for name in file.files}
    return made


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_jax_agrees_with_tensorflow(calls, case):
    block, arguments, cotangent, found = calls[case]
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
    if case != "fresh":
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
