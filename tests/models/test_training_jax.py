"""Training, evaluation and scoring on JAX against TensorFlow, from the same weights file."""

import os
import subprocess
import sys
from pathlib import Path

import jax_training
import keras
import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with TensorFlow")
def test_the_same_numbers_on_jax(tmp_path):
    weights, output = tmp_path / "lm.weights.h5", tmp_path / "found.npz"
    jax_training.model().save_weights(weights)
    expected = jax_training.results(weights)
    done = subprocess.run(
        [sys.executable, Path(jax_training.__file__), weights, output],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with np.load(output) as found:
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    # That is much less than what training does.
    for name in ("SGD", "Adam"):
        assert abs(expected[f"{name}/2/loss"] - expected[f"{name}/0/loss"]) > 1e-2
    assert abs(expected["evaluate/adaptation_gain"]) > 1e-3
