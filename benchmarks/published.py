"""The published algorithm, written plainly: what a paper's reader would write in TensorFlow.

All logits, their probabilities and one-hot labels exist at once, every gradient is taken at the
trained weights, and linear attention goes by a fixed number of chunks. Equations (1) to (15) of
docs/mathematics.md for one segment; a rival to measure against, and a reference for its numbers.
"""

import tensorflow as tf


def published_logits(
    weights: dict[str, tf.Tensor],
    step_sizes: dict[str, tf.Tensor],
    x: tf.Tensor,
    labels: tf.Tensor,
    chunks: int,
    epsilon: float = 1e-6,
) -> tf.Tensor:
    """Return the logits [B, T, V] after one step for every earlier token of the row.

    Args:
        weights: `expand_kernel` [D, 4S], `expand_bias`, `project_kernel` [4S, S], `project_bias`,
            `gamma`, `beta`, `unembedding_kernel` [S, V] and `unembedding_bias` [V].
        step_sizes: scalars, for all but the last two.
        x: tensor [B, T, D].
        labels: int tensor [B, T].
        chunks: number of chunks, which divides T.
        epsilon: of the layer normalisation.
    """
    w, e = weights, step_sizes
    a1 = x @ w["expand_kernel"] + w["expand_bias"]
    r = tf.square(tf.nn.relu(a1))
    a2 = r @ w["project_kernel"] + w["project_bias"]
    norm, scale = _normalize(a2, epsilon)
    logits = (w["gamma"] * norm + w["beta"]) @ w["unembedding_kernel"] + w["unembedding_bias"]

    one_hot = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    gn = tf.matmul(tf.nn.softmax(logits) - one_hot, w["unembedding_kernel"], transpose_b=True)
    g = gn * w["gamma"]
    along = tf.reduce_mean(g * norm, axis=-1, keepdims=True)
    g2 = scale * (g - tf.reduce_mean(g, axis=-1, keepdims=True) - norm * along)
    g1 = tf.matmul(g2, w["project_kernel"], transpose_b=True) * 2.0 * tf.nn.relu(a1)

    a1 = a1 - e["expand_kernel"] * _attend(x, x, g1, chunks) - e["expand_bias"] * _before(g1)
    fast_r = tf.square(tf.nn.relu(a1))
    a2 = fast_r @ w["project_kernel"] + w["project_bias"]
    a2 = a2 - e["project_kernel"] * _attend(fast_r, r, g2, chunks)
    a2 = a2 - e["project_bias"] * _before(g2)
    gamma = w["gamma"] - e["gamma"] * _before(gn * norm)
    beta = w["beta"] - e["beta"] * _before(gn)
    n = gamma * _normalize(a2, epsilon)[0] + beta
    return n @ w["unembedding_kernel"] + w["unembedding_bias"]


def published_loss(*arguments, labels: tf.Tensor, **settings) -> tf.Tensor:
    """Return the mean cross-entropy of one-hot labels; arguments as for `published_logits`."""
    logits = published_logits(*arguments, labels=labels, **settings)
    one_hot = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(one_hot, logits))


def _normalize(a, epsilon):
    centered = a - tf.reduce_mean(a, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
    scale = tf.math.rsqrt(variance + epsilon)
    return centered * scale, scale


def _before(value):
    return tf.cumsum(value, axis=1, exclusive=True)


def _attend(query, key, value, chunks):
    def cut(a):
        batch, total, width = a.shape
        return tf.reshape(a, (batch, chunks, total // chunks, width))

    q, k, v = cut(query), cut(key), cut(value)
    scores = tf.linalg.band_part(tf.matmul(q, k, transpose_b=True), -1, 0)
    scores = tf.linalg.set_diag(scores, tf.zeros(scores.shape[:-1], scores.dtype))
    state = tf.cumsum(tf.matmul(k, v, transpose_a=True), axis=1, exclusive=True)
    return tf.reshape(scores @ v + q @ state, value.shape)
