"""What a fast weight block computes, defined as plainly as it can be.

One row at a time, one token at a time, in float64. The fast weights of every token are formed
outright and the token is read with them; the gradient of a token's loss comes from automatic
differentiation of that one loss. No batching, no chunks, no hand-derived backward pass, no linear
attention: nothing here is shared with the package, or shaped like it.

Row vectors; D width of the features, S size of the block, V vocabulary. Parameters travel as

    {"weights": {tensor name: array}, "step_sizes": {tensor name: eta}, "decays": {tensor name: d},
     "unembedding_kernel": [S, V], "unembedding_bias": [V] (may be left out),
     "skip": 1.0 where x is added to the features, "soft_cap": the logits' limit (may be left out)}

and states as the flat dictionary of the public interface.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TENSORS = ("expand_kernel", "expand_bias", "project_kernel", "project_bias", "gamma", "beta")


class Reading(NamedTuple):
    """Everything the oracle says about a batch; positions that do not exist hold zeros."""

    logits: np.ndarray  # [B, T, V], of the fast weights
    features: np.ndarray  # [B, T, S], what the unembedding is given
    loss: np.ndarray  # [B, T], negative log-likelihood under `logits`; 0 without a valid label
    slow_logits: np.ndarray  # [B, T, V], of the open segment's weights W' = W - eta A
    slow_loss: np.ndarray  # [B, T]
    state: dict


def fresh_state(params, batch):
    """The state of rows that have read nothing."""
    state = {"position": np.zeros(batch, np.int32)}
    for name, weight in params["weights"].items():
        state[f"anchor_{name}"] = np.zeros((batch, *weight.shape))
        state[f"running_{name}"] = np.zeros((batch, *weight.shape))
    return state


def features_of(weights, x, epsilon, skip=None):
    """Section 2 for one token: x [D] to the features [S] that the unembedding is given."""
    hidden = x @ weights["expand_kernel"] + weights["expand_bias"]
    hidden = jnp.square(jnp.maximum(hidden, 0.0))
    output = hidden @ weights["project_kernel"] + weights["project_bias"]
    mean = jnp.mean(output)
    variance = jnp.mean(jnp.square(output - mean))
    normalised = (output - mean) / jnp.sqrt(variance + epsilon)
    features = weights["gamma"] * normalised + weights["beta"]
    return features if skip is None else features + skip * x


def logits_of(weights, params, x, epsilon):
    """The logits [V] of one token under the weights given."""
    features = features_of(weights, x, epsilon, params.get("skip"))
    logits = features @ params["unembedding_kernel"] + params["unembedding_bias"]
    cap = params.get("soft_cap")
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def negative_log_likelihood(logits, label):
    """-log softmax(logits)[label], a scalar."""
    return jax.nn.logsumexp(logits) - logits[label]


def _combine(function, *dictionaries):
    return {name: function(*(d[name] for d in dictionaries)) for name in TENSORS}


@partial(jax.jit, static_argnames="epsilon")
def visit(params, anchor, running, x, label, epsilon):
    """One token x [D] of a row with these sums: what is read, and the gradient it leaves behind."""
    slow, eta = params["weights"], params["step_sizes"]
    segment = _combine(lambda w, e, a: w - e * a, slow, eta, anchor)
    fast = _combine(lambda w, e, r: w - e * r, segment, eta, running)

    def loss_of(weights):
        return negative_log_likelihood(logits_of(weights, params, x, epsilon), label)

    read = {
        "logits": logits_of(fast, params, x, epsilon),
        "features": features_of(fast, x, epsilon, params.get("skip")),
        "loss": loss_of(fast),
        "slow_logits": logits_of(segment, params, x, epsilon),
        "slow_loss": loss_of(segment),
    }
    return read, jax.grad(loss_of)(segment)


@jax.jit
def learn(running, gradient, weight):
    """The running sums once the gradient of one token is in them."""
    return _combine(lambda r, g: r + weight * g, running, gradient)


@jax.jit
def consolidate(decays, anchor, running):
    """The sums (anchor, running) at the end of a segment."""
    anchor = _combine(lambda d, a, r: d * (a + r), decays, anchor, running)
    return anchor, _combine(jnp.zeros_like, running)


def _read_row(params, x, labels, weights, exists, state, segment_length, epsilon):
    """One row: x [T, D], labels [T] or None, weights [T], exists [T], state without batch axis."""
    size, vocab_size = params["unembedding_kernel"].shape
    anchor = {name: state[f"anchor_{name}"] for name in TENSORS}
    running = {name: state[f"running_{name}"] for name in TENSORS}
    position = int(state["position"])
    nothing = {
        "logits": jnp.zeros(vocab_size),
        "features": jnp.zeros(size),
        "loss": 0.0,
        "slow_logits": jnp.zeros(vocab_size),
        "slow_loss": 0.0,
    }
    told = []
    for t in range(len(x)):
        if not exists[t]:
            told.append(nothing)
            continue
        labelled = labels is not None and 0 <= labels[t] < vocab_size
        label = int(labels[t]) if labelled else 0
        read, gradient = visit(params, anchor, running, x[t], label, epsilon)
        told.append(read if labelled else read | {"loss": 0.0, "slow_loss": 0.0})
        if labelled and weights[t] != 0:
            running = learn(running, gradient, weights[t])
        if labels is not None and segment_length is not None:
            position += 1
            if position == segment_length:
                anchor, running = consolidate(params["decays"], anchor, running)
                position = 0
    told = {name: jnp.stack([read[name] for read in told]) for name in nothing}
    state = {"position": jnp.asarray(position)}
    for name in TENSORS:
        state[f"anchor_{name}"], state[f"running_{name}"] = anchor[name], running[name]
    return told, state


def _spread(params):
    """One step size and one decay for every unit, and a bias, whether given so or not."""

    def per_unit(values):
        return {n: jnp.broadcast_to(values[n], params["weights"][n].shape[-1:]) for n in TENSORS}

    bias = params.get("unembedding_bias", jnp.zeros(params["unembedding_kernel"].shape[-1]))
    return params | {
        "step_sizes": per_unit(params["step_sizes"]),
        "decays": per_unit(params["decays"]),
        "unembedding_bias": bias,
    }


def _read(params, x, labels, weights, x_mask, state, segment_length, epsilon, loss_reduction):
    batch, length = x.shape[:2]
    exists = np.ones((batch, length), bool) if x_mask is None else np.asarray(x_mask, bool)
    weights = np.ones((batch, length)) if weights is None else np.asarray(weights, np.float64)
    weights = np.where(exists, weights, 0.0)
    if loss_reduction == "mean_with_sample_weight":
        weights = weights / np.sum(weights)
    params = _spread(params)
    rows = [
        _read_row(
            params,
            x[b],
            None if labels is None else np.asarray(labels[b]),
            weights[b],
            exists[b],
            {name: value[b] for name, value in state.items()},
            segment_length,
            epsilon,
        )
        for b in range(batch)
    ]
    told, final = jax.tree.map(lambda *values: jnp.stack(values), *rows)
    return Reading(**told, state=final)


def _float64(tree):
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), tree)


def oracle(
    params,
    x,
    labels=None,
    weights=None,
    x_mask=None,
    state=None,
    *,
    segment_length=128,
    epsilon=1e-6,
    loss_reduction="sum",
):
    """Reads x [B, T, D] and returns a `Reading` of NumPy arrays.

    Labels are ids [B, T]; an id outside the vocabulary causes no update. labels=None reads without
    learning and returns the state it was given.
    """
    with jax.enable_x64(True):
        state = fresh_state(params, len(x)) if state is None else state
        position = {"position": np.asarray(state["position"])}
        reading = _read(
            _float64(params),
            _float64(x),
            labels,
            weights,
            x_mask,
            _float64(state) | position,
            segment_length,
            epsilon,
            loss_reduction,
        )
        return jax.tree.map(np.asarray, reading)


def oracle_gradients(
    params, x, labels, weights, x_mask, state, cotangent, state_cotangent=None, **settings
):
    """The gradient of sum(logits * cotangent) + sum(final state * state_cotangent).

    Taken with respect to every parameter (the positive step sizes and the decays themselves,
    however a layer stores them), x and the incoming state; keys "params", "x" and "state" as in
    the arguments. `settings` are those of `oracle`.
    """
    settings = {"segment_length": 128, "epsilon": 1e-6, "loss_reduction": "sum"} | settings
    with jax.enable_x64(True):
        state = fresh_state(params, len(x)) if state is None else dict(state)
        position = np.asarray(state.pop("position"))

        def objective(wanted):
            reading = _read(
                wanted["params"],
                wanted["x"],
                labels,
                weights,
                x_mask,
                wanted["state"] | {"position": position},
                **settings,
            )
            total = jnp.sum(reading.logits * cotangent)
            for name, value in (state_cotangent or {}).items():
                total += jnp.sum(reading.state[name] * value)
            return total

        gradients = jax.grad(objective)(_float64({"params": params, "x": x, "state": state}))
        return jax.tree.map(np.asarray, gradients)
