"""The training and the test step of FWLCausalLM on TensorFlow."""

import keras
import tensorflow as tf


def train_step(model, data) -> dict:
    """One optimizer step on one batch.

    Args:
        model: FWLCausalLM.
        data: token ids, or (x, y) or (x, y, sample_weight).

    Returns:
        Dict of the trackers' results.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        loss, counts = model.compute_loss_and_counts(x, y, sample_weight, training=True)
        # Replicas' gradients are added up.
        scaled = loss / tf.distribute.get_strategy().num_replicas_in_sync
        scaled = model.optimizer.scale_loss(scaled)
    variables = model.trainable_variables
    gradients = tape.gradient(scaled, [v.value for v in variables])
    # A window no longer than a segment never comes to the decays: no reason for Keras to warn.
    decays = {id(v) for v in model.block.decay_variables()}
    gradients = [
        tf.zeros_like(v.value) if g is None and id(v) in decays else g
        for v, g in zip(variables, gradients, strict=True)
    ]
    # An embedding's gradient comes in slices, one for each place of a token, and Adam would square
    # (and clipping would measure) each of them instead of their sum.
    gradients = [g if g is None else tf.convert_to_tensor(g) for g in gradients]
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return model.update_trackers(loss, counts)


def test_step(model, data) -> dict:
    """Measure one batch; arguments and result as for `train_step`."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    loss, counts = model.compute_loss_and_counts(x, y, sample_weight, training=False)
    return model.update_trackers(loss, counts)
