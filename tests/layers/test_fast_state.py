"""A further kind of state, and another inner gradient: one entry each, and all else follows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from block_helpers import (
    assert_close,
    assert_states_close,
    random_batch,
    random_block,
    randomise,
    read,
)
from keras import ops
from oracle import TENSORS

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.data import DocumentBatches
from fwl_keras.layers import Unembedding
from fwl_keras.layers.fast_state import FastState
from fwl_keras.ops import segments

MOMENTUM = 0.7
LENGTH = 4


class MomentumState(FastState):
    """What the anchor takes in is not one segment's sum, but a sum of all that fades."""

    kinds = (*FastState.kinds, "momentum")

    def end_segment(self, sums, decay):
        momentum = MOMENTUM * sums["momentum"] + sums["running"]
        ended = super().end_segment({"anchor": sums["anchor"], "running": momentum}, decay)
        return {**ended, "momentum": momentum}


class MomentumBlock(FWLBlock):
    fast_state = MomentumState()


def momentum_block(rng, **settings):
    block = MomentumBlock(5, 7, segment_length=LENGTH, chunk_length=3, **settings)
    block(np.zeros((1, 1, 4), np.float32))
    randomise(rng, block, 0.04)
    return block


def momentum_batch(rng, block, batch, length):
    """Arguments of a call, with a state of every kind."""
    arguments = random_batch(rng, block, batch, length)
    for name in TENSORS:
        like = arguments["state"][f"anchor_{name}"]
        arguments["state"][f"momentum_{name}"] = rng.normal(size=like.shape).astype(np.float32)
    return arguments


def by_hand(block, arguments):
    """Segment after segment with a block without momentum, which is added between them."""
    plain = FWLBlock.from_config(block.get_config())
    plain(arguments["x"][:1, :1])
    plain.set_weights(block.get_weights())
    batch, total = arguments["labels"].shape
    anchor = dict.fromkeys(TENSORS, 0.0)
    momentum, found = dict(anchor), []
    state = {n: np.asarray(s) for n, s in plain.initial_state(batch).items()}
    for start in range(0, total, LENGTH):
        piece = {n: arguments[n][:, start : start + LENGTH] for n in ("x", "labels", "weights")}
        logits, state = read(plain, {**piece, "state": state})
        found.append(logits)
        if piece["x"].shape[1] < LENGTH:
            break
        for name, decay in plain.decays().items():
            running = state[f"anchor_{name}"] / decay - anchor[name]
            momentum[name] = MOMENTUM * momentum[name] + running
            anchor[name] = decay * (anchor[name] + momentum[name])
            state[f"anchor_{name}"] = anchor[name].astype(np.float32)
    return np.concatenate(found, axis=1), {
        **state,
        **{f"momentum_{name}": value for name, value in momentum.items()},
    }


@pytest.mark.parametrize(
    ("fresh", "mode", "unrolled"),
    [("no state", "eager", 8), ("initial state", "eager", 8), ("initial state", "graph", 1)],
)
def test_a_further_kind_of_state_does_what_its_rule_says(fresh, mode, unrolled, monkeypatch):
    monkeypatch.setattr(segments, "MAX_UNROLLED", unrolled)
    rng = np.random.default_rng(0)
    block = momentum_block(rng)
    arguments = random_batch(rng, block, 2, 11, masked=False, with_state=False)
    expected, state = by_hand(block, arguments)
    if fresh == "initial state":
        arguments["state"] = {n: np.asarray(s) for n, s in block.initial_state(2).items()}
    logits, last = read(block, arguments, mode)
    assert_close(logits, expected)
    assert_states_close(last, state)
    # Momentum is felt from the third segment on.
    plain = FWLBlock.from_config(block.get_config())
    plain(arguments["x"])
    plain.set_weights(block.get_weights())
    others = {n: arguments[n] for n in ("x", "labels", "weights")}
    difference = np.abs(read(plain, others)[0] - logits).max(axis=(0, 2))
    assert difference[: 2 * LENGTH].max() < 1e-5 and difference[2 * LENGTH :].max() > 1e-3


def test_a_further_kind_of_state_is_in_its_names_shapes_and_checks():
    block = momentum_block(np.random.default_rng(1))
    fresh = block.initial_state(3)
    assert set(fresh) == {"position"} | {
        f"{kind}_{name}" for kind in ("anchor", "running", "momentum") for name in TENSORS
    }
    assert fresh["momentum_expand_kernel"].shape == (3, 4, 20)
    assert not any(np.any(value) for value in fresh.values())
    x, labels = keras.KerasTensor((3, 9, 4)), keras.KerasTensor((3, 9), "int32")
    _, spec = block(x, labels, return_state=True)
    shapes = {name: (tuple(s.shape), s.dtype) for name, s in spec.items()}
    assert shapes == {
        name: (tuple(value.shape), keras.backend.standardize_dtype(value.dtype))
        for name, value in fresh.items()
    }
    arguments = random_batch(np.random.default_rng(1), block, 3, 2)
    with pytest.raises(ValueError, match=r"`state` must be a dict with the keys .*momentum_beta"):
        block(**arguments)


