"""Blockwise losses and their gradients against the backend's autodiff of the plain formula."""

import keras
import numpy as np
import pytest
from gradients import value_and_gradients
from keras import ops

from fwl_keras.ops import _head, cross_entropy, cross_entropy_gradient
from fwl_keras.ops._blocks import map_blocks
from fwl_keras.ops._head import cut_head
from fwl_keras.ops.cross_entropy import (
    cross_entropy_gradient_of_head,
    cross_entropy_of_head,
    fixed_gradient_of_head,
)

pytestmark = pytest.mark.jax

N, S, V = 11, 4, 9


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype("float32")  # noqa: E731
    labels = rng.integers(0, V, N).astype("int32")
    labels[:2] = 0, V - 1
    weights = rng.uniform(0.2, 2.0, size=N).astype("float32")
    return {
        "features": draw(N, S),
        "kernel": draw(S, V),
        "bias": draw(V),
        "labels": labels,
        "weights": weights,
        "d_loss": draw(N),
        "d_gradient": draw(N, S),
    }


@pytest.fixture(params=[1, 3], ids=["whole", "three pieces"])
def pieces(request, monkeypatch):
    """How many the vocabulary is cut into, as a large one is."""
    if request.param > 1:
        for name, value in (("PIECE", 4), ("LOGITS_AT_ONCE", 1)):
            settings = dict.fromkeys(getattr(_head, name), value)
            monkeypatch.setattr(_head, name, settings)
    return request.param


def plain_logits(features, kernel, bias, soft_cap):
    logits = ops.matmul(features, kernel) + (0 if bias is None else bias)
    return logits if soft_cap is None else soft_cap * ops.tanh(logits / soft_cap)


def plain(features, kernel, bias, labels, soft_cap=None):
    """The loss as a textbook has it, all logits at once."""
    logits = plain_logits(features, kernel, bias, soft_cap)
    picked = ops.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return ops.logsumexp(logits, axis=1) - picked


def plain_gradient(features, kernel, bias, labels, weights, soft_cap=None):
    """weights * d loss / d features, one-hot and all."""
    p = ops.softmax(plain_logits(features, kernel, bias, soft_cap), axis=1)
    p = p - ops.one_hot(labels, V)
    if soft_cap is not None:
        p = p / ops.square(ops.cosh((ops.matmul(features, kernel) + bias) / soft_cap))
    return weights[:, None] * ops.matmul(p, ops.transpose(kernel))


