"""Without TensorFlow installed: a process in which it cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}


@pytest.mark.slow
def test_train_score_write_and_save_without_tensorflow(tmp_path):
    script = Path(__file__).with_name("bare.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["numpy"])
def test_another_backend_is_a_clear_error(backend):
    script = "import fwl_keras; fwl_keras.FWLBlock(4, 8)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**ENVIRONMENT, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert f"Fast weights run on the backends tensorflow and jax; Keras uses '{backend}'" in (
        done.stderr
    )
