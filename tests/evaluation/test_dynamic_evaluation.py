"""Dynamic evaluation against its definition, step by step, by another way of computing it."""

import keras
import numpy as np
import pytest

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.evaluation import DynamicEvaluation, document_losses

V, WIDTH, EOS = 17, 6, 1
SIZES = (13, 1, 8, 0)


def language_model(compiled=False, **block):
    # As far back as any context here, and much cheaper than to go on token by token.
    mix = keras.layers.Conv1D(WIDTH, 8, padding="causal", activation="tanh")
    body = keras.Sequential([keras.layers.Embedding(V, WIDTH), mix])
    settings = {"segment_length": 4, "initial_step_size": 0.02, **block}
    lm = FWLCausalLM(body, FWLBlock(WIDTH, V, **settings))
    lm.compile("sgd", run_eagerly=not compiled)
    return lm


@pytest.fixture(scope="module")
def compiled():
    """A model with fast weights, and what its steps have compiled for all tests."""
    keras.utils.set_random_seed(0)
    return language_model(compiled=True), {}


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(2, V, size=n).astype("int32") for n in SIZES]


def values(lm):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in lm.variables]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("block", [{"use_fast_weights": False}, {}])
@pytest.mark.parametrize("length", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_without_steps_it_is_plain_evaluation(documents, compiled, monkeypatch, block, length):
    """In a graph for one length without fast weights, and for the other with them."""
    lm, kept = language_model(compiled=bool(block) and length == 8, **block), None
    if not block and length == 4:
        lm, kept = compiled
    still = DynamicEvaluation(learning_rate=0.0, length=length, context_length=8)
    found = still.losses(lm, documents, eos_id=EOS, compiled=kept)
    monkeypatch.setattr(lm, "run_eagerly", True)
    expected = document_losses(lm, documents, length=8, batch_size=2, eos_id=EOS, pad_id=0)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def gradients_by_sgd(lm, variables, context, start):
    """How far SGD of rate 1 moves the weights in `fit`, for the mean loss from `start` on."""
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    weights = (np.arange(len(context) - 1) >= start).astype("float32")
    lm.train_on_batch(context[None, :-1], context[None, 1:], weights[None])
    gradients = [
        value - np.array(keras.ops.convert_to_numpy(v))
        for v, value in zip(variables, before, strict=True)
    ]
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    return gradients


def by_definition(lm, evaluation, documents, statistics=None):
    """Losses, the steps taken one after the other outside of any graph."""
    lm.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    variables = evaluation.variables(lm)
    trained = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    everything = np.concatenate([one.ravel() for one in statistics]) if statistics else None
    result = []
    for ids in documents:
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)
        tokens, found = np.insert(ids, 0, EOS), [np.zeros(0)]
        for begin in range(0, len(tokens) - 1, evaluation.context_length):
            context = tokens[begin : begin + evaluation.context_length + 1]
            for start in range(0, len(context) - 1, evaluation.length):
                piece = context[: start + evaluation.length + 1]
                losses = lm(piece[None, :-1], labels=piece[None, 1:], output="loss")["loss"]
                found.append(np.asarray(losses)[0, start:])
                gradients = gradients_by_sgd(lm, variables, piece, start)
                for i, variable in enumerate(variables):
                    value = np.array(keras.ops.convert_to_numpy(variable))
                    pull = evaluation.decay * (trained[i] - value)
                    if statistics:
                        gradients[i] /= statistics[i] + evaluation.epsilon
                        pull *= np.minimum(statistics[i] / everything.mean(), 1 / evaluation.decay)
                    variable.assign(value - evaluation.learning_rate * gradients[i] + pull)
        result.append(np.concatenate(found))
    for variable, value in zip(variables, trained, strict=True):
        variable.assign(value)
    return result


