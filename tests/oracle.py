"""What a fast weight block computes, defined as plainly as it can be.

One row at a time, one token at a time, in float64. The fast weights of every token are formed
outright and the token is read with them; the gradient of a token's loss comes from automatic
differentiation of that one loss. No batching, no chunks, no hand-derived backward pass, no linear
attention: nothing here is shared with the package, or shaped like it. What JAX compiles is one row
of a round length, so that compiling, which takes seconds, is done once for most tests.

Row vectors; D width of the features, S size of the block, V vocabulary. Parameters travel as

    {"weights": {tensor name: array}, "step_sizes": {tensor name: eta}, "decays": {tensor name: d},
     "unembedding_kernel": [S, V], "unembedding_bias": [V] (may be left out),
     "skip": 1.0 where x is added to the features, "soft_cap": the logits' limit (may be left out),
     "codebook": {"vectors": [K, S], "bias": [K], "target_kernel": [S, S]} of a coarse inner loss}

and states as the flat dictionary of the public interface.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TENSORS = ("expand_kernel", "expand_bias", "project_kernel", "project_bias", "gamma", "beta")


KINDS = ("anchor", "running", "missing")  # the last one where a coarse loss is corrected
NEVER = -1  # the length of a segment that does not end


class Reading(NamedTuple):
    """Everything the oracle says about a batch; positions that do not exist hold zeros."""

    logits: np.ndarray  # [B, T, V], of the fast weights
    features: np.ndarray  # [B, T, S], what the unembedding is given
    loss: np.ndarray  # [B, T], negative log-likelihood under `logits`; 0 without a valid label
    slow_logits: np.ndarray  # [B, T, V], of the open segment's weights W' = W - eta A
    slow_loss: np.ndarray  # [B, T]
    state: dict


def fresh_state(params, batch, exact_every=None):
    """The state of rows that have read nothing."""
    state = {"position": np.zeros(batch, np.int32)}
    for name, weight in params["weights"].items():
        for kind in KINDS[: 2 if exact_every is None else 3]:
            state[f"{kind}_{name}"] = np.zeros((batch, *weight.shape))
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
    return unembed(params, features_of(weights, x, epsilon, params.get("skip")))


def unembed(params, features):
    """The logits [V] of features [S]."""
    logits = features @ params["unembedding_kernel"] + params["unembedding_bias"]
    cap = params.get("soft_cap")
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def negative_log_likelihood(logits, label):
    """-log softmax(logits)[label], a scalar."""
    return jax.nn.logsumexp(logits) - logits[label]


def coarse_loss(params, features, label):
    """The label is the last of K + 1 classes."""
    book = params["codebook"]
    target = params["unembedding_kernel"][:, label] @ book["target_kernel"]
    at_label = features @ target + params["unembedding_bias"][label]
    logits = jnp.append(book["vectors"] @ features + book["bias"], at_label)
    return negative_log_likelihood(logits, -1)


def short_loss(params, segment, fast, x, label, epsilon):
    """What a coarse loss is short of the full one, at the slow weights.

    Its gradient is the full one's at the features of the fast weights, less that of the coarse one
    at those of the slow ones, taken back through the slow weights; of the full one only the part
    that the label's column gives is no number.
    """

    def features(weights):
        return features_of(weights, x, epsilon, params.get("skip"))

    def full(features):
        return negative_log_likelihood(unembed(params, features), label)

    def coarse(features):
        return coarse_loss(params, features, label)

    column = params["unembedding_kernel"][:, label]
    exact = jax.lax.stop_gradient(jax.grad(full)(features(fast)) + column) - column
    along = exact - jax.grad(coarse)(features(segment))
    return lambda weights: along @ features(weights)


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
    }

    if "codebook" not in params:
        read["slow_loss"] = loss_of(segment)
        return read, jax.grad(loss_of)(segment), _combine(jnp.zeros_like, segment)

    def coarse(weights):
        return coarse_loss(params, features_of(weights, x, epsilon, params.get("skip")), label)

    read["slow_loss"] = coarse(segment)
    short = jax.grad(short_loss(params, segment, fast, x, label, epsilon))(segment)
    return read, jax.grad(coarse)(segment), short


def _read_row(params, x, state, tokens, segment_length, epsilon, exact_every):
    """One row: x [T, D], a state without batch axis, and what `_tokens` says of its tokens."""

    def step(sums, token):
        anchor, running, missing, position = sums
        x = jnp.where(token["exists"], token["x"], 0.0)
        read, gradient, short = visit(params, anchor, running, x, token["label"], epsilon)
        for name in ("loss", "slow_loss"):
            read[name] = jnp.where(token["labelled"], read[name], 0.0)
        read = {name: jnp.where(token["exists"], value, 0.0) for name, value in read.items()}
        # The sums once the token's gradient is in them.
        running = _combine(
            lambda r, g: jnp.where(token["learns"], r + token["weight"] * g, r), running, gradient
        )
        if missing:
            corrected = token["learns"] & (position % exact_every == exact_every - 1)
            times = jnp.where(corrected, exact_every * token["weight"], 0.0)
            missing = _combine(lambda m, g: jnp.where(corrected, m + times * g, m), missing, short)
        position = position + token["counts"]
        ends = position == segment_length
        whole = _combine(jnp.add, running, missing) if missing else running
        decayed = _combine(lambda d, a, r: d * (a + r), params["decays"], anchor, whole)
        anchor = _combine(lambda a, d: jnp.where(ends, d, a), anchor, decayed)
        running = _combine(lambda r: jnp.where(ends, 0.0, r), running)
        missing = missing and _combine(lambda m: jnp.where(ends, 0.0, m), missing)
        return (anchor, running, missing, jnp.where(ends, 0, position)), read

    kinds = [kind for kind in KINDS if f"{kind}_gamma" in state]
    sums = [{n: state[f"{kind}_{n}"] for n in TENSORS} for kind in kinds]
    sums = *sums, *[{}] * (3 - len(kinds)), state["position"]
    (*sums, position), told = jax.lax.scan(step, sums, {"x": x, **tokens})
    state = {"position": position}
    for kind, values in zip(kinds, sums, strict=False):
        state |= {f"{kind}_{name}": value for name, value in values.items()}
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


def _rows(
    params, x, labels, weights, x_mask, state, segment_length, epsilon, loss_reduction, exact_every
):
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
            exact_every or 1,
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
    exact_every=None,
):
    """Reads x [B, T, D] and returns a `Reading` of NumPy arrays.

    Labels are ids [B, T]; an id outside the vocabulary causes no update. labels=None reads without
    learning and returns the state it was given.
    """
    if "codebook" not in params or segment_length is None:
        exact_every = None
    state = fresh_state(params, len(x), exact_every) if state is None else state
    settings = segment_length, epsilon, loss_reduction, exact_every
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
    exact_every=None,
):
    """The gradient of sum(logits * cotangent) + sum(final state * state_cotangent).

    Taken with respect to every parameter (the positive step sizes and the decays themselves,
    however a layer stores them), x and the incoming state; keys "params", "x" and "state" as in
    the arguments.
    """
    if "codebook" not in params or segment_length is None:
        exact_every = None
    state = fresh_state(params, len(x), exact_every) if state is None else state
    settings = segment_length, epsilon, loss_reduction, exact_every
    if state_cotangent is None:  # zeros, for which nothing is compiled again
        state_cotangent = fresh_state(params, len(x), exact_every)
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