@pytest.mark.parametrize("block_length", [None, 1, 3, 4, 11])
@pytest.mark.parametrize(("with_bias", "soft_cap"), [(True, None), (False, None), (True, 1.5)])
def test_cross_entropy(data, pieces, block_length, with_bias, soft_cap):
    inputs = [data["features"], data["kernel"]] + ([data["bias"]] if with_bias else [])

    def run(form):
        def scalar(features, kernel, bias=None):
            loss = form(features, kernel, bias, data["labels"])
            return ops.sum(loss * data["d_loss"]), (loss,)

        _, outputs, gradients = value_and_gradients(scalar, *inputs)
        return *outputs, *gradients

    mine = run(lambda *a: cross_entropy(*a, block_length=block_length, soft_cap=soft_cap))
    expected = run(lambda *a: plain(*a, soft_cap))
    for a, b in zip(mine, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("block_length", [None, 1, 3, 4, 11])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
def test_cross_entropy_gradient_and_its_own_gradient(data, pieces, block_length, soft_cap):
    inputs = [data[name] for name in ("features", "kernel", "bias", "weights")]

    def scalar(gradient, loss):
        total = ops.sum(gradient * data["d_gradient"]) + ops.sum(loss * data["d_loss"])
        return total, (gradient, loss)

    def mine(features, kernel, bias, weights):
        return scalar(
            *cross_entropy_gradient(
                features,
                kernel,
                bias,
                data["labels"],
                weights,
                block_length=block_length,
                soft_cap=soft_cap,
            )
        )

    def expected(features, kernel, bias, weights):
        gradient = plain_gradient(features, kernel, bias, data["labels"], weights, soft_cap)
        return scalar(gradient, plain(features, kernel, bias, data["labels"], soft_cap))

    def run(function):
        _, outputs, gradients = value_and_gradients(function, *inputs)
        return *outputs, *gradients

    for a, b in zip(run(mine), run(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("with_bias", [True, False])
def test_calls_that_pass_the_head_on_share_its_gradient(data, pieces, with_bias):
    """Gradients and losses, each with the head of the one before, as a block's segments."""
    labels, weights, fixed = data["labels"], data["weights"], []
    inputs = [data["features"], data["kernel"]] + ([data["bias"]] if with_bias else [])

    def scalar(gradient, other, loss, slow_loss):
        both = ops.sum((gradient + other) * data["d_gradient"])
        return both + ops.sum(loss * data["d_loss"]) + ops.sum(slow_loss), ()

    def mine(features, kernel, bias=None):
        head = cut_head(kernel, bias, features)
        assert len(head.kernels) == pieces
        arguments = labels, weights
        gradient, slow_loss, head = cross_entropy_gradient_of_head(features, head, *arguments)
        other, _, head = cross_entropy_gradient_of_head(features + gradient, head, *arguments)
        features = features - other
        half, exact, head = cross_entropy_of_head(
            features, head, labels, passing=True, exact_every=1
        )
        fixed.append((features, exact))
        loss = 0.5 * half + 0.5 * cross_entropy_of_head(features, head, labels)[0]
        return scalar(gradient, other, loss, slow_loss)

    def expected(features, kernel, bias=None):
        arguments = kernel, bias, labels
        gradient = plain_gradient(features, *arguments, weights)
        other = plain_gradient(features + gradient, *arguments, weights)
        loss = plain(features - other, *arguments)
        return scalar(gradient, other, loss, plain(features, *arguments))

    found, reference = (value_and_gradients(f, *inputs) for f in (mine, expected))
    np.testing.assert_allclose(found[0], reference[0], rtol=1e-5)
    for a, b in zip(found[2], reference[2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

    # The gradient that comes with a loss, and the one that has no weights, are of its value.
    mine(*inputs)
    (features, exact), head = fixed[-1], cut_head(*inputs[1:], *[None] * (not with_bias), inputs[0])
    expected = plain_gradient(
        features, *inputs[1:], *[None] * (not with_bias), labels, np.ones(len(labels))
    )
    np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        fixed_gradient_of_head(features, head, labels), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("block_length", [None, 5])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
def test_a_loss_with_the_gradients_of_some(data, pieces, block_length, soft_cap):
    features, labels = data["features"][:10], data["labels"][:10]
    tensors = data["kernel"], data["bias"]

    def mine(features, *tensors):
        head = cut_head(*tensors, features)
        settings = {"soft_cap": soft_cap, "exact_every": 5, "block_length": block_length}
        loss, gradient, _ = cross_entropy_of_head(features, head, labels, **settings)
        return ops.sum(loss * data["d_loss"][:10]), (loss, gradient)

    def expected(features, *tensors):
        loss = plain(features, *tensors, labels, soft_cap)
        return ops.sum(loss * data["d_loss"][:10]), (loss,)

    found, reference = (value_and_gradients(f, features, *tensors) for f in (mine, expected))
    np.testing.assert_allclose(found[1][0], reference[1][0], rtol=1e-5)
    exact = plain_gradient(features, *tensors, labels, np.ones(10), soft_cap)
    np.testing.assert_allclose(found[1][1], exact[4::5], rtol=1e-4, atol=1e-5)
    for a, b in zip(found[2], reference[2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_frozen_kernel_has_no_gradient_and_changes_no_other(data, pieces):
    def gradients(train_kernel):
        def scalar(features, kernel, bias):
            arguments = kernel, bias, data["labels"]
            gradient, _ = cross_entropy_gradient(
                features, *arguments, data["weights"], train_kernel=train_kernel
            )
            loss = cross_entropy(features + gradient, *arguments, train_kernel=train_kernel)
            return ops.sum(loss * data["d_loss"]), ()

        return value_and_gradients(scalar, *(data[n] for n in ("features", "kernel", "bias")))[2]

    (trained, *some), (frozen, *none) = gradients(True), gradients(False)
    np.testing.assert_allclose(frozen, trained, rtol=1e-6)
    assert all(np.any(np.asarray(g)) for g in some)
    assert not any(np.any(np.asarray(g)) for g in none)


@pytest.mark.parametrize("soft_cap", [None, 1.5])
def test_gradient_is_that_of_finite_differences(data, soft_cap):
    args = (data["kernel"], data["bias"], data["labels"])
    gradient, _ = cross_entropy_gradient(
        data["features"], *args, data["weights"], soft_cap=soft_cap
    )
    epsilon = 1e-2
    for i in range(S):
        step = epsilon * np.eye(S, dtype="float32")[i]
        above, below = (
            np.asarray(cross_entropy(data["features"] + sign * step, *args, soft_cap=soft_cap))
            for sign in (1, -1)
        )
        numeric = data["weights"] * (above - below) / (2 * epsilon)
        np.testing.assert_allclose(np.asarray(gradient)[:, i], numeric, atol=2e-3)


def test_weight_zero_drops_features_that_are_not_finite(data):
    data["features"][3] = np.nan
    data["weights"][3] = 0
    args = (data["kernel"], data["bias"], data["labels"], data["weights"])
    gradient, _ = cross_entropy_gradient(data["features"], *args)
    assert (np.asarray(gradient)[3] == 0).all()
    assert np.isfinite(np.asarray(gradient)).all()


def test_leading_dimensions(data):
    features, labels = data["features"][:10], data["labels"][:10]
    flat = cross_entropy(features, data["kernel"], None, labels)
    shaped = cross_entropy(features.reshape(2, 5, S), data["kernel"], None, labels.reshape(2, 5))
    np.testing.assert_array_equal(np.asarray(shaped).ravel(), flat)


def test_bfloat16_features_give_float32_losses(data):
    args = (data["kernel"], data["bias"], data["labels"])
    exact = cross_entropy(data["features"], *args)
    rounded = cross_entropy(ops.cast(data["features"], "bfloat16"), *args)
    assert keras.backend.standardize_dtype(rounded.dtype) == "float32"
    np.testing.assert_allclose(rounded, exact, atol=0.1)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="inspects TensorFlow's compiled graph"
)
def test_no_tensor_of_all_logits_exists():
    """The largest tensor of the compiled training step is a block of logits, not all of them."""
    import re

    import tensorflow as tf

    n, size, vocab, block = 96, 8, 101, 16

    @tf.function(jit_compile=True)
    def step(features, kernel, labels):
        with tf.GradientTape() as tape:
            tape.watch([features, kernel])
            gradient, _ = cross_entropy_gradient(
                features, kernel, None, labels, tf.ones(n), block_length=block
            )
            loss = cross_entropy(features + gradient, kernel, None, labels, block_length=block)
            total = tf.reduce_sum(loss)
        return tape.gradient(total, [features, kernel])

    args = tf.zeros((n, size)), tf.zeros((size, vocab)), tf.zeros((n,), tf.int32)
    hlo = step.experimental_get_compiler_ir(*args)(stage="optimized_hlo")
    shapes = re.findall(r"(?:f32|bf16|pred|s32)\[([\d,]+)\]", hlo)
    largest = max(np.prod([int(d) for d in shape.split(",")]) for shape in shapes)
    assert largest < n * vocab, largest
    assert largest >= block * vocab


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs unknown shapes")
@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (3, 3), (4, 4), (7, 8)])
def test_where_shapes_are_unknown_few_tokens_do_not_cost_a_whole_block(tokens, rows):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32)])
    def doubled(x):
        def double(x):
            return (2 * x,), (tf.cast(tf.shape(x)[0], tf.float32),)

        return map_blocks(double, (x,), ((2,),), (tf.zeros(()),), 4)

    x = np.arange(2 * tokens, dtype="float32").reshape(tokens, 2)
    (found,), (computed,) = doubled(x)
    np.testing.assert_array_equal(found, 2 * x)
    assert computed == rows
