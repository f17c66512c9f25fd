"""The three forms of each operator against each other, and against a loop in NumPy."""

import numpy as np
import pytest
from gradients import value_and_gradients
from keras import ops

from fwl_keras.ops import (
    linear_attention,
    linear_attention_chunked,
    linear_attention_recurrent,
    linear_attention_step,
    running_sum,
    running_sum_chunked,
    running_sum_recurrent,
    running_sum_step,
)

pytestmark = pytest.mark.jax

CHUNKS = [1, 3, 4, 12, 13, 50]


def arrays(total, with_state, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype("float32")  # noqa: E731
    state = draw(2, 5, 3) if with_state else None
    return draw(2, total, 5), draw(2, total, 5), draw(2, total, 3), state


def by_definition(query, key, value, state):
    """Output and final state in float64, straight from the docstring's formula."""
    query, key, value = (x.astype("float64") for x in (query, key, value))
    state = np.zeros((2, 5, 3)) if state is None else state.astype("float64")
    outputs = []
    for t in range(query.shape[1]):
        before = state + np.einsum("bsk,bsv->bkv", key[:, :t], value[:, :t])
        outputs.append(np.einsum("bk,bkv->bv", query[:, t], before))
    return np.stack(outputs, axis=1), state + np.einsum("bsk,bsv->bkv", key, value)


@pytest.mark.parametrize("with_state", [False, True])
def test_recurrent_is_the_definition(with_state):
    args = arrays(13, with_state)
    for mine, expected in zip(linear_attention_recurrent(*args), by_definition(*args), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("total", [1, 2, 13])
@pytest.mark.parametrize("chunk_length", CHUNKS)
def test_chunked_equals_recurrent(chunk_length, total, with_state):
    query, key, value, state = arrays(total, with_state)
    inputs = (query, key, value) + ((state,) if with_state else ())

    def both(form):
        def run(*inputs):
            output, final = form(*inputs)
            return ops.sum(ops.sin(output)) + ops.sum(ops.cos(final)), (output, final)

        _, outputs, gradients = value_and_gradients(run, *inputs)
        return *outputs, *gradients

    chunked = both(lambda *a: linear_attention_chunked(*a, chunk_length=chunk_length))
    recurrent = both(linear_attention_recurrent)
    for mine, expected in zip(chunked, recurrent, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


def test_steps_equal_one_call():
    query, key, value, state = arrays(7, True)
    output, final = linear_attention_chunked(query, key, value, state, chunk_length=3)
    for t in range(7):
        step, state = linear_attention_step(query[:, t], key[:, t], value[:, t], state)
        np.testing.assert_allclose(step, output[:, t], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state, final, rtol=1e-5, atol=1e-5)


def test_length_one_takes_the_step():
    query, key, value, state = arrays(1, True)
    output, final = linear_attention(query, key, value, state)
    step, stepped = linear_attention_step(query[:, 0], key[:, 0], value[:, 0], state)
    np.testing.assert_array_equal(output[:, 0], step)
    np.testing.assert_array_equal(final, stepped)


def test_a_query_that_is_not_finite_stays_in_its_row():
    query, key, value, state = arrays(8, True)
    clean, _ = linear_attention_chunked(query, key, value, state, chunk_length=4)
    query[:, 5] = np.nan
    output, final = linear_attention_chunked(query, key, value, state, chunk_length=4)
    kept = np.arange(8) != 5
    np.testing.assert_array_equal(np.asarray(output)[:, kept], np.asarray(clean)[:, kept])
    assert np.isfinite(np.asarray(final)).all()


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("chunk_length", CHUNKS)
def test_running_sum_forms(chunk_length, with_state):
    _, _, value, state = arrays(13, with_state)
    state = None if state is None else state[:, 0]
    start = np.zeros((2, 3)) if state is None else state
    expected = start[:, None] + np.cumsum(value.astype("float64"), axis=1) - value
    chunked, final = running_sum_chunked(value, state, chunk_length)
    recurrent, recurrent_final = running_sum_recurrent(value, state)
    for mine in (chunked, recurrent):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)
    for mine in (final, recurrent_final):
        np.testing.assert_allclose(mine, start + value.sum(axis=1), rtol=1e-5, atol=1e-5)


def test_running_sum_step_excludes_its_own_token():
    _, _, value, state = arrays(1, True)
    output, final = running_sum(value, state[:, 0])
    np.testing.assert_array_equal(output[:, 0], state[:, 0])
    np.testing.assert_array_equal(final, running_sum_step(value[:, 0], state[:, 0])[1])
    np.testing.assert_allclose(final, state[:, 0] + value[:, 0])
