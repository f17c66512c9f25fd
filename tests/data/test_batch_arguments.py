"""Sizes and ids of training batches are checked, and never rounded or cut."""

import numpy as np
import pytest

from fwl_keras.data import DocumentBatches, DocumentPass, TrainingBatches
from fwl_keras.data.packing import evaluation_windows, pack_documents, pack_stream, token_stream

SIZES = {"length": 2, "batch_size": 1, "steps": 3, "seed": 0}
MARKS = {"eos_id": 1, "pad_id": 0}
DOCUMENTS = [[5, 6, 7], [8]]
COUNTS = (0, -1, 1.5, True, "2", None)
FROM_ZERO = (-1, 1.5, True, "2", None)
IDS = ([[1.5, 2.0]], [[-1, 2]], [[2**40]], [["a"]], [[[1, 2]]], [[True, False]])


def training(**given):
    return TrainingBatches(**{"stream": np.arange(20), **SIZES, **given})


def documents(**given):
    return DocumentBatches(**{"documents_ids": DOCUMENTS, **SIZES, **MARKS, **given})


def one_pass(**given):
    fitting = {"documents_ids": DOCUMENTS, "length": 2, "batch_size": 1, **MARKS}
    return DocumentPass(**{**fitting, **given})


def packed(**given):
    return pack_documents(**{"documents_ids": DOCUMENTS, "length": 2, "pad_id": 0, **given})


def stream(**given):
    return token_stream(**{"documents_ids": DOCUMENTS, "eos_id": 1, **given})


def windows(**given):
    return pack_stream(**{"documents_ids": DOCUMENTS, "length": 2, "eos_id": 1, **given})


def overlapping(**given):
    return evaluation_windows(**{"stream": np.arange(1, 9), "length": 2, "pad_id": 0, **given})


WRONG = [
    (make, name, values)
    for make, names in (
        (training, ("length", "batch_size", "steps")),
        (documents, ("length", "batch_size", "steps", "groups")),
        (one_pass, ("length", "batch_size")),
        (packed, ("length", "min_length")),
        (windows, ("length",)),
        (overlapping, ("length",)),
    )
    for name in names
    for values in [COUNTS]
] + [
    (training, "seed", FROM_ZERO),
    (training, "start", (*FROM_ZERO, 4)),
    (training, "stream", ([1.5, 2.0], [-1, 2, 3], [[1, 2]], [2**40, 1, 2])),
    (documents, "seed", FROM_ZERO),
    (documents, "start", (*FROM_ZERO, 4)),
    (documents, "eos_id", FROM_ZERO),
    (documents, "pad_id", FROM_ZERO),
    (documents, "documents_ids", IDS),
    (one_pass, "eos_id", FROM_ZERO),
    (one_pass, "pad_id", FROM_ZERO),
    (one_pass, "documents_ids", IDS),
    (packed, "pad_id", FROM_ZERO),
    (packed, "min_length", (3,)),
    (packed, "documents_ids", IDS),
    (stream, "eos_id", (-1, 1.5, True)),
    (stream, "documents_ids", IDS),
    (overlapping, "pad_id", (-1, 1.5, True, 3)),
    (overlapping, "stream", ([1.5, 2.0, 3.0],)),
]


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [(make, name, value) for make, name, values in WRONG for value in values],
)
def test_what_does_not_fit(make, name, value):
    make()
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        make(**{name: value})


def test_places():
    batches = training()
    for index in (-1, 3):
        with pytest.raises(IndexError, match=rf"\[0, 3\); received {index}\."):
            batches[index]
    for start in (-1, 4, 1.5):
        with pytest.raises(ValueError, match="start"):
            batches.from_step(start)
    one = one_pass()
    with pytest.raises(IndexError, match=r"`step` must be .* received 99\."):
        one[99]
