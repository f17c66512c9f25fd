"""A row whose fast weights blow up is answered, and its `status` says so."""

import numpy as np
import pytest
import tensorflow as tf
from served_models import OPTIONS, served_model

from fwl_keras.serving.signatures import Signatures
from fwl_keras.serving.status import FIRST_WARNING, is_refusal

LONG = "the quick brown fox jumps over the lazy dog. " * 2
WRITING = {"max_new_tokens": 2, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0}


@pytest.fixture(scope="module")
def signatures():
    lm = served_model("recurrent")
    lm.block.unembedding.kernel.assign(lm.block.unembedding.kernel * 3.0)
    steps = lm.block.step_sizes()
    lm.block.set_step_sizes(dict.fromkeys(steps, 30.0))
    found = Signatures(lm, OPTIONS).all()
    yield found
    lm.block.set_step_sizes({name: float(np.max(step)) for name, step in steps.items()})


def call(signatures, name, texts, **more):
    """A signature's function as it is, without a graph."""
    inputs = {"text": texts, **{key: [value] * len(texts) for key, value in more.items()}}
    specs = signatures[name].inputs
    given = {key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()}
    return {key: value.numpy() for key, value in signatures[name].function(given).items()}


@pytest.mark.parametrize("name", ["score", "generate"])
def test_the_status_is_a_warning(signatures, name):
    more = WRITING if name == "generate" else {}
    outputs = call(signatures, name, [LONG, "x", ""], **more)
    assert outputs["status"].tolist()[:2] == [FIRST_WARNING, 0]
    assert is_refusal(outputs["status"]).tolist() == [False, False, True]
    assert b"the fast weights diverged" in outputs["message"][0]
    assert outputs["message"][1] == b""
    # Answered all the same.
    assert outputs["token_count"][0] > 0


def test_a_state_that_diverged_is_returned(signatures):
    fresh = call(signatures, "initial_state", [LONG])
    state = {key: value for key, value in fresh.items() if key not in ("status", "message")}
    inputs = {"text": tf.constant([LONG]), **{k: tf.constant(v) for k, v in state.items()}}
    outputs = {k: v.numpy() for k, v in signatures["read"].function(inputs).items()}
    assert outputs["status"].tolist() == [FIRST_WARNING]
    assert outputs["token_count"][0] > 32 and outputs["pending_valid"][0]
