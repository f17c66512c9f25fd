"""The training and the test step of FWLCausalLM on TensorFlow."""

import keras
import tensorflow as tf


def train_step(model, data) -> dict:
    """Take one optimizer step on one batch.

    Args:
        model: FWLCausalLM.
        data: token ids, or (x, y) or (x, y, sample_weight).

    Returns:
        Dict of the trackers' results.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        loss, counts = model.compute_loss_and_counts(x, y, sample_weight, training=True)
        scaled = model.optimizer.scale_loss(loss * _share(counts["tokens"]))
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
    return model.update_trackers(*_of_all_replicas(loss, counts))


def test_step(model, data) -> dict:
    """Measure one batch; arguments and result as for `train_step`."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    loss, counts = model.compute_loss_and_counts(x, y, sample_weight, training=False)
    return model.update_trackers(*_of_all_replicas(loss, counts))


def _share(tokens):
    """Return a replica's part of the batch's tokens: replicas' gradients are added up."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        # All of it, also of a batch without any token, whose layers have losses of their own.
        return 1.0
    return tf.stop_gradient(tf.math.divide_no_nan(tokens, _over_replicas(tokens)))


def _over_replicas(value):
    """Return the sum over the replicas of this step."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def _of_all_replicas(loss, counts):
    """Return loss and counts of the whole batch, the same in every replica.

    Replicas' results are averaged by Keras, which is right for none that is not a mean of equal
    parts; trackers add up what every replica puts in, which leaves means as they are.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return loss, counts
    tokens = counts["tokens"]
    total = _over_replicas(tokens)
    sums = {"non_finite"}

    def mean(value):
        # Without tokens there is no mean, and nothing to add.
        return _over_replicas(tf.where(tokens == 0, 0.0, value * tokens)) / total

    shared = {
        name: _over_replicas(value) / replicas if name in sums else mean(value)
        for name, value in counts.items()
        if name != "tokens"
    }
    shared = {name: tf.where(total == 0, 0.0, value) for name, value in shared.items()}
    loss = tf.where(total == 0, 0.0, mean(loss))
    return loss, {**shared, "tokens": total}
