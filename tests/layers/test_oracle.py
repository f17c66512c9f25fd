"""The oracle against closed forms, finite differences and the published code's own numbers."""

import jax
import numpy as np
import pytest
from golden_files import TENSORS as GOLDEN_TENSORS
from golden_files import golden_files, golden_gradients, load_arrays
from oracle import TENSORS, fresh_state, oracle, oracle_gradients

D, S, V = 4, 5, 7


def random_parameters(rng):
    shapes = {
        "expand_kernel": (D, 4 * S),
        "expand_bias": (4 * S,),
        "project_kernel": (4 * S, S),
        "project_bias": (S,),
        "gamma": (S,),
        "beta": (S,),
    }
    return {
        "weights": {name: rng.normal(scale=0.5, size=shape) for name, shape in shapes.items()},
        "step_sizes": {name: rng.uniform(0.02, 0.1) for name in shapes},
        "decays": {name: rng.uniform(0.3, 0.9) for name in shapes},
        "unembedding_kernel": rng.normal(size=(S, V)),
        "unembedding_bias": rng.normal(size=V),
    }


def random_inputs(rng, batch=2, length=8):
    return {
        "x": rng.normal(size=(batch, length, D)),
        "labels": rng.integers(0, V, (batch, length)),
        "weights": rng.uniform(0.3, 1.5, (batch, length)) * (rng.random((batch, length)) < 0.8),
        "x_mask": rng.random((batch, length)) < 0.8,
    }


def published(params, x, labels, weights, epsilon):
    """Section 2 of the design in closed form: hand-derived gradients, exclusive running sums."""
    w, eta = params["weights"], params["step_sizes"]
    kernel, bias = params["unembedding_kernel"], params["unembedding_bias"]

    def normalise(a):
        centred = a - a.mean(-1, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + epsilon)
        return centred / deviation, deviation

    a1 = x @ w["expand_kernel"] + w["expand_bias"]
    r = np.square(np.maximum(a1, 0))
    normal, deviation = normalise(r @ w["project_kernel"] + w["project_bias"])
    z = (w["gamma"] * normal + w["beta"]) @ kernel + bias
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    gn = weights[..., None] * (p - np.eye(V)[labels]) @ kernel.T
    g = gn * w["gamma"]
    g2 = (g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True)) / deviation
    g1 = (g2 @ w["project_kernel"].T) * 2 * np.maximum(a1, 0)

    def attention(query, key, value):
        scores = np.tril(np.einsum("btd,bsd->bts", query, key), -1)
        return scores @ value

    def before(a):
        return np.cumsum(a, 1) - a

    f1 = a1 - eta["expand_kernel"] * attention(x, x, g1) - eta["expand_bias"] * before(g1)
    rf = np.square(np.maximum(f1, 0))
    f2 = rf @ w["project_kernel"] + w["project_bias"]
    f2 = f2 - eta["project_kernel"] * attention(rf, r, g2) - eta["project_bias"] * before(g2)
    gamma = w["gamma"] - eta["gamma"] * before(gn * normal)
    beta = w["beta"] - eta["beta"] * before(gn)
    return z, (gamma * normalise(f2)[0] + beta) @ kernel + bias


def test_one_segment_is_the_published_algorithm():
    rng = np.random.default_rng(0)
    params, inputs = random_parameters(rng), random_inputs(rng)
    inputs["x_mask"] = None
    slow, fast = published(params, inputs["x"], inputs["labels"], inputs["weights"], 1e-6)
    reading = oracle(params, **inputs, segment_length=None)
    np.testing.assert_allclose(reading.slow_logits, slow, atol=1e-10)
    np.testing.assert_allclose(reading.logits, fast, atol=1e-10)
    assert np.max(np.abs(fast - slow)) > 0.1
    # The first segment of many is the same thing.
    segmented = oracle(params, **inputs, segment_length=5)
    np.testing.assert_allclose(segmented.logits[:, :5], fast[:, :5], atol=1e-10)
    assert np.max(np.abs(segmented.logits[:, 5:] - fast[:, 5:])) > 1e-3


def test_a_segment_ends_by_decaying_the_sum_into_the_anchor():
    rng = np.random.default_rng(1)
    params, inputs = random_parameters(rng), random_inputs(rng, length=6)
    inputs["x_mask"] = None
    before = oracle(params, **{n: a if a is None else a[:, :5] for n, a in inputs.items()})
    after = oracle(params, **inputs)
    closed = oracle(params, **inputs, segment_length=6)
    assert before.state["position"].tolist() == [5, 5]
    assert after.state["position"].tolist() == [6, 6]
    assert closed.state["position"].tolist() == [0, 0]
    for name in TENSORS:
        total = params["decays"][name] * after.state[f"running_{name}"]
        np.testing.assert_allclose(closed.state[f"anchor_{name}"], total, atol=1e-12)
        assert not np.any(closed.state[f"running_{name}"])
        assert not np.any(after.state[f"anchor_{name}"])


def test_reading_without_labels_uses_the_sum_and_keeps_the_state():
    rng = np.random.default_rng(2)
    params, inputs = random_parameters(rng), random_inputs(rng)
    state = oracle(params, **inputs, segment_length=3).state
    reading = oracle(params, inputs["x"], state=state, segment_length=3)
    adapted = dict(params)
    adapted["weights"] = {
        name: weight
        - params["step_sizes"][name] * (state[f"anchor_{name}"] + state[f"running_{name}"])[1]
        for name, weight in params["weights"].items()
    }
    expected = oracle(adapted, inputs["x"][1:])
    np.testing.assert_allclose(reading.logits[1:], expected.logits, atol=1e-10)
    jax.tree.map(np.testing.assert_array_equal, reading.state, dict(state))


