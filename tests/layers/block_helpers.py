"""Random blocks and batches, and one way to ask a block for its outputs and gradients."""

import numpy as np
import tensorflow as tf
from oracle import TENSORS, oracle, oracle_gradients

import fwl_keras

# Tensor name: (sublayer of the block, attribute of the sublayer).
PLACES = {
    "expand_kernel": ("expand", "kernel"),
    "expand_bias": ("expand", "bias"),
    "project_kernel": ("project", "kernel"),
    "project_bias": ("project", "bias"),
    "gamma": ("normalization", "gamma"),
    "beta": ("normalization", "beta"),
}

MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}


def random_block(rng, width=4, size=5, vocab_size=7, step_size=0.06, **settings):
    """A built block whose every parameter is random, its adaptation far above any tolerance."""
    block = fwl_keras.FWLBlock(size, vocab_size, **settings)
    block(np.zeros((1, 1, width), np.float32))
    randomise(rng, block, step_size)
    return block


def randomise(rng, block, step_size=0.06):
    """Gives every parameter of a built block a random value."""
    for name, (layer, attribute) in PLACES.items():
        variable = getattr(getattr(block, layer), attribute)
        scale = variable.shape[0] ** -0.5 if name.endswith("kernel") else 0.3
        variable.assign(rng.normal(scale=scale, size=variable.shape) + (name == "gamma"))
    for variable in block.unembedding.weights:
        variable.assign(rng.normal(scale=0.7, size=variable.shape))
    if block.codebook is not None:
        for variable in block.codebook.weights:
            variable.assign(rng.normal(scale=0.7, size=variable.shape))
    block.set_step_sizes({name: step_size * rng.uniform(0.4, 1.6) for name in TENSORS})
    block.set_decays({name: rng.uniform(0.3, 0.9) for name in TENSORS})
    for name, variable in step_size_variables(block).items():
        if len(variable.shape):  # one per unit: let them differ
            spread = rng.uniform(0.5, 2.0, variable.shape)
            gain = block.get_config()["step_size_gain"]
            variable.assign_add(np.log(spread) / gain)
            assert np.ptp(block.step_sizes()[name]) > 0


def parameters_of(block):
    """The parameters of a block as the oracle takes them."""
    weights = {
        name: np.asarray(getattr(getattr(block, layer), attribute))
        for name, (layer, attribute) in PLACES.items()
    }
    named = {
        "weights": weights,
        "step_sizes": block.step_sizes(),
        "decays": block.decays(),
        "unembedding_kernel": np.asarray(block.unembedding.kernel),
    }
    if block.unembedding.bias is not None:
        named["unembedding_bias"] = np.asarray(block.unembedding.bias)
    if block.codebook is not None:
        named["codebook"] = {v.name: np.asarray(v) for v in block.codebook.weights}
    if block.residual:
        named["skip"] = np.array(1.0)
    if block.unembedding.soft_cap is not None:
        named["soft_cap"] = np.array(block.unembedding.soft_cap)
    return named


def settings_of(block):
    """The settings of a block that change what the oracle says."""
    config = block.get_config()
    names = "segment_length", "epsilon", "loss_reduction", "exact_every"
    return {name: config[name] for name in names}


def random_batch(rng, block, batch, length, masked=True, weighted=True, with_state=True):
    """Arguments of a call: x, labels, weights, x_mask, state (None where not asked for)."""
    width = block.expand.kernel.shape[0]
    vocab_size = block.unembedding.kernel.shape[1]
    arguments = {
        "x": rng.normal(size=(batch, length, width)).astype(np.float32),
        "labels": rng.integers(0, vocab_size, (batch, length)).astype(np.int32),
        "weights": None,
        "x_mask": None,
        "state": None,
    }
    if weighted:
        weights = rng.uniform(0.2, 1.5, (batch, length)) * (rng.random((batch, length)) < 0.8)
        arguments["weights"] = weights.astype(np.float32)
    if masked:
        arguments["x_mask"] = rng.random((batch, length)) < 0.75
    if with_state:
        arguments["state"] = random_state(rng, block, batch)
    return arguments


