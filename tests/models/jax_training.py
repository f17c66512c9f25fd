"""Training from given weights, on whatever backend runs this: test_training_jax.py compares them.

python jax_training.py WEIGHTS.h5 OUTPUT.npz
"""

import sys

import keras
import numpy as np

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.data import DocumentBatches
from fwl_keras.evaluation import token_losses

V, WIDTH, T, B, EOS, PAD = 17, 6, 6, 2, 1, 0
DOCUMENTS = [np.random.default_rng(i).integers(2, V, n) for i, n in enumerate([20, 5, 9, 30, 14])]


def model():
    """A small model with a loss of its own, whose adaptation is well above any tolerance."""
    tokens = keras.Input((None,), dtype="int32")
    # Features well above the normalisation's epsilon: what is close to it is ill-conditioned.
    normal = keras.initializers.RandomNormal(stddev=1.0)
    x = keras.layers.Embedding(V, WIDTH, embeddings_initializer=normal)(tokens)
    convolution = keras.layers.Conv1D(
        WIDTH, 2, padding="causal", kernel_regularizer=keras.regularizers.L2(0.1)
    )
    block = FWLBlock(WIDTH, V, segment_length=4, initial_step_size=0.04, initial_decay=0.8)
    return FWLCausalLM(keras.Model(tokens, convolution(x)), block)


def batches(carried):
    """Three batches (x, y, sample_weight), with or without `starts`."""
    weights = np.random.default_rng(0).uniform(0.5, 1.5, size=(3, B, T)).astype("float32")
    ends = {"eos_id": EOS, "pad_id": PAD}
    schedule = DocumentBatches(DOCUMENTS, T, B, steps=3, seed=3, groups=2, **ends)
    for (x, y), weight in zip(schedule, weights, strict=True):
        x = {n: a for n, a in x.items() if carried or n != "starts"}
        yield x, y, weight * x["padding_mask"]


def results(path):
    """Everything that the backends must agree on, by name."""
    found = {}
    optimizers = {
        "SGD": keras.optimizers.SGD(0.05, clipnorm=1.0),
        # With the usual epsilon the sign of a gradient that is only noise would be a step.
        "Adam": keras.optimizers.Adam(0.02, epsilon=1e-3),
    }
    for name, optimizer in optimizers.items():
        carried = name == "Adam"
        lm = model()
        lm.load_weights(path)
        lm.compile(optimizer)
        if carried:
            lm.carry_state(B, groups=2)
        for step, batch in enumerate(batches(carried)):
            logs = lm.train_on_batch(*batch, return_dict=True)
            found |= {f"{name}/{step}/{log}": value for log, value in logs.items()}
        found |= {f"{name}/weight {i}": np.array(v) for i, v in enumerate(lm.get_weights())}
    # With the weights of the last one.
    ids = np.stack([DOCUMENTS[3][i : i + T + 1] for i in range(4)]).astype("int32")
    logs = lm.evaluate(ids, batch_size=2, verbose=0, return_dict=True)
    found |= {f"evaluate/{log}": value for log, value in logs.items()}
    score = lm.score([ids[0], ids[1, :3]])
    found["score"] = score.log_probabilities
    found |= {f"state/{name}": np.asarray(value) for name, value in score.state.items()}
    found["token_losses"] = token_losses(lm, ids)
    return found


if __name__ == "__main__":
    assert keras.backend.backend() == "jax"
    np.savez(sys.argv[2], **results(sys.argv[1]))