def test_a_further_kind_of_state_under_any_split_and_mask():
    rng = np.random.default_rng(2)
    block = momentum_block(rng)
    arguments = momentum_batch(rng, block, 3, 9)
    whole, state = read(block, arguments)
    # Every row is cut at a place of its own: what a piece does not have does not exist in it.
    cuts = np.array([2, 5, 9])[:, None]
    logits, last = 0.0, arguments["state"]
    for part in (np.arange(9) < cuts, np.arange(9) >= cuts):
        piece = {"x_mask": arguments["x_mask"] & part, "state": last}
        found, last = read(block, arguments | piece)
        logits = logits + found
    assert_close(logits, whole)
    assert_states_close(last, state)
    ended = arguments["state"]["position"] + arguments["x_mask"].sum(axis=1) >= LENGTH
    assert ended.any()
    for name in TENSORS:
        moved = state[f"momentum_{name}"] != arguments["state"][f"momentum_{name}"]
        np.testing.assert_array_equal(moved.any(axis=tuple(range(1, moved.ndim))), ended)


def test_a_further_kind_of_state_is_carried_by_a_model():
    tokens = keras.Input((None,), dtype="int32")
    backbone = keras.Model(tokens, keras.layers.Embedding(7, 4)(tokens))
    rng = np.random.default_rng(3)
    block = momentum_block(rng)
    lm = FWLCausalLM(backbone, block)
    lm.compile("sgd", run_eagerly=True)
    ids = rng.integers(0, 7, (2, 11))
    first = lm.read(ids[:, :5])
    assert_states_close(
        {n: s for n, s in lm.read(ids[:, 5:], state=first).items() if "pending" not in n},
        {n: s for n, s in lm.read(ids).items() if "pending" not in n},
    )
    documents = [rng.integers(2, 7, 40) for _ in range(2)]
    batches = DocumentBatches(
        documents, length=6, batch_size=2, steps=4, seed=0, eos_id=1, pad_id=0
    )
    lm.carry_state(2)
    lm.fit(batches.for_fit(), verbose=0, steps_per_epoch=4, shuffle=False)
    assert np.any(lm.carried_state.values["momentum_expand_kernel"])


class FewClassesBlock(FWLBlock):
    """Steps along the loss of a few classes of labels instead of that of the labels."""

    classes = 3

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.few = Unembedding(self.classes, name="few")

    def build(self, x_shape, **shapes):
        super().build(x_shape, **shapes)
        self.few.build((None, None, self.size))

    def inner_gradient(self, features, labels, weights, head=None, position=None):
        gradient, loss, _ = self.few.gradient(features, labels % self.classes, weights)
        return gradient, loss, head


def few_classes_block(rng):
    block = FewClassesBlock(5, 7, segment_length=LENGTH)
    block(np.zeros((1, 1, 4), np.float32))
    randomise(rng, block)
    for variable in block.few.weights:
        variable.assign(rng.normal(size=variable.shape))
    return block


def test_another_inner_gradient_is_what_the_steps_follow():
    rng = np.random.default_rng(4)
    block = few_classes_block(rng)
    arguments = random_batch(rng, block, 2, 3, masked=False, with_state=False)
    logits, state = read(block, arguments)
    features = read(block, {"x": arguments["x"]}, return_state=False, output="features")
    kernel, bias = (np.asarray(a) for a in block.few.tensors())
    z = features @ kernel + bias
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    gradient = (p - np.eye(3)[arguments["labels"] % 3]) @ kernel.T
    expected = (arguments["weights"][..., None] * gradient).sum(axis=1)
    assert_close(state["running_beta"], expected)
    losses = read(block, arguments, return_state=False, output="loss")
    nll = -np.log(np.take_along_axis(p, arguments["labels"][..., None] % 3, -1))[..., 0]
    assert_close(losses["slow_loss"], np.where(arguments["weights"] != 0, nll, losses["slow_loss"]))
    # The labels' own loss is what is predicted.
    nll = -tf.nn.log_softmax(logits).numpy()
    expected = np.take_along_axis(nll, arguments["labels"][..., None], -1)[..., 0]
    assert_close(losses["loss"], expected)
    # Where the classes do not depend on the features, there is no step.
    block.few.kernel.assign(ops.zeros_like(block.few.kernel))
    assert_close(read(block, arguments)[0], read(block, {"x": arguments["x"]})[0], 1e-6)


def test_another_inner_gradient_is_learned_and_exact_under_a_split():
    rng = np.random.default_rng(5)
    block = few_classes_block(rng)
    arguments = random_batch(rng, block, 2, 9, masked=False)
    whole, state = read(block, arguments)
    first = {n: arguments[n][:, :4] for n in ("x", "labels", "weights")}
    first, last = read(block, {**first, "state": arguments["state"]})
    rest = {n: arguments[n][:, 4:] for n in ("x", "labels", "weights")}
    second, last = read(block, {**rest, "state": last})
    assert_close(np.concatenate([first, second], axis=1), whole)
    assert_states_close(last, state)
    plain = random_block(np.random.default_rng(5), segment_length=LENGTH)
    assert np.abs(read(plain, arguments)[0] - whole).max() > 1e-3
    with tf.GradientTape() as tape:
        losses = block(**arguments, output="loss")
        total = tf.reduce_sum(losses["loss"])
    assert np.abs(tape.gradient(total, block.few.kernel.value)).max() > 1e-4