def random_state(rng, block, batch):
    """A state that a block could have returned: every row somewhere else in its segment."""
    length = block.get_config()["segment_length"]
    position = np.zeros(batch, np.int32)
    if length is not None:
        position = rng.integers(0, length, batch).astype(np.int32)
    state = {"position": position}
    sizes = block.step_sizes()
    for name, (layer, attribute) in PLACES.items():
        shape = (batch, *getattr(getattr(block, layer), attribute).shape)
        scale = 0.2 / np.mean(sizes[name])
        anchor, running = (rng.normal(scale=scale, size=shape) for _ in range(2))
        if length is None:
            anchor = np.zeros(shape)
        else:
            running[position == 0] = 0.0
        state[f"anchor_{name}"] = anchor.astype(np.float32)
        state[f"running_{name}"] = running.astype(np.float32)
        if "missing" in block.fast_state.kinds:
            missing = rng.normal(scale=scale, size=shape)
            missing[position == 0] = 0.0
            state[f"missing_{name}"] = missing.astype(np.float32)
    return state


def step_size_variables(block):
    """Tensor name -> the variable its step size is computed from."""
    return {
        name: getattr(block, layer).step_size_variables[attribute]
        for name, (layer, attribute) in PLACES.items()
    }


def named_variables(block):
    """The weights (not step sizes, not decays) of a block by the names the oracle uses."""
    named = {n: getattr(getattr(block, layer), a) for n, (layer, a) in PLACES.items()}
    named["unembedding_kernel"] = block.unembedding.kernel
    if block.unembedding.bias is not None:
        named["unembedding_bias"] = block.unembedding.bias
    if block.codebook is not None:
        named |= {f"codebook/{v.name}": v for v in block.codebook.weights}
    return named


def decay_variables(block):
    """Tensor name -> (the variable its decay is computed from, d decay / d variable).

    What is left of the trainable variables; whose decay each one is, and how steeply, is found by
    moving it.
    """
    known = {id(v) for v in named_variables(block).values()}
    known |= {id(v) for v in step_size_variables(block).values()}
    found = {}
    for variable in block.trainable_variables:
        if id(variable) in known:
            continue
        value, step = np.asarray(variable), 2e-3
        variable.assign(value + step)
        above = block.decays()
        variable.assign(value - step)
        below = block.decays()
        variable.assign(value)
        moved = [name for name in TENSORS if np.any(above[name] != below[name])]
        assert len(moved) == 1, (variable.path, moved)
        found[moved[0]] = variable, (above[moved[0]] - below[moved[0]]) / (2 * step)
    return found


