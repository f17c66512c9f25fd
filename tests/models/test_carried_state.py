"""Training with the state carried from batch to batch, against the same steps done by hand."""

import keras
import numpy as np
import pytest
from gradients import value_and_weight_gradients
from keras import ops

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.data import DocumentBatches

pytestmark = pytest.mark.eager

V, WIDTH, T, B, EOS, PAD = 17, 6, 6, 2, 1, 0
SIZES = [20, 5, 9, 30, 14]
DOCUMENTS = [np.random.default_rng(i).integers(2, V, size) for i, size in enumerate(SIZES)]


def model(dtype=None, **settings):
    """A small model whose adaptation is well above any tolerance."""
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(V, WIDTH, embeddings_initializer="normal")(tokens)
    backbone = keras.Model(tokens, keras.layers.Conv1D(WIDTH, 2, padding="causal")(x))
    settings = {"segment_length": 4, "initial_step_size": 0.03, "initial_decay": 0.8, **settings}
    return FWLCausalLM(backbone, FWLBlock(WIDTH, V, dtype=dtype, **settings), dtype=dtype)


def schedule(steps=9, **changes):
    sizes = {"length": T, "batch_size": B, "seed": 3, **changes}
    return DocumentBatches(DOCUMENTS, steps=steps, eos_id=EOS, pad_id=PAD, **sizes)


def by_hand(lm, batches, train=None, groups=1):
    """Loss of every batch and the states after them, one call a batch; `train(gradients)` after."""
    states = [lm.block.initial_state(B) for _ in range(groups)]
    losses = []
    for step, (x, y) in enumerate(batches):
        fresh, state = lm.block.initial_state(B), states[step % groups]
        state = {
            name: ops.stack(
                [(fresh if s else state)[name][row] for row, s in enumerate(x["starts"])]
            )
            for name in state
        }

        def loss_of(x=x, y=y, state=state):
            weights = x["padding_mask"].astype("float32")
            logits, after = lm(
                {name: x[name] for name in ("token_ids", "padding_mask")},
                labels=y,
                weights=weights,
                state=state,
                return_state=True,
            )
            nll = keras.losses.sparse_categorical_crossentropy(
                y, ops.cast(logits, "float32"), from_logits=True
            )
            return ops.sum(nll * weights) / weights.sum(), after

        if train is None:
            loss, states[step % groups] = loss_of()
        else:
            loss, states[step % groups], gradients = value_and_weight_gradients(lm, loss_of)
            train(gradients)
        losses.append(float(loss))
    return losses, {name: np.stack([state[name] for state in states]) for name in states[0]}


def carried_values(lm):
    # Copies: JAX writes the next values where these are.
    return {name: np.array(value) for name, value in lm.carried_state.values.items()}


def fit(lm, batches):
    """Loss of every batch, each measured before its step."""
    losses = []
    for x, y in batches:
        lm.reset_metrics()
        logs = lm.train_on_batch(x, y, return_dict=True)
        losses.append(float(logs["loss"]))
    return losses


@pytest.mark.graph
@pytest.mark.jax
@pytest.mark.parametrize(
    ("segment_length", "groups", "mode"),
    [
        pytest.param(6, 1, {"jit_compile": True}, marks=pytest.mark.slow),
        (5, 1, {"jit_compile": False}),
        (5, 1, {"run_eagerly": True}),
        pytest.param(5, 3, {"run_eagerly": True}, marks=pytest.mark.slow),
        (None, 1, {"run_eagerly": True}),
    ],
)
def test_training_follows_the_gradients_of_steps_done_by_hand(segment_length, groups, mode):
    """Every step's gradient takes the state that the step began with as a constant."""
    lm, other = (model(segment_length=segment_length) for _ in range(2))
    other.set_weights(lm.get_weights())
    variables = other.trainable_variables

    def descend(gradients):
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(0.1 * gradient)

    batches = schedule(6, groups=groups)
    expected, state = by_hand(other, batches, descend, groups)
    lm.compile(keras.optimizers.SGD(0.1), **mode)
    lm.carry_state(B, groups=groups)
    np.testing.assert_allclose(fit(lm, batches), expected, rtol=2e-5)
    for ours, theirs in zip(lm.trainable_variables, variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=ours.path)
    for name, value in carried_values(lm).items():
        np.testing.assert_allclose(value, state[name], atol=2e-5, err_msg=name)
    assert max(np.abs(value).max() for value in carried_values(lm).values()) > 1e-2


@pytest.mark.graph
@pytest.mark.slow
def test_the_carried_state_matters_and_a_start_forgets_it():
    lm = model()
    lm.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    lm.carry_state(B)
    batches = list(schedule(9))
    carried = fit(lm, batches)
    fresh = fit(lm, [({**x, "starts": np.ones(B, bool)}, y) for x, y in batches])
    continued = [not x["starts"].all() for x, _ in batches]
    different = np.abs(np.subtract(carried, fresh)) > 1e-4
    assert different.tolist() == continued and 0 < sum(continued) < 9
    # A state that went wrong is gone with its document.
    for variable in lm.carried_state.values.values():
        if variable.dtype == "float32":
            variable.assign(np.full(variable.shape, np.nan))
    np.testing.assert_array_equal(fit(lm, batches[:1]), carried[:1])


