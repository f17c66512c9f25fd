"""What a fast weight block computes, defined as plainly as it can be.

One row at a time, one token at a time, in float64. The fast weights of every token are formed
outright and the token is read with them; the gradient of a token's loss comes from automatic
differentiation of that one loss. No batching, no chunks, no hand-derived backward pass, no linear
attention: nothing here is shared with the package, or shaped like it. What JAX compiles is one row
of a round length, so that compiling, which takes seconds, is done once for most tests.

Row vectors; D width of the features, S size of the block, V vocabulary. Parameters travel as

    {"weights": {tensor name: array}, "step_sizes": {tensor name: eta}, "decays": {tensor name: d},
     "unembedding_kernel": [S, V], "unembedding_bias": [V] (may be left out),
     "skip": 1.0 where x is added to the features, "soft_cap": the logits' limit (may be left out)}

and states as the flat dictionary of the public interface.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TENSORS = ("expand_kernel", "expand_bias", "project_kernel", "project_bias", "gamma", "beta")


NEVER = -1  # the length of a segment that does not end


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


def _read_row(params, x, state, tokens, segment_length, epsilon):
    """One row: x [T, D], a state without batch axis, and what `_tokens` says of its tokens."""

    def step(sums, token):
        anchor, running, position = sums
        x = jnp.where(token["exists"], token["x"], 0.0)
        read, gradient = visit(params, anchor, running, x, token["label"], epsilon)
        for name in ("loss", "slow_loss"):
            read[name] = jnp.where(token["labelled"], read[name], 0.0)
        read = {name: jnp.where(token["exists"], value, 0.0) for name, value in read.items()}
        # The sums once the token's gradient is in them.
        running = _combine(
            lambda r, g: jnp.where(token["learns"], r + token["weight"] * g, r), running, gradient
        )
        position = position + token["counts"]
        ends = position == segment_length
        decayed = _combine(lambda d, a, r: d * (a + r), params["decays"], anchor, running)
        anchor = _combine(lambda a, d: jnp.where(ends, d, a), anchor, decayed)
        running = _combine(lambda r: jnp.where(ends, 0.0, r), running)
        return (anchor, running, jnp.where(ends, 0, position)), read

    anchor, running = ({n: state[f"{kind}_{n}"] for n in TENSORS} for kind in ("anchor", "running"))
    sums = anchor, running, state["position"]
    (anchor, running, position), told = jax.lax.scan(step, sums, {"x": x, **tokens})
    state = {"position": position}
    for name in TENSORS:
        state[f"anchor_{name}"], state[f"running_{name}"] = anchor[name], running[name]
    return told, state


def _objective(wanted, fixed, tokens, cotangent, state_cotangent, *settings):
    """The sum of a row's logits and of its final state, each times its cotangent."""
    told, final = _read_row(
        wanted["params"], wanted["x"], wanted["state"] | fixed, tokens, *settings
    )
    return jnp.sum(told["logits"] * cotangent) + sum(
        jnp.sum(final[name] * value) for name, value in state_cotangent.items()
    )


_reading, _gradient = jax.jit(_read_row), jax.jit(jax.grad(_objective))


def _spread(params):
    """One step size and one decay for every unit, and a bias, whether given so or not."""

    def per_unit(values):
        return {n: np.broadcast_to(values[n], params["weights"][n].shape[-1:]) for n in TENSORS}

    bias = params.get("unembedding_bias", np.zeros(params["unembedding_kernel"].shape[-1]))
    return params | {
        "step_sizes": per_unit(params["step_sizes"]),
        "decays": per_unit(params["decays"]),
        "unembedding_bias": bias,
    }


def _tokens(vocab_size, shape, labels, weights, x_mask, loss_reduction):
    """What is known of every token of a batch beside x; each an array [B, T]."""
    exists = np.ones(shape, bool) if x_mask is None else np.asarray(x_mask, bool)
    weights = np.ones(shape) if weights is None else np.asarray(weights, np.float64)
    weights = np.where(exists, weights, 0.0)
    if loss_reduction == "mean_with_sample_weight":
        weights = weights / np.sum(weights)
    counts = exists & (labels is not None)
    labels = np.full(shape, -1) if labels is None else np.asarray(labels, np.int64)
    labelled = exists & (labels >= 0) & (labels < vocab_size)
    return {
        "label": np.where(labelled, labels, 0),
        "labelled": labelled,
        "learns": labelled & (weights != 0),
        "weight": weights,
        "exists": exists,
        "counts": counts,
    }


def _padded(array, length):
    """[T, ...] with tokens that do not exist behind."""
    return np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])


def _rows(params, x, labels, weights, x_mask, state, segment_length, epsilon, loss_reduction):
    """Arguments of `_read_row`, row by row."""
    params = _spread(_float64(params))
    length = max(16, 1 << (x.shape[1] - 1).bit_length())
    position, state = np.asarray(state["position"]), _float64(state)
    tokens = _tokens(
        params["unembedding_kernel"].shape[1], x.shape[:2], labels, weights, x_mask, loss_reduction
    )
    if segment_length is None:
        segment_length = NEVER
        tokens["counts"] = np.zeros_like(tokens["counts"])
    for b in range(len(x)):
        row = {name: _padded(value[b], length) for name, value in tokens.items()}
        carried = {name: value[b] for name, value in state.items()} | {"position": position[b]}
        yield (
            params,
            _padded(_float64(x[b]), length),
            carried,
            row,
            segment_length,
            epsilon,
        )


def _float64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def _stacked(rows):
    return jax.tree.map(lambda *values: np.stack(values), *rows)


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
    state = fresh_state(params, len(x)) if state is None else state
    settings = segment_length, epsilon, loss_reduction
    with jax.enable_x64(True):
        rows = [
            _reading(*row) for row in _rows(params, x, labels, weights, x_mask, state, *settings)
        ]
        told, final = _stacked(rows)
    return Reading(**{name: a[:, : x.shape[1]] for name, a in told.items()}, state=final)


def oracle_gradients(
    params,
    x,
    labels,
    weights,
    x_mask,
    state,
    cotangent,
    state_cotangent=None,
    *,
    segment_length=128,
    epsilon=1e-6,
    loss_reduction="sum",
):
    """The gradient of sum(logits * cotangent) + sum(final state * state_cotangent).

    Taken with respect to every parameter (the positive step sizes and the decays themselves,
    however a layer stores them), x and the incoming state; keys "params", "x" and "state" as in
    the arguments.
    """
    state = fresh_state(params, len(x)) if state is None else state
    settings = segment_length, epsilon, loss_reduction
    if state_cotangent is None:  # zeros, for which nothing is compiled again
        state_cotangent = fresh_state(params, len(x))
        del state_cotangent["position"]
    rows = []
    with jax.enable_x64(True):
        for b, row in enumerate(_rows(params, x, labels, weights, x_mask, state, *settings)):
            spread, padded, carried, tokens, *numbers = row
            fixed = {"position": carried.pop("position")}
            wanted = {"params": spread, "x": padded, "state": carried}
            above = _padded(_float64(cotangent[b]), len(padded))
            sums = {name: _float64(value[b]) for name, value in state_cotangent.items()}
            rows.append(_gradient(wanted, fixed, tokens, above, sums, *numbers))
        found = _stacked(rows)

    def as_given(gradient, value):
        """Of all rows, and of all units where one number stands for them."""
        gradient = gradient.sum(axis=0)
        return gradient if np.ndim(value) else gradient.sum()

    found["x"] = found["x"][:, : x.shape[1]]
    known = {name: found["params"][name] for name in params}
    return found | {"params": jax.tree.map(as_given, known, dict(params))}