def tensors(tree):
    """NumPy arrays of (nested) dictionaries and lists as TensorFlow tensors; None stays None."""
    if isinstance(tree, dict):
        return {name: tensors(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [tensors(value) for value in tree]
    return None if tree is None else tf.convert_to_tensor(tree)


def arrays(tree):
    """Tensors of (nested) dictionaries and tuples as NumPy arrays."""
    if isinstance(tree, dict):
        return {name: arrays(value) for name, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(arrays(value) for value in tree)
    return np.asarray(tree)


def caller(block, mode="eager", return_state=True, **more):
    """A function of the arguments of a call that returns NumPy arrays; traced or compiled once."""

    def function(arguments):
        return block(**arguments, return_state=return_state, **more)

    function = MODES[mode](function)
    return lambda arguments: arrays(function(tensors(arguments)))


def read(block, arguments, mode="eager", **more):
    """Calls the block once and returns what it returns, by default (logits, state)."""
    return caller(block, mode, **more)(arguments)


def differentiated(block, mode="eager"):
    """A function of the arguments of a call and of cotangents; traced or compiled once.

    It returns the logits, the final state ({} without a state, given or differentiated) and the
    gradient of sum(logits * cotangent) + sum(final state * state_cotangent) by name. Names: "x",
    the oracle's for weights, "step_size/T" and "decay/T" for the positive step sizes and the
    decays themselves (chain rule), "state/anchor_T" and "state/running_T".
    """
    steps = step_size_variables(block)
    decays = decay_variables(block)
    sources = named_variables(block)
    sources |= {f"step_size/{name}": variable for name, variable in steps.items()}
    sources |= {f"decay/{name}": variable for name, (variable, _) in decays.items()}
    sources = {name: variable.value for name, variable in sources.items()}
    gain, sizes = block.get_config()["step_size_gain"], block.step_sizes()

    def function(arguments, cotangent, state_cotangent):
        stateful = arguments.get("state") is not None or state_cotangent is not None
        watched = {"x": arguments["x"]}
        if arguments.get("state") is not None:
            floats = {n: s for n, s in arguments["state"].items() if n != "position"}
            watched |= {f"state/{name}": value for name, value in floats.items()}
        with tf.GradientTape() as tape:
            tape.watch(watched)
            logits, state = (
                block(**arguments, return_state=True) if stateful else (block(**arguments), {})
            )
            total = tf.reduce_sum(logits * cotangent)
            for name, value in (state_cotangent or {}).items():
                total += tf.reduce_sum(state[name] * value)
        gradients = tape.gradient(total, watched | sources, unconnected_gradients="zero")
        return logits, state, gradients

    function = MODES[mode](function)

    def call(arguments, cotangent, state_cotangent=None):
        cotangent = np.asarray(cotangent, np.float32)
        if state_cotangent is not None:
            state_cotangent = {n: np.asarray(v, np.float32) for n, v in state_cotangent.items()}
        given = tensors(arguments), tensors(cotangent), tensors(state_cotangent)
        logits, state, found = arrays(function(*given))
        for name in TENSORS:
            found[f"step_size/{name}"] = found[f"step_size/{name}"] / (gain * sizes[name])
            if name in decays:
                found[f"decay/{name}"] = found[f"decay/{name}"] / decays[name][1]
            else:  # nothing to learn: of one segment, for example
                found[f"decay/{name}"] = np.zeros_like(block.decays()[name])
        return logits, state, found

    return call


def gradients_of(block, arguments, cotangent, state_cotangent=None, mode="eager"):
    """The gradients that `differentiated` returns."""
    return differentiated(block, mode)(arguments, cotangent, state_cotangent)[2]


def oracle_reading(block, arguments):
    """What the oracle says about the call."""
    return oracle(parameters_of(block), **arguments, **settings_of(block))


def oracle_gradients_of(block, arguments, cotangent, state_cotangent=None):
    """What `gradients_of` should return."""
    found = oracle_gradients(
        parameters_of(block),
        **arguments,
        cotangent=cotangent,
        state_cotangent=state_cotangent,
        **settings_of(block),
    )
    parameters = found["params"]
    named = {"x": found["x"], "unembedding_kernel": parameters["unembedding_kernel"]}
    if "unembedding_bias" in parameters:
        named["unembedding_bias"] = parameters["unembedding_bias"]
    for name, value in parameters.get("codebook", {}).items():
        named[f"codebook/{name}"] = value
    for name in TENSORS:
        named[name] = parameters["weights"][name]
        named[f"step_size/{name}"] = parameters["step_sizes"][name]
        named[f"decay/{name}"] = parameters["decays"][name]
    if arguments.get("state") is not None:
        named |= {f"state/{name}": value for name, value in found["state"].items()}
    return named


def random_cotangents(rng, block, arguments):
    """Cotangents of the logits and of the final state."""
    batch, length = arguments["labels"].shape[:2]
    logits = rng.normal(size=(batch, length, block.unembedding.kernel.shape[1]))
    state = {}
    for name, (layer, attribute) in PLACES.items():
        shape = (batch, *getattr(getattr(block, layer), attribute).shape)
        for kind in block.fast_state.kinds:
            state[f"{kind}_{name}"] = 0.1 * rng.normal(size=shape)
    return logits, state


def assert_close(actual, expected, tolerance=1e-4, floor=1e-2, name=""):
    """Every element within `tolerance` of the largest one expected (`floor`, if that is less)."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    assert np.all(np.isfinite(actual)), f"{name}: not finite"
    largest = max(np.max(np.abs(expected), initial=0.0), floor)
    error = np.max(np.abs(actual - expected), initial=0.0)
    assert error <= tolerance * largest, f"{name}: off by {error:.3g}, largest {largest:.3g}"


def assert_all_close(actual, expected, tolerance=1e-4, floor=1e-2):
    """`assert_close` for every entry of two dictionaries with the same names."""
    assert set(actual) == set(expected)
    for name in expected:
        assert_close(actual[name], expected[name], tolerance, floor, name)


def assert_states_close(actual, expected, tolerance=1e-4):
    """Two states: positions equal, sums close."""
    assert set(actual) == set(expected)
    np.testing.assert_array_equal(actual["position"], expected["position"])
    assert_all_close(actual, expected, tolerance)
