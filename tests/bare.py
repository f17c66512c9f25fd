"""Run by test_bare.py in a process of its own: everything that needs no TensorFlow, without it.

python bare.py DIRECTORY
"""

# ruff: noqa: E402

import importlib
import importlib.abc
import sys
from pathlib import Path

MISSING = ("tensorflow", "tensorflow_text", "tensorboard", "tf_keras")


class Missing(importlib.abc.MetaPathFinder):
    """Makes packages unimportable, as if they were not installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


sys.meta_path.insert(0, Missing())

import keras
import numpy as np

import fwl_keras
from fwl_keras.backbones import RecurrentBackbone
from fwl_keras.data import DocumentBatches, SentencePieceTokenizer, TrainingBatches
from fwl_keras.models import TextPreprocessor

assert "keras_hub" not in sys.modules
V, WIDTH = 20, 8


def main(directory):
    assert keras.backend.backend() == "jax"
    ids = np.random.default_rng(0).integers(1, V, size=(8, 8)).astype("int32")
    body = RecurrentBackbone([keras.layers.Embedding(V, WIDTH), keras.layers.GRU(WIDTH)])
    lm = fwl_keras.FWLCausalLM(body, fwl_keras.FWLBlock(WIDTH, V, segment_length=8))
    lm.compile(keras.optimizers.Adam(0.03), sampler="greedy")
    losses = lm.fit(ids, batch_size=4, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]

    batches = TrainingBatches(np.arange(100) % V, 8, batch_size=4, steps=3, seed=0)
    lm.fit(batches.for_fit(), steps_per_epoch=3, shuffle=False, verbose=0)
    assert int(lm.optimizer.iterations) == 8 * 2 + 3
    lm.carry_state(4)
    documents = DocumentBatches([ids.ravel()], 8, 4, steps=2, seed=0, eos_id=1, pad_id=0)
    lm.fit(documents.for_fit(), steps_per_epoch=2, shuffle=False, verbose=0)
    assert np.abs(lm.carried_state.values["anchor_beta"]).max() > 0

    results = lm.evaluate(ids, batch_size=4, verbose=0, return_dict=True)
    score = lm.score(ids[:4])
    nll = -np.nanmean(score.log_probabilities, axis=1).mean()
    np.testing.assert_allclose(nll, np.mean(np.log(score.perplexity)), rtol=1e-5)
    assert np.isfinite(results["total_gain"])
    lm.save(directory / "lm.keras")
    loaded = keras.saving.load_model(directory / "lm.keras")
    np.testing.assert_array_equal(loaded.score(ids[:4]).log_probabilities, score.log_probabilities)

    # KerasHub, whose samplers `generate` uses, can do without TensorFlow too.
    written = lm.generate([[1, 2, 3], [4, 5]], 6, stop_token_ids=None)["token_ids"]
    assert written.shape == (2, 6) and written[0, :3].tolist() == [1, 2, 3]

    tokenizer = SentencePieceTokenizer.train([Path(__file__).read_text("utf-8")], 300)
    texts = TextPreprocessor(tokenizer)
    assert (
        texts.tokenizer.decode(tokenizer.encode("def main(directory):")) == "def main(directory):"
    )
    try:
        lm.export(directory / "models" / "1")
    except ValueError as error:
        assert "'jax'" in str(error) and "KERAS_BACKEND=tensorflow" in str(error)
    else:
        raise AssertionError("there is no TensorFlow to export with")
    for part in ("cli", "runs.quickstart", "runs.score", "runs.generate", "serving.client"):
        importlib.import_module(f"fwl_keras.{part}")
    assert not any(name.partition(".")[0] in MISSING for name in sys.modules)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
