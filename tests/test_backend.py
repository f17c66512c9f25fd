"""A backend that is not there: one line, for the import as for the command."""

import os
import subprocess
import sys

import pytest

from fwl_keras.backend.import_keras import BackendError, import_keras

# Makes packages unimportable, as if they were not installed.
BLOCK = "import sys; sys.modules.update(dict.fromkeys(sys.argv.pop().split(',')))\n"
IMPORT = BLOCK + "import fwl_keras"
COMMAND = BLOCK + (
    "sys.argv[:] = ['fwl-keras', 'evaluate', 'somewhere']\nfrom fwl_keras.cli import main\nmain()\n"
)

CASES = [
    ("jax", "jax", ["KERAS_BACKEND='jax' cannot be imported", "(tensorflow)", "fwl_keras[jax]"]),
    ("", "tensorflow", ["KERAS_BACKEND is not set", "(jax)", "pip install tensorflow"]),
    ("", "tensorflow,jax", ["install tensorflow with", "install jax with"]),
    ("nonsense", "none_such", ["KERAS_BACKEND='nonsense' is not one that Keras knows"]),
    ("torch", "torch", ["KERAS_BACKEND='torch' cannot be imported", "(tensorflow or jax)"]),
]


def run(code, backend, missing, home):
    environment = {**os.environ, "KERAS_BACKEND": backend, "KERAS_HOME": str(home)}
    # What TensorFlow says about the processor is for whoever asks.
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    words = [sys.executable, "-c", code, missing]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("backend", "missing", "words"), CASES)
def test_a_backend_that_is_not_installed(backend, missing, words, tmp_path):
    done = run(COMMAND, backend, missing, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr
    if backend == "jax":
        line = done.stderr.removeprefix("Error: ").strip()
        imported = run(IMPORT, backend, missing, tmp_path)
        assert imported.returncode == 1
        assert imported.stderr.strip().splitlines()[-1].endswith(f"BackendError: {line}")
        assert imported.stderr.count("Traceback") == 1


def test_a_backend_without_fast_weights_is_refused_at_once(tmp_path):
    done = run(COMMAND, "numpy", "none_such", tmp_path)
    assert done.returncode == 2
    assert "backends tensorflow and jax; Keras uses 'numpy'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_error_is_an_import_error():
    assert issubclass(BackendError, ImportError)
    import_keras()
