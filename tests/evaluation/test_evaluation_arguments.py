"""What is measured is checked before anything is computed."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.rivals.hidden_state_optimisation import HiddenStateOptimisation
from benchmarks.rivals.hill_climb import hill_climb, logarithmic_scale
from benchmarks.rivals.operations import count_operations
from fwl_keras.evaluation import DynamicEvaluation, stream_losses, token_losses
from fwl_keras.evaluation.scored_document import ScoreTotals
from fwl_keras.evaluation.token_analysis import TokenTable, doubling_edges, gain_by

NAN = float("nan")
COUNTS = (0, -1, 1.5, True, "2", None)
NUMBERS = (-1.0, NAN, "1", True, None)
FOUR = np.arange(4)


def search(**given):
    fitting = {"objective": lambda s: s["x"], "start": {"x": 1}, "scales": {"x": [1, 2]}}
    return hill_climb(**{**fitting, **given})


def gain(**given):
    fitting = {"gain": FOUR * 1.0, "values": FOUR, "documents": FOUR, "edges": np.array([0, 9])}
    return gain_by(**{**fitting, "min_documents": 2, "resamples": 2, **given})


def table(**given):
    return TokenTable.make(
        **{"documents_ids": [FOUR], "training_stream": FOUR, "vocab_size": 4, **given}
    )


WRONG = [
    (DynamicEvaluation, "rule", ("adam", None)),
    (DynamicEvaluation, "weights", ("some",)),
    (DynamicEvaluation, "length", COUNTS),
    (DynamicEvaluation, "context_length", (*COUNTS, 65)),
    (DynamicEvaluation, "learning_rate", NUMBERS),
    (DynamicEvaluation, "decay", (*NUMBERS, 1.5)),
    (DynamicEvaluation, "epsilon", (*NUMBERS, 0.0)),
    (DynamicEvaluation, "per_document", (1, "no", None)),
    (HiddenStateOptimisation, "length", COUNTS),
    (HiddenStateOptimisation, "context_length", (*COUNTS, 33)),
    (HiddenStateOptimisation, "learning_rate", NUMBERS),
    (search, "rounds", COUNTS),
    (search, "together", ([("x", "y")],)),
    (search, "start", ({"x": 3}, {})),
    (lambda **given: logarithmic_scale(**{"low": 1, "high": 10, **given}), "low", (0, NAN)),
    (lambda **given: logarithmic_scale(**{"low": 1, "high": 10, **given}), "high", (0.5, NAN)),
    (lambda **given: logarithmic_scale(**{"low": 1, "high": 10, **given}), "per_decade", COUNTS),
    (lambda **given: doubling_edges(5, **given), "per_doubling", (0, -1, NAN, None)),
    (gain, "min_documents", (*COUNTS, 5)),
    (gain, "resamples", COUNTS),
    (table, "vocab_size", COUNTS),
    (table, "documents_ids", ([], [[]])),
]


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [(make, name, value) for make, name, values in WRONG for value in values],
)
def test_what_does_not_fit(make, name, value):
    make()
    with pytest.raises(ValueError, match=name):
        make(**{name: value})


@pytest.mark.parametrize("measure", [token_losses, stream_losses])
@pytest.mark.parametrize("windows", [[], np.zeros((2, 3)), np.zeros((3, 1), int), np.arange(4)])
def test_windows(measure, windows):
    with pytest.raises(ValueError, match="`windows`"):
        measure(None, windows)


@pytest.mark.parametrize("batch_size", COUNTS)
def test_batch_size(batch_size):
    with pytest.raises(ValueError, match="`batch_size`"):
        token_losses(None, np.zeros((2, 3), int), batch_size=batch_size)


@pytest.mark.parametrize("eos_id", [-1, 5, 1.5, None])
def test_the_mark(eos_id):
    lm = SimpleNamespace(block=SimpleNamespace(vocab_size=5))
    with pytest.raises(ValueError, match="`eos_id` must"):
        DynamicEvaluation().losses(lm, [[1, 2]], eos_id=eos_id)


@pytest.mark.parametrize("length", COUNTS)
def test_operations(length):
    lm = SimpleNamespace(backbone=SimpleNamespace(num_layers=1, num_query_heads=1), block=None)
    with pytest.raises(ValueError, match="`length` must"):
        count_operations(lm, length)


def test_totals():
    plain, compared = ScoreTotals(1, 2, 3.0), ScoreTotals(1, 2, 3.0, 4.0)
    for totals in ([], [plain, compared]):
        with pytest.raises(ValueError, match="`totals` must be"):
            ScoreTotals.sum(totals)
    assert ScoreTotals.sum([compared, compared]).reference_nats == 8.0
