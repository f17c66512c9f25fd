"""Run by test_block_jax.py in a process of its own: blocks under JAX, results to files.

python jax_backend.py INPUT.npz OUTPUT.npz [INPUT.npz OUTPUT.npz ...]
"""

import json
import sys

import jax
import jax.numpy as jnp
import keras
import numpy as np

import fwl_keras


def main(source, target):
    assert keras.backend.backend() == "jax"
    with np.load(source) as file:
        given = {name: file[name] for name in file.files}
    block = fwl_keras.FWLBlock.from_config(json.loads(str(given.pop("config"))))
    weights = [given.pop(f"weight/{i}") for i in range(int(given.pop("weights_count")))]
    state = {n.removeprefix("state/"): jnp.asarray(a) for n, a in given.items() if "state/" in n}
    call = {name: jnp.asarray(given[name]) for name in ("labels", "weights", "x_mask")}
    x, cotangent = jnp.asarray(given["x"]), given["cotangent"]
    block(jnp.zeros((1, 1, x.shape[-1])))
    block.set_weights(weights)
    trainable = [v.value for v in block.trainable_variables]
    fixed = [v.value for v in block.non_trainable_variables]

    def forward(trainable, x, state, **call):
        outputs, _ = block.stateless_call(
            trainable, fixed, x, state=state, return_state=True, **call
        )
        return outputs

    def objective(trainable, x, floats):
        floats = floats | {"position": state["position"]} if state else None
        logits, last = forward(trainable, x, floats, **call)
        total = jnp.sum(logits * cotangent)
        total += sum(jnp.sum(jnp.square(last[name])) for name in last if name != "position")
        return total, (logits, last)

    floats = {name: value for name, value in state.items() if name != "position"}
    (_, (logits, last)), gradients = jax.jit(
        jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)
    )(trainable, x, floats)
    found = {"logits": logits, "gradient/x": gradients[1]}
    found |= {f"state/{name}": value for name, value in last.items()}
    found |= {f"gradient/{i}": value for i, value in enumerate(gradients[0])}
    found |= {f"gradient/state/{name}": value for name, value in gradients[2].items()}
    found["eager"], _ = forward(trainable, x, state or None, **call)
    found["unlabelled"], _ = jax.jit(forward)(trainable, x, state or None, x_mask=call["x_mask"])
    first = {name: value[:, :1] for name, value in call.items()}
    found["token"], _ = jax.jit(forward)(trainable, x[:, :1], state or None, **first)
    np.savez(target, **{name: np.asarray(value) for name, value in found.items()})


if __name__ == "__main__":
    for source, target in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        main(source, target)
