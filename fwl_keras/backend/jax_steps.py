"""The training and the test step of FWLCausalLM on JAX, pure functions of the model's variables."""

import jax
import keras


def train_step(model, state, data) -> tuple:
    """Take one optimizer step on one batch.

    Args:
        model: FWLCausalLM.
        state: values of its trainable, its non-trainable, its optimizer's and its metrics'
            variables, a list of each.
        data: token ids, or (x, y) or (x, y, sample_weight).

    Returns:
        Dict of the trackers' results, and the state after the step.
    """
    trainable, non_trainable, optimizer, metrics = state

    def scaled_loss(trainable):
        loss, counts, updated = _forward(model, trainable, non_trainable, data, training=True)
        # The scale of mixed precision is a variable.
        with _values(model.optimizer.variables, optimizer):
            return model.optimizer.scale_loss(loss), (loss, counts, updated)

    gradients, (loss, counts, non_trainable) = jax.grad(scaled_loss, has_aux=True)(trainable)
    trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
    logs, metrics = _update_trackers(model, metrics, loss, counts)
    return logs, (trainable, non_trainable, optimizer, metrics)


def test_step(model, state, data) -> tuple:
    """Measure one batch; arguments and result as for `train_step`, without the optimizer's."""
    trainable, non_trainable, metrics = state
    loss, counts, non_trainable = _forward(model, trainable, non_trainable, data, training=False)
    logs, metrics = _update_trackers(model, metrics, loss, counts)
    return logs, (trainable, non_trainable, metrics)


def _forward(model, trainable, non_trainable, data, training):
    """Return the loss, the counts, and what the step makes of carried state and random seeds."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    fixed = model.non_trainable_variables
    variables = [*model.trainable_variables, *fixed]
    with _values(variables, [*trainable, *non_trainable]) as scope:
        loss, counts = model.compute_loss_and_counts(x, y, sample_weight, training=training)
    return loss, counts, [scope.get_current_value(v) for v in fixed]


def _update_trackers(model, metrics, loss, counts):
    with _values(model.metrics_variables, metrics) as scope:
        logs = model.update_trackers(loss, counts)
    return logs, [scope.get_current_value(v) for v in model.metrics_variables]


def _values(variables, values):
    """Return a scope in which variables have these values."""
    mapping = zip(variables, values, strict=True)
    # Without `collect_losses` the layers' own losses are lost.
    return keras.StatelessScope(mapping, collect_losses=True)