def test_other_validation_data_leaves_the_carried_state_alone():
    lm, other = model(), model()
    other.set_weights(lm.get_weights())
    ids = np.stack([DOCUMENTS[3][i : i + T] for i in range(4)]).astype("int32")
    for each in (lm, other):
        each.compile("adam", run_eagerly=True)
        each.carry_state(B)
    lm.fit(schedule(4).for_fit(), verbose=0, epochs=2, steps_per_epoch=2, shuffle=False)
    other.fit(
        schedule(4).for_fit(),
        verbose=0,
        epochs=2,
        steps_per_epoch=2,
        shuffle=False,
        validation_data=ids,
        validation_batch_size=4,
    )
    # Looking at other text changed nothing.
    for ours, theirs in zip(lm.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_accumulated_gradients_carry_the_state_through_every_batch():
    lm, other = model(), model()
    other.set_weights(lm.get_weights())
    sums = []
    before = [np.array(v) for v in other.trainable_variables]
    by_hand(other, schedule(2), sums.append)
    lm.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), run_eagerly=True)
    lm.carry_state(B)
    fit(lm, schedule(2))
    for variable, old, *gradients in zip(lm.trainable_variables, before, *sums, strict=True):
        expected = old - 0.1 * np.mean(gradients, axis=0)
        np.testing.assert_allclose(variable, expected, atol=1e-5, err_msg=variable.path)


def test_mixed_precision_keeps_the_state_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        lm = model(segment_length=T)
        expected, state = by_hand(lm, schedule(5))
        lm.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
        lm.carry_state(B)
        losses = fit(lm, schedule(5))
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(losses, expected, rtol=2e-2)
    for name, variable in lm.carried_state.values.items():
        # Whatever integer the backend likes.
        assert variable.dtype in (("int64", "int32") if name == "position" else ("float32",))
        scale = np.abs(np.asarray(state[name], "float64")).max() + 1e-6
        np.testing.assert_allclose(variable, state[name], atol=0.05 * scale, err_msg=name)


@pytest.mark.graph
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.slow
def test_an_interrupted_training_goes_on_exactly(tmp_path, groups):
    path = tmp_path / "checkpoint.weights.h5"
    lm = model(segment_length=T)
    first, whole = lm.get_weights(), []
    for part in (range(9), range(4), range(4, 9)):
        if part.start == 0:
            lm = model(segment_length=T)
            lm.set_weights(first)
        else:
            lm.save_weights(path)
            lm = model(segment_length=T)
        lm.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        lm.optimizer.build(lm.trainable_variables)
        lm.carry_state(B, groups=groups)
        if part.start:
            lm.load_weights(path)
        batches = schedule(groups=groups).from_step(part.start)
        losses = fit(lm, list(batches)[: len(part)])
        whole.append((losses, [np.asarray(v) for v in lm.weights]))
    np.testing.assert_allclose(whole[1][0] + whole[2][0], whole[0][0], rtol=1e-6)
    for ours, theirs in zip(whole[2][1], whole[0][1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.graph
def test_a_saved_model_has_no_carried_state(tmp_path):
    lm = model()
    lm.compile("adam", run_eagerly=True)
    parameters = lm.count_params()
    lm.carry_state(B)
    fit(lm, schedule(2))
    before = carried_values(lm)
    path = tmp_path / "lm.keras"
    lm.save(path)
    assert lm.count_params() > parameters
    # Training goes on.
    for name, value in carried_values(lm).items():
        np.testing.assert_array_equal(value, before[name])
    fit(lm, list(schedule())[2:4])
    loaded = keras.saving.load_model(path)
    assert loaded.carried_state is None and loaded.count_params() == parameters

    lm.carry_state(None)
    assert lm.count_params() == parameters
    lm.save(tmp_path / "without.keras")
    assert path.stat().st_size == pytest.approx((tmp_path / "without.keras").stat().st_size, abs=99)


def test_a_checkpoint_with_a_state_loads_where_none_is_carried(tmp_path):
    lm, other = model(), model()
    parameters = lm.get_weights()
    lm.carry_state(B)
    for each in (lm, other):
        each.compile("sgd")
    path = tmp_path / "checkpoint.weights.h5"
    lm.save_weights(path)
    other.load_weights(path)
    for ours, theirs in zip(other.get_weights(), parameters, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_batch_size_begins_anew():
    lm = model(segment_length=T)
    lm.compile("sgd")
    for rows in (B, 3):
        lm.carry_state(rows)
        assert np.isfinite(fit(lm, schedule(2, batch_size=rows))).all()
        assert lm.carried_state.values["position"].shape == (1, rows)
    assert len([layer for layer in lm._layers if layer.name == "carried_state"]) == 1


@pytest.mark.jax
def test_errors():
    (x, y), *_ = schedule(1)
    lm = model()
    lm.compile("sgd")
    with pytest.raises(ValueError, match="`starts` needs a state"):
        lm.train_on_batch(x, y)
    lm.carry_state(B + 1)
    with pytest.raises(ValueError, match=r"shape \[3\].*received shape \[2\]"):
        lm.train_on_batch(x, y)
    lm.carry_state(B)
    with pytest.raises(ValueError, match="`evaluate` would overwrite"):
        lm.test_on_batch(x, y)
    with pytest.raises(ValueError, match="dtype float32"):
        lm.train_on_batch({**x, "starts": np.zeros(B, "float32")}, y)
    for wrong in (0, 2.0, True):
        with pytest.raises(ValueError, match="`batch_size` must be a positive whole number"):
            lm.carry_state(wrong)
        with pytest.raises(ValueError, match="`groups` must be a positive whole number"):
            lm.carry_state(B, groups=wrong)