@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_steps_are_those_of_the_definition(rule):
    lm = language_model(use_fast_weights=False)
    rng = np.random.default_rng(1)
    documents = [rng.integers(2, V, size=n).astype("int32") for n in (7, 5)]
    rate = {"sgd": 0.5, "rms": 0.02}[rule]
    evaluation = DynamicEvaluation(
        rule,
        learning_rate=rate,
        decay=0.1,
        length=2,
        context_length=4,
        weights="all",
        epsilon=1e-2,
    )
    statistics = None
    if rule == "rms":
        statistics = [
            np.abs(rng.normal(size=v.shape)).astype("float32") for v in evaluation.variables(lm)
        ]
    found = evaluation.losses(lm, documents, statistics, eos_id=EOS)
    expected = by_definition(lm, evaluation, documents, statistics)
    plain = DynamicEvaluation(learning_rate=0.0, length=2, context_length=4)
    plain = plain.losses(lm, documents, eos_id=EOS)
    for a, b, c in zip(found, expected, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
        assert np.abs(a - c).max() > 2e-2


def test_statistics_are_root_mean_squares_of_gradients():
    lm = language_model(use_fast_weights=False)
    windows = np.random.default_rng(0).integers(2, V, size=(4, 9)).astype("int32")
    evaluation = DynamicEvaluation("rms", length=4, context_length=8)
    found = evaluation.statistics(lm, windows)
    variables = evaluation.variables(lm)
    squares = [np.zeros(v.shape) for v in variables]
    lm.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    for i, window in enumerate(windows):
        stop = 4 * (i % 2 + 1)
        for square, one in zip(
            squares, gradients_by_sgd(lm, variables, window[: stop + 1], stop - 4), strict=True
        ):
            square += np.square(one)
    for one, square in zip(found, squares, strict=True):
        np.testing.assert_allclose(one, np.sqrt(square / 4), atol=1e-5)


@pytest.mark.parametrize("weights", ["all", "block"])
@pytest.mark.parametrize("per_document", [True, False])
def test_weights_are_set_back_exactly(documents, compiled, weights, per_document):
    lm, kept = compiled if weights == "all" else (language_model(), None)
    before = values(lm)
    evaluation = DynamicEvaluation(
        learning_rate=0.3, length=4, context_length=8, weights=weights, per_document=per_document
    )
    losses = evaluation.losses(lm, documents, eos_id=EOS, compiled=kept)
    assert_same(before, values(lm))
    assert [one.shape for one in losses] == [(n,) for n in SIZES]
    # And after something that went wrong in between.
    with pytest.raises(ValueError, match="invalid literal"):
        evaluation.losses(lm, [documents[0], "no ids"], eos_id=EOS, compiled=kept)
    assert_same(before, values(lm))


@pytest.mark.parametrize("per_document", [True, False])
def test_no_score_depends_on_what_comes_later(documents, compiled, per_document):
    lm, kept = compiled
    evaluation = DynamicEvaluation(
        learning_rate=0.3, length=4, context_length=8, per_document=per_document
    )
    expected = evaluation.losses(lm, documents, eos_id=EOS, compiled=kept)
    expected = np.concatenate(expected)
    rng = np.random.default_rng(5)
    for t in (3, 4, 9, 12):
        shuffled = [one.copy() for one in documents]
        shuffled[0][t:] = rng.permutation(shuffled[0][t:])
        shuffled[2] = rng.permutation(shuffled[2])
        found = evaluation.losses(lm, shuffled, eos_id=EOS, compiled=kept)
        found = np.concatenate(found)
        np.testing.assert_array_equal(found[:t], expected[:t])
        assert np.abs(found - expected).max() > 1e-3


def test_one_stream_remembers_documents(documents):
    """The second of two equal documents is easier, but not with the trained weights again."""
    lm = language_model(use_fast_weights=False)
    twice = [documents[0], documents[0]]
    settings = {"learning_rate": 0.3, "length": 4, "context_length": 8}
    first, second = DynamicEvaluation(**settings).losses(lm, twice, eos_id=EOS)
    np.testing.assert_array_equal(first, second)
    first, second = DynamicEvaluation(**settings, per_document=False).losses(lm, twice, eos_id=EOS)
    assert second.mean() < first.mean() - 0.05


def test_errors(documents):
    lm = language_model()
    for settings, match in (
        ({"rule": "adam"}, "`rule` must be one of sgd, rms; received 'adam'"),
        ({"weights": "body"}, "`weights` must be one of"),
        ({"length": 5, "context_length": 8}, "must be a multiple of `length`=5"),
        ({"learning_rate": -1.0}, "`learning_rate` must be a number that is not negative"),
        ({"decay": 2.0}, "`decay` must lie between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=match):
            DynamicEvaluation(**settings)
    with pytest.raises(ValueError, match="received 0 arrays"):
        DynamicEvaluation("rms").losses(lm, documents, eos_id=EOS)
    with pytest.raises(ValueError, match="leave them out"):
        DynamicEvaluation("sgd").losses(lm, documents, [], eos_id=EOS)
    with pytest.raises(ValueError, match="`windows` must be some of more than"):
        DynamicEvaluation("rms").statistics(lm, np.zeros((0, 9), "int32"))
