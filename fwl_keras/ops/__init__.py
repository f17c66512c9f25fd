"""Pure functions on tensors: the operators that fast weights are made of (any Keras backend)."""

from fwl_keras.ops.coarse_cross_entropy import coarse_cross_entropy_gradient
from fwl_keras.ops.cross_entropy import cross_entropy, cross_entropy_gradient
from fwl_keras.ops.linear_attention import (
    linear_attention,
    linear_attention_chunked,
    linear_attention_recurrent,
    linear_attention_step,
)
from fwl_keras.ops.random_uniform import random_uniform
from fwl_keras.ops.running_sum import (
    running_sum,
    running_sum_chunked,
    running_sum_recurrent,
    running_sum_step,
)
from fwl_keras.ops.sample_tokens import sample_tokens
from fwl_keras.ops.targets import next_token_targets

__all__ = [
    "coarse_cross_entropy_gradient",
    "cross_entropy",
    "cross_entropy_gradient",
    "linear_attention",
    "linear_attention_chunked",
    "linear_attention_recurrent",
    "linear_attention_step",
    "next_token_targets",
    "random_uniform",
    "running_sum",
    "running_sum_chunked",
    "running_sum_recurrent",
    "running_sum_step",
    "sample_tokens",
]
