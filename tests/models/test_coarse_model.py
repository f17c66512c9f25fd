"""A model whose block has a coarse inner loss: trained, saved, writing, carried on."""

import keras
import numpy as np
import pytest
from lm_helpers import V, language_model, random_ids

from fwl_keras.data import DocumentBatches

COARSE = {"inner_loss": "coarse", "codebook_size": 6, "exact_every": 2}


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(1)
    lm = language_model(**COARSE, initial_step_size=0.01)
    before = [np.asarray(v) for v in lm.trainable_variables]
    lm.compile(keras.optimizers.Adam(0.01), sampler="greedy")
    ids = np.tile(random_ids(4, 4), 5)
    losses = lm.fit(ids, batch_size=2, epochs=6, verbose=0).history["loss"]
    return lm, before, losses


def test_it_learns_all_of_it(trained):
    lm, before, losses = trained
    assert losses[-1] < losses[0] - 0.5
    for variable, value in zip(lm.trainable_variables, before, strict=True):
        assert not np.array_equal(variable, value), variable.path


def test_it_is_saved_and_loaded(trained, tmp_path):
    lm, ids = trained[0], random_ids(2, 12)
    lm.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras")
    assert loaded.block.get_config() == lm.block.get_config()
    for found, expected in zip(loaded.score(ids), lm.score(ids), strict=True):
        for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_it_writes_what_is_most_likely(trained):
    lm, ids = trained[0], random_ids(2, 17)
    assert any(name.startswith("missing") for name in lm.read(ids))
    settings = {"stop_token_ids": None}
    written = lm.generate(ids, max_length=24, **settings)["token_ids"]
    assert written.max() < V
    # What is most likely after what is written, every token having taught the model.
    logits = np.asarray(lm(written[:, :-1], labels=written[:, 1:]))
    np.testing.assert_array_equal(written[:, 17:], logits.argmax(axis=-1)[:, 16:])


def test_it_goes_on_from_batch_to_batch(trained):
    lm = trained[0]
    lm.carry_state(2)
    documents = [random_ids(70), random_ids(50, seed=1)]
    batches = DocumentBatches(
        documents, length=8, batch_size=2, steps=3, seed=0, eos_id=1, pad_id=0
    )
    lm.fit(batches.for_fit(), verbose=0, steps_per_epoch=3, shuffle=False)
    values = lm.carried_state.values
    assert all(np.all(np.isfinite(v)) for v in values.values())
    assert np.any(values["missing_beta"]) or np.any(values["anchor_beta"])