def test_tokens_without_weight_or_label_only_count_and_masked_ones_do_not():
    rng = np.random.default_rng(3)
    params, inputs = random_parameters(rng), random_inputs(rng, batch=1, length=4)
    inputs["x_mask"] = np.array([[True, True, False, True]])
    inputs["weights"] = np.array([[1.0, 0.0, np.nan, 1.0]])
    inputs["labels"] = np.array([[3, -100, 99, -100]])
    inputs["x"][0, 2] = np.nan
    reading = oracle(params, **inputs)
    first = oracle(params, inputs["x"][:, :1], inputs["labels"][:, :1])
    assert reading.state["position"].tolist() == [3]
    assert first.state["position"].tolist() == [1]
    for name in TENSORS:
        np.testing.assert_array_equal(
            reading.state[f"running_{name}"], first.state[f"running_{name}"]
        )
    assert not np.any(reading.logits[0, 2])
    assert reading.loss[0, 0] > 0 and not np.any(reading.loss[0, 1:])


def test_gradients_agree_with_finite_differences():
    rng = np.random.default_rng(4)
    params, inputs = random_parameters(rng), random_inputs(rng, batch=1, length=7)
    settings = {"segment_length": 3}
    state = oracle(params, **random_inputs(rng, batch=1, length=8), **settings).state
    cotangent = rng.normal(size=(1, 7, V))
    state_cotangent = {n: rng.normal(size=s.shape) for n, s in state.items() if n != "position"}
    found = oracle_gradients(
        params,
        **inputs,
        state=state,
        cotangent=cotangent,
        state_cotangent=state_cotangent,
        **settings,
    )
    point = {
        "params": params,
        "x": inputs["x"],
        "state": {n: s for n, s in state.items() if n != "position"},
    }

    def objective(point):
        reading = oracle(
            point["params"],
            point["x"],
            inputs["labels"],
            inputs["weights"],
            inputs["x_mask"],
            {**point["state"], "position": state["position"]},
            **settings,
        )
        total = np.sum(reading.logits * cotangent)
        return total + sum(np.sum(reading.state[n] * c) for n, c in state_cotangent.items())

    # Along one random direction per group, so that no group hides behind a larger one.
    for group, path in [("x", ()), ("state", ())] + [("params", (key,)) for key in params]:
        steep, chosen = found[group], point[group]
        for key in path:
            steep, chosen = steep[key], chosen[key]
        direction = jax.tree.map(lambda a: rng.normal(size=np.shape(a)), chosen)
        values = []
        for step in (1e-5, -1e-5):
            moved = jax.tree.map(
                lambda a, d, step=step: np.asarray(a) + step * d, chosen, direction
            )
            for key in reversed(path):
                moved = {**point[group], key: moved}
            values.append(objective({**point, group: moved}))
        expected = (values[0] - values[1]) / 2e-5
        products = jax.tree.map(lambda g, d: np.sum(g * d), steep, direction)
        actual = sum(jax.tree.leaves(products))
        assert abs(expected) > 1e-4
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_fresh_state_is_the_absence_of_one():
    rng = np.random.default_rng(5)
    params, inputs = random_parameters(rng), random_inputs(rng)
    with_state = oracle(params, **inputs, state=fresh_state(params, 2), segment_length=3)
    without = oracle(params, **inputs, segment_length=3)
    jax.tree.map(np.testing.assert_array_equal, with_state, without)


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
def test_the_oracle_reproduces_the_published_code(path):
    arrays = load_arrays(path)
    params = {
        "weights": {},
        "step_sizes": {},
        "decays": dict.fromkeys(TENSORS, 0.5),
        "unembedding_kernel": arrays["param/unembed/kernel"],
    }
    if "param/unembed/bias" in arrays:
        params["unembedding_bias"] = arrays["param/unembed/bias"]
    for golden, (name, _, _) in GOLDEN_TENSORS.items():
        params["weights"][name] = arrays[f"param/{golden}"]
        params["step_sizes"][name] = arrays[f"param/{golden}_step_size"]
    settings = {
        "segment_length": None,
        "epsilon": 0.0,
        "loss_reduction": "mean_with_sample_weight",
    }
    inputs = [arrays[name] for name in ("x", "labels", "weights")]
    reading = oracle(params, *inputs, **settings)
    found = oracle_gradients(
        params, *inputs, None, None, arrays["cotangent"] / arrays["logits"].size, **settings
    )
    actual = {"x": found["x"], "unembedding_kernel": found["params"]["unembedding_kernel"]}
    if "unembedding_bias" in params:
        actual["unembedding_bias"] = found["params"]["unembedding_bias"]
    for name in TENSORS:
        actual[name] = found["params"]["weights"][name]
        actual[f"step_size/{name}"] = found["params"]["step_sizes"][name]
    expected = golden_gradients(arrays)
    actual |= {"logits": reading.logits, "slow_logits": reading.slow_logits}
    expected |= {"logits": arrays["logits"], "slow_logits": arrays["slow_logits"]}
    assert set(actual) == set(expected)
    for name in expected:
        error = np.max(np.abs(actual[name] - expected[name]))
        assert error <= 1e-4 * np.max(np.abs(expected[name])), name
