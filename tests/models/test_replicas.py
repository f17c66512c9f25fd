"""Two replicas on one machine compute what one does: in a process that has two devices."""

import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's"
    ),
]


# Full batches; and a last batch of one row, which leaves a replica without any.
@pytest.mark.parametrize("rows", [8, 5])
def test_replicas_are_one_model(rows):
    script = Path(__file__).with_name("replicas.py")
    done = subprocess.run(
        [sys.executable, script, str(rows)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("equal\n")
