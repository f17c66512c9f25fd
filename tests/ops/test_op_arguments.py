"""Operators refuse what does not fit, naming the argument."""

import numpy as np
import pytest
from keras import ops

from fwl_keras.ops import (
    cross_entropy,
    cross_entropy_gradient,
    linear_attention,
    linear_attention_chunked,
    linear_attention_recurrent,
    linear_attention_step,
    next_token_targets,
    random_uniform,
    running_sum,
    running_sum_chunked,
    running_sum_recurrent,
    running_sum_step,
    sample_tokens,
)

pytestmark = pytest.mark.jax

B, T, K, V = 2, 3, 4, 5


def zeros(*shape):
    return np.zeros(shape, "float32")


def ones(*shape):
    return np.ones(shape, "int32")


ENTROPY = {
    "features": zeros(B, T, K),
    "kernel": zeros(K, V),
    "bias": zeros(V),
    "labels": ones(B, T),
}
GRADIENT = {**ENTROPY, "weights": zeros(B, T)}
ATTENTION = {"query": zeros(B, T, K), "key": zeros(B, T, K), "value": zeros(B, T, V)}
STEP = {"query": zeros(B, K), "key": zeros(B, K), "value": zeros(B, V)}
SUM = {"value": zeros(B, T, V)}
SAMPLE = {"logits": zeros(B, V), "uniform": zeros(B)}
UNIFORM = {"seed": ones(B), "row": ones(B), "step": ones(B)}
LENGTHS = (0, -1, 1.5, True, "1", None)


def cases():
    for function, arguments in ((cross_entropy, ENTROPY), (cross_entropy_gradient, GRADIENT)):
        for name, value in (
            ("kernel", zeros(K + 1, V)),
            ("kernel", zeros(K)),
            ("bias", zeros(V + 1)),
            ("labels", ones(B * T)),
            ("labels", zeros(B, T)),
            *(("block_length", one) for one in (0, -1, 1.5, True)),
            *(("soft_cap", one) for one in (0.0, -1.0, np.nan, np.inf, "1")),
        ):
            yield function, arguments, name, value
    yield cross_entropy_gradient, GRADIENT, "weights", zeros(B, T + 1)
    for function in (linear_attention, linear_attention_chunked, linear_attention_recurrent):
        yield function, ATTENTION, "key", zeros(B, T, K + 1)
        yield function, ATTENTION, "value", zeros(B, T + 1, V)
        yield function, ATTENTION, "query", zeros(B, K)
        yield function, ATTENTION, "initial_state", zeros(B, V, K)
    yield linear_attention_step, STEP, "key", zeros(B, K + 1)
    yield linear_attention_step, STEP, "state", zeros(B, V, K)
    for function in (running_sum, running_sum_chunked, running_sum_recurrent):
        yield function, SUM, "value", zeros(B, V)
        yield function, SUM, "initial_state", zeros(B, V + 1)
    yield running_sum_step, {"value": zeros(B, V)}, "state", zeros(B, V + 1)
    for function in (linear_attention, linear_attention_chunked):
        yield from ((function, ATTENTION, "chunk_length", one) for one in LENGTHS)
    for function in (running_sum, running_sum_chunked):
        yield from ((function, SUM, "chunk_length", one) for one in LENGTHS)
    for name, values in {
        "logits": [zeros(V)],
        "uniform": [zeros(B + 1)],
        "temperature": [-1.0, np.nan, np.inf, True],
        "top_k": [0, 1.5, True],
        "top_p": [0.0, -0.5, np.nan],
        "most": [0, 2.5],
    }.items():
        yield from ((sample_tokens, SAMPLE, name, one) for one in values)
    for name in UNIFORM:
        yield random_uniform, UNIFORM, name, zeros(B)
    yield next_token_targets, {}, "token_ids", zeros(B, T)
    yield next_token_targets, {}, "token_ids", ones(T)
    yield next_token_targets, {"token_ids": ones(B, T)}, "padding_mask", ones(B, T + 1)


@pytest.mark.parametrize(
    ("function", "arguments", "name", "value"),
    [pytest.param(*case, id=f"{case[0].__name__}-{case[2]}-{i}") for i, case in enumerate(cases())],
)
def test_what_does_not_fit(function, arguments, name, value):
    arguments = {**arguments, name: value}
    # Of two shapes that do not fit together the second is the wrong one.
    other = "key" if name == "query" else "features" if name == "kernel" else name
    with pytest.raises(ValueError, match=rf"`({name}|{other}|value)` must"):
        function(
            **{
                n: ops.convert_to_tensor(a) if isinstance(a, np.ndarray) else a
                for n, a in arguments.items()
            }
        )


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (cross_entropy, ENTROPY),
        (cross_entropy_gradient, GRADIENT),
        (linear_attention, ATTENTION),
        (running_sum, SUM),
        (sample_tokens, {**SAMPLE, "temperature": 0, "top_k": np.int64(3), "top_p": 1}),
        (random_uniform, UNIFORM),
    ],
)
def test_what_fits(function, arguments):
    function(
        **{
            n: ops.convert_to_tensor(a) if isinstance(a, np.ndarray) else a
            for n, a in arguments.items()
        }
    )
