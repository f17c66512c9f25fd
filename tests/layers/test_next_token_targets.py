"""next_token_targets: labels shifted by one, weights from both sides of every step."""

import numpy as np
import pytest
import tensorflow as tf

import fwl_keras


def test_without_a_mask():
    ids = np.array([[3, 1, 4, 1], [5, 9, 2, 6]])
    labels, weights = fwl_keras.next_token_targets(ids)
    np.testing.assert_array_equal(np.asarray(labels)[:, :-1], ids[:, 1:])
    np.testing.assert_array_equal(weights, [[1, 1, 1, 0]] * 2)
    assert np.asarray(labels).shape == ids.shape
    assert np.issubdtype(np.asarray(labels).dtype, np.integer)
    assert np.asarray(weights).dtype == np.float32


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_a_step_needs_both_of_its_tokens(dtype):
    ids = np.arange(24).reshape(3, 8)
    mask = np.random.default_rng(0).random((3, 8)) < 0.7
    mask[0] = True
    labels, weights = fwl_keras.next_token_targets(ids, mask.astype(dtype))
    np.testing.assert_array_equal(np.asarray(labels)[:, :-1], ids[:, 1:])
    expected = np.zeros((3, 8))
    expected[:, :-1] = mask[:, :-1] & mask[:, 1:]
    np.testing.assert_array_equal(weights, expected)


def test_one_token_has_nothing_to_predict():
    labels, weights = fwl_keras.next_token_targets(np.array([[3], [5]]))
    assert np.asarray(labels).shape == (2, 1)
    np.testing.assert_array_equal(weights, [[0], [0]])


def test_in_a_graph_of_unknown_size():
    ids = np.random.default_rng(1).integers(0, 9, (2, 5)).astype(np.int32)
    mask = ids > 2

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.bool),
        ]
    )
    def function(ids, mask):
        return fwl_keras.next_token_targets(ids, mask)

    for actual, expected in zip(
        function(ids, mask), fwl_keras.next_token_targets(ids, mask), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_its_labels_and_weights_suit_the_block(mode):
    from block_helpers import MODES

    ids = np.random.default_rng(2).integers(0, 7, (2, 5)).astype(np.int32)
    labels, weights = fwl_keras.next_token_targets(ids)
    block = fwl_keras.FWLBlock(5, 7)
    x = np.random.default_rng(3).normal(size=(2, 5, 4)).astype(np.float32)
    function = MODES[mode](lambda *arguments: block(*arguments, return_state=True))
    logits, state = function(x, labels, weights)
    assert np.all(np.isfinite(logits))
    assert np.asarray(state["position"]).tolist() == [5, 5]
