"""What counts: labels that are ignored or impossible, and weights that come without labels."""

import keras
import numpy as np
import pytest
from lm_helpers import V, language_model, random_ids

from fwl_keras import FWLBlock, FWLCausalLM, next_token_targets

pytestmark = pytest.mark.jax

ROWS, T = 4, 8
EAGER = keras.backend.backend() == "tensorflow"


@pytest.fixture(scope="module")
def lm():
    keras.utils.set_random_seed(1)
    model = language_model(initial_step_size=1e-2)
    model.compile("sgd", run_eagerly=EAGER)
    return model


@pytest.fixture(scope="module")
def compiled():
    keras.utils.set_random_seed(1)
    model = language_model(initial_step_size=1e-2)
    model.compile("sgd", jit_compile=not EAGER)
    return model


def losses_of(lm, ids):
    """Losses [B, T] of the ordinary call, and where there is a label."""
    labels, weights = next_token_targets(ids)
    found = lm(ids, labels=labels, weights=weights, output="loss")["loss"]
    return keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(weights) != 0


def evaluated(lm, *args, **kwargs):
    return lm.evaluate(*args, batch_size=ROWS, verbose=0, return_dict=True, **kwargs)


def test_the_ignored_label_is_neither_in_the_sum_nor_in_the_count(lm):
    ids = random_ids(ROWS, T + 1)
    x, y = ids[:, :-1], ids[:, 1:].copy()
    y[0] = -100
    y[1, 3] = -100
    weights = (y != -100).astype("float32")
    losses = lm(x, labels=y, output="loss")["loss"]
    expected = (keras.ops.convert_to_numpy(losses) * weights).sum() / weights.sum()
    found = evaluated(lm, x, y)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"], np.exp(expected), rtol=1e-5)
    # Weights change nothing about it.
    again = evaluated(lm, x, y, sample_weight=np.ones((ROWS, T), "float32"))
    np.testing.assert_allclose(again["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("wrong", [-1, V, 2**31 - 1])
def test_other_labels_are_refused_eagerly(lm, wrong):
    if not EAGER:
        pytest.skip("`fit` always compiles on JAX")
    ids = random_ids(ROWS, T + 1)
    y = ids[:, 1:].copy()
    y[2, 4] = wrong
    with pytest.raises(ValueError, match=rf"`labels` must lie in \[0, {V}\)"):
        evaluated(lm, ids[:, :-1], y)


@pytest.mark.slow
def test_other_labels_never_give_a_plausible_number(compiled):
    ids = random_ids(ROWS, T + 1)
    y = ids[:, 1:].copy()
    y[2, 4] = V
    with pytest.warns(RuntimeWarning, match="loss of . tokens is not finite"):
        found = evaluated(compiled, ids[:, :-1], y)
    assert found["loss"] == found["perplexity"] == np.inf
    start = compiled.get_weights()
    history = compiled.fit(ids[:, :-1], y, batch_size=ROWS, verbose=0).history
    compiled.set_weights(start)
    assert not np.isfinite(history["loss"]).any()


def test_a_block_with_fewer_ids_than_its_body_is_refused():
    ids = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(V, 8)
    position = keras.layers.Embedding(500, 8)  # does not read the ids
    x = embedding(ids) + position(keras.ops.cumsum(keras.ops.ones_like(ids), axis=1))
    bodies = {
        "functional": keras.Model(ids, keras.layers.GRU(8, return_sequences=True)(x)),
        "sequential": keras.Sequential(
            [keras.layers.Embedding(V, 8), keras.layers.GRU(8, return_sequences=True)]
        ),
    }
    for name, body in bodies.items():
        with pytest.raises(ValueError, match=rf"`vocab_size`={V - 1}, fewer ids than the {V}"):
            FWLCausalLM(body, FWLBlock(8, V - 1))
        assert FWLCausalLM(body, FWLBlock(8, V)).block.vocab_size == V, name


@pytest.mark.parametrize("shape", ["tokens", "rows"])
def test_weights_need_no_labels(lm, shape):
    ids = random_ids(ROWS, T)
    rng = np.random.default_rng(3)
    w = rng.uniform(0.1, 2.0, (ROWS, T) if shape == "tokens" else (ROWS,)).astype("float32")
    losses, has_label = losses_of(lm, ids)
    each = np.where(has_label, w if shape == "tokens" else w[:, None], 0.0)
    expected = (losses * each).sum() / each.sum()
    np.testing.assert_allclose(evaluated(lm, ids, sample_weight=w)["loss"], expected, rtol=1e-5)
    plain = evaluated(lm, ids)["loss"]
    assert abs(plain - expected) > 1e-3
    validated = lm.fit(
        ids, batch_size=ROWS, verbose=0, epochs=1, validation_data=(ids, None, w), callbacks=[]
    ).history["val_loss"][0]
    np.testing.assert_allclose(validated, evaluated(lm, ids, sample_weight=w)["loss"], rtol=1e-5)


def test_fit_honours_weights_without_labels(lm):
    ids = random_ids(ROWS, T)
    w = np.zeros((ROWS, T), "float32")
    w[1] = 1.0
    start = lm.get_weights()
    lm.fit(ids, sample_weight=w, batch_size=ROWS, verbose=0)
    weighted = lm.get_weights()
    lm.set_weights(start)
    lm.fit(ids[1:2], batch_size=ROWS, verbose=0)
    alone = lm.get_weights()
    lm.set_weights(start)
    for one, other in zip(weighted, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_positions_without_a_label_have_no_weight(lm):
    """The last position's weight is whatever it is: it predicts nothing."""
    ids = random_ids(ROWS, T)
    w = np.ones((ROWS, T), "float32")
    expected = evaluated(lm, ids)["loss"]
    w[:, -1] = 1e6
    np.testing.assert_allclose(evaluated(lm, ids, sample_weight=w)["loss"], expected, rtol=1e-5)
    w[:, -1] = np.nan
    np.testing.assert_allclose(evaluated(lm, ids, sample_weight=w)["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("call", ["fit", "evaluate", "validation_data"])
def test_weights_that_do_not_fit_are_refused(lm, call):
    ids = random_ids(ROWS, T)

    def give(w):
        if call == "validation_data":
            return lm.fit(ids, batch_size=ROWS, verbose=0, validation_data=(ids, None, w))
        return getattr(lm, call)(ids, sample_weight=w, batch_size=ROWS, verbose=0)

    bad = np.ones((ROWS, T), "float32")
    bad[0, 0] = np.nan
    with pytest.raises(ValueError, match="`sample_weight` must be finite"):
        give(bad)
    with pytest.raises(ValueError, match="`sample_weight` must have shape"):
        give(np.ones((ROWS, T + 1), "float32"))


def test_class_weight_is_refused(lm):
    ids = random_ids(ROWS, T)
    with pytest.raises(ValueError, match="`class_weight` is for classes of rows"):
        lm.fit(ids, class_weight={0: 1.0}, verbose=0)
    with pytest.raises(ValueError, match="`class_weight` is for classes of rows"):
        lm.train_on_batch(ids, class_weight={0: 1.0})


def test_a_batch_without_a_token_is_trained_on_for_what_layers_lose():
    decay = keras.regularizers.L2(0.1)
    embedding = keras.layers.Embedding(V, 8, embeddings_regularizer=decay)
    lm = FWLCausalLM(keras.Sequential([embedding]), FWLBlock(8, V), pad_token_id=0)
    lm.compile(keras.optimizers.SGD(0.5), run_eagerly=EAGER)
    before = keras.ops.convert_to_numpy(embedding.embeddings)
    lm.train_on_batch(np.zeros((2, 5), "int32"))
    after = keras.ops.convert_to_numpy(embedding.embeddings)
    # The gradient of 0.1 * sum(e ** 2), half of which is taken off.
    np.testing.assert_allclose(after, before - 0.5 * 0.2 * before, rtol=1e-5)


def test_a_loss_that_is_not_finite_is_counted(lm):
    """One id that is impossible: its tokens are told of, and perplexity is infinite."""
    ids = random_ids(ROWS, T, seed=2)
    ids[ids == 7] = 8
    ids[0, 3] = ids[2, 6] = 7
    bias = lm.block.unembedding.bias
    start = keras.ops.convert_to_numpy(bias)
    impossible = start.copy()
    impossible[7] = -np.inf
    bias.assign(impossible)
    # The first such token would take the others of its row along.
    lm.block.use_fast_weights = False
    try:
        with pytest.warns(RuntimeWarning, match="loss of 2 tokens is not finite"):
            found = evaluated(lm, ids)
        assert found["loss"] == found["perplexity"] == np.inf
        with pytest.warns(RuntimeWarning, match="loss of 2 tokens is not finite"):
            score = lm.score(ids)
        np.testing.assert_array_equal(
            np.argwhere(score.log_probabilities == -np.inf), [[0, 3], [2, 6]]
        )
        np.testing.assert_array_equal(np.isinf(score.perplexity), [True, False, True, False])
    finally:
        lm.block.use_fast_weights = True
        bias.assign(start)


def test_a_broken_model_says_that_it_cannot_write(lm):
    bias = lm.block.unembedding.bias
    start = keras.ops.convert_to_numpy(bias)
    bias.assign(np.full_like(start, np.nan))
    try:
        with pytest.raises(ValueError, match="The model predicts nothing in 1 of 1 rows"):
            lm.generate([[1, 2, 3]], max_length=6, stop_token_ids=None)
        lm.compile("sgd", sampler="beam", run_eagerly=EAGER)
        with pytest.raises(ValueError, match="The model predicts nothing in 1 of 1 rows"):
            lm.generate([[1, 2, 3]], max_length=6, stop_token_ids=None)
    finally:
        lm.compile("sgd", run_eagerly=EAGER)
        bias.assign(start)
