"""Run by test_writing.py in a process of its own: a model's reading and writing under JAX.

python jax_reading.py DIRECTORY, which holds weights and what TensorFlow found with them.
"""

import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
from lm_helpers import assert_same_state, language_model, random_ids
from samplers import Forbidding


def main(directory):
    assert keras.backend.backend() == "jax"
    with np.load(directory / "expected.npz") as file:
        expected = dict(file)
    lm = language_model("gemma")
    lm.load_weights(directory / "lm.weights.h5")
    lm.compile(sampler=keras_hub.samplers.TopKSampler(k=5, temperature=2.0))

    score = lm.score(expected.pop("ids"))
    np.testing.assert_allclose(
        score.log_probabilities, expected.pop("log_probabilities"), atol=1e-4
    )
    prompts = [random_ids(n, seed=n) for n in (3, 7, 5)]
    for use_cache in (True, False):
        written = lm.generate(prompts, 16, stop_token_ids=None, seed=3, use_cache=use_cache)
        np.testing.assert_array_equal(written["token_ids"], expected["written"])
    expected.pop("written")
    assert_same_state(score.state, expected)
    lm.compile(sampler=Forbidding(7, seed=3))
    first, second = (lm.generate(prompts, 16, stop_token_ids=None)["token_ids"] for _ in "ab")
    assert (first != second).any()
    assert not any((row[:, 7:] == 7).any() for row in (first, second))
    lm.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=2))
    assert lm.generate(prompts, 10, stop_token_ids=(1,))["token_ids"].shape == (3, 10)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
