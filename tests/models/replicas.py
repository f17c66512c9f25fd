"""Trains and evaluates on two replicas and on one, and compares; run by test_replicas.py."""

import sys

import keras
import numpy as np
import tensorflow as tf

cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)

from fwl_keras import FWLBlock, FWLCausalLM  # noqa: E402

V, WIDTH, T, BATCH = 23, 8, 12, 4


def model():
    keras.utils.set_random_seed(0)
    recurrent = keras.layers.GRU(WIDTH, return_sequences=True)
    body = keras.Sequential([keras.layers.Embedding(V, WIDTH), recurrent])
    lm = FWLCausalLM(body, FWLBlock(WIDTH, V, segment_length=5), pad_token_id=0)
    lm.compile("sgd")
    return lm


def results(lm, ids):
    """Of `evaluate`, of `fit`, and the weights after it."""
    found = lm.evaluate(ids, batch_size=BATCH, return_dict=True, verbose=0)
    history = lm.fit(ids, batch_size=BATCH, shuffle=False, verbose=0).history
    trained = {f"fit_{name}": values[0] for name, values in history.items()}
    return {**found, **trained}, lm.get_weights()


def compare(rows):
    ids = np.random.default_rng(0).integers(1, V, (rows, T)).astype("int32")
    ids[0, 5:] = 0  # replicas with different numbers of tokens
    expected, weights = results(model(), ids)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        lm = model()
    found, found_weights = results(lm, ids)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(found["perplexity"], np.exp(found["loss"]), rtol=1e-5)
    for one, other in zip(found_weights, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    compare(int(sys.argv[1]))
    print("equal")
