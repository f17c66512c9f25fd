"""Counted operations against the matrix products in TensorFlow's own graph."""

import math

import keras
import numpy as np
import pytest

from benchmarks.rivals.operations import count_operations
from fwl_keras.evaluation import DynamicEvaluation, dynamic_evaluation
from fwl_keras.runs import RunConfig
from fwl_keras.runs.build_model import build_model

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="looks at TensorFlow's graph"
)

LENGTH = 32


def model(**changes):
    settings = {
        "vocab_size": 301,
        "layers": 2,
        "width": 12,
        "heads": 2,
        "length": LENGTH,
        "segment_length": 8,
    }
    return build_model(RunConfig(**{**settings, **changes}))


def reached(graph):
    """The operations that a graph's results need; TensorFlow runs no others."""
    found, left = set(), [tensor.op for tensor in graph.outputs]
    while left:
        op = left.pop()
        if op not in found:
            found.add(op)
            left += [tensor.op for tensor in op.inputs]
    return found


def products(graph):
    """Multiply-adds of all matrix products that a graph's results need."""
    total = 0
    for op in reached(graph):
        assert "While" not in op.type, "what is in a loop is not counted here"
        if op.type in ("MatMul", "BatchMatMulV2", "BatchMatMulV3"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            inner = op.inputs[0].shape[-2 if transposed else -1]
            total += math.prod(op.outputs[0].shape) * inner
        if op.type == "Einsum":
            inputs, output = op.get_attr("equation").decode().split("->")
            sizes = {}
            for labels, tensor in zip(inputs.split(","), op.inputs, strict=True):
                sizes.update(zip(labels, tensor.shape, strict=True))
            # Rotary positions are an outer product, where nothing is summed.
            if set(sizes) - set(output):
                total += math.prod(sizes.values())
    return total


def traced(lm):
    import tensorflow as tf

    def read(ids, labels):
        # With the state, which needs the last segment's sums.
        return lm(ids, labels=labels, output="loss", return_state=True)

    specs = [tf.TensorSpec((1, LENGTH), "int32")] * 2
    graph = tf.function(read, autograph=False).get_concrete_function(*specs).graph
    return products(graph) / LENGTH


def test_plain_reading():
    lm = model(fast_weights=False)
    count = count_operations(lm, LENGTH)
    assert traced(lm) == count.plain
    assert count.unembedding == 12 * 301
    assert count.block == 8 * 12 * 12


@pytest.mark.parametrize(
    ("segment_length", "chunk_length"), [(8, None), (16, None), (8, 4), (None, None), (None, 8)]
)
def test_reading_with_fast_weights(segment_length, chunk_length):
    lm = model(segment_length=segment_length, layers=1)
    lm.block.chunk_length = chunk_length
    count = count_operations(lm, LENGTH)
    assert traced(lm) == pytest.approx(count.adapting, rel=1e-6)


def test_the_extra_is_what_the_design_says():
    """About 2SV + (16 to 36)S^2 + 10CS."""
    count = count_operations(model(), LENGTH)
    size, chunk = 12, 8
    square = count.fast_weights - 2 * size * 301 - 10 * chunk * size
    assert 16 * size**2 <= square <= 36 * size**2
    assert square + count.running_sums <= 36 * size**2


def test_dynamic_evaluation_takes_at_least_three_times_as_much():
    """Gradients for weights and for activations, each as many products as reading."""
    import tensorflow as tf

    lm = model(fast_weights=False)

    def step(ids, labels):
        with tf.GradientTape() as tape:
            losses = lm(ids, labels=labels, output="loss")["loss"]
            loss = tf.reduce_sum(losses)
        return tape.gradient(loss, [v.value for v in lm.trainable_variables])

    specs = [tf.TensorSpec((1, LENGTH), "int32")] * 2
    graph = tf.function(step, autograph=False).get_concrete_function(*specs).graph
    found = products(graph) / LENGTH
    count = count_operations(lm, LENGTH)
    # The logits are computed once more on the way back, instead of being kept.
    assert found == pytest.approx(count.dynamic_evaluation + count.unembedding, rel=0.01)


@pytest.mark.parametrize("weights", ["all", "block"])
def test_dynamic_evaluation_in_pieces(weights):
    """Every piece's own graph: the context before it is read again."""
    import tensorflow as tf

    lm = model(fast_weights=False, layers=1)
    evaluation = DynamicEvaluation(length=8, context_length=LENGTH, weights=weights)
    loss_of = dynamic_evaluation._loss_function(lm)
    values = [v.value for v in evaluation.variables(lm)]

    def step(*arguments):
        with tf.GradientTape() as tape:
            loss, _ = loss_of(*arguments, lm.block.initial_state(1))
        return tape.gradient(loss, values, unconnected_gradients="zero")

    found = 0
    for stop in range(8, LENGTH + 1, 8):
        shapes = ((1, stop), "int32"), ((1, 8), "int32"), ((1, 8), "bool")
        specs = [tf.TensorSpec(*shape) for shape in shapes]
        graph = tf.function(step, autograph=False).get_concrete_function(*specs).graph
        found += products(graph)
    count = count_operations(lm, LENGTH)
    counted = {
        "all": count.dynamic_evaluation_in,
        "block": count.dynamic_evaluation_of_block_in,
    }[weights]
    assert found / LENGTH == pytest.approx(counted(4), rel=0.01)


def test_errors():
    lm = model()
    with pytest.raises(ValueError, match="`length`=30 must be a multiple of `segment_length`=8"):
        count_operations(lm, 30)
    lm.backbone = keras.Sequential([keras.layers.Embedding(301, 12)])
    with pytest.raises(ValueError, match="received Sequential"):
        count_operations(lm, LENGTH)


def test_larger_bodies_pay_less_for_fast_weights():
    ratios = []
    for layers in (1, 2, 4):
        count = count_operations(model(layers=layers, width=32), LENGTH)
        ratios.append(count.fast_weights / count.plain)
    assert np.all(np.diff(ratios) < 0)
