"""A run trained on JAX goes on with TensorFlow."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from run_helpers import as_options, tiny_config, write_book

from fwl_keras.runs.evaluate import evaluate_run
from fwl_keras.runs.load import load_run_model

TEXT = 'def main():\n    print("hello")\n'
# Under its own name the command imports Keras when it knows what for.
MAIN = "import sys; sys.argv[0] = 'fwl-keras'; from fwl_keras.cli import main; main()"
# One process for both: most of its time it imports.
TRAIN_AND_SCORE = """
import sys

run, scores, text, *words = sys.argv[1:]
sys.argv = ["fwl-keras", *words]
from fwl_keras.cli import main

try:
    main()
except SystemExit as end:
    assert not end.code, end.code

import numpy as np
from fwl_keras.runs.evaluate import evaluate_run
from fwl_keras.runs.load import load_run_model

evaluate_run(run, stream=True)
score = load_run_model(run).score([text])
np.savez(scores, **score._asdict() | {"state": 0})
"""


def run_on_jax(*words):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [str(word) for word in words]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.eager
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="loads on TensorFlow")
def test_trained_on_jax_scored_and_exported_on_tensorflow(tmp_path):
    import tensorflow as tf

    run, models, scores = (tmp_path / name for name in ("run", "models", "scores.npz"))
    config = tiny_config(write_book(tmp_path), steps=6, interval=3)
    words = ["train", config.corpus, "--to", run, *as_options(config)]
    run_on_jax(sys.executable, "-c", TRAIN_AND_SCORE, run, scores, TEXT, *words)
    assert list((run / "tensorboard").rglob("events*"))
    on_jax = json.loads((run / "evaluation.json").read_text())

    on_tensorflow = evaluate_run(run, stream=True)
    for name, value in on_tensorflow.pop("carried").items():
        assert on_jax["carried"][name] == pytest.approx(value, rel=1e-4), name
    for name, value in on_tensorflow.items():
        if isinstance(value, float):
            assert on_jax[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    score = load_run_model(run).score([TEXT])
    with np.load(scores) as found:
        for name in ("log_probabilities", "perplexity"):
            np.testing.assert_allclose(found[name], getattr(score, name), rtol=1e-4, atol=1e-4)

    # The command takes TensorFlow, whatever the shell says.
    run_on_jax(sys.executable, "-c", MAIN, "export", run, "--to", models)
    served = tf.saved_model.load(str(models / "1")).signatures["score"](text=tf.constant([TEXT]))
    (perplexity,) = score.perplexity
    assert float(served["perplexity"][0]) == pytest.approx(perplexity, rel=1e-3)
