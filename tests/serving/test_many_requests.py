"""Many requests at the same time."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from served_models import SIGNATURES, TEXTS, rows_of

from fwl_keras.serving.client import Client

WORDS = ("def", "main(", "x):", "return", "the", "quick", "brown fox", "[0]", "\n", "über", "jumps")


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "export")
    return __import__("load")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, which is Linux's")
def test_two_hundred_requests_by_eight_threads(served, load):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, int(rng.integers(1, 16)))) for _ in range(200)]
    asker = load.Asker(Client(load.InProcess(served()._model)), texts, rows=3)
    mix = dict.fromkeys(load.SIGNATURES, 1.0)
    found = load.run(asker, mix, requests=200, concurrency=8, tokens=8)
    assert not found["errors"]
    assert sum(map(len, found["milliseconds"].values())) == 200
    assert set(found["milliseconds"]) == set(SIGNATURES) and all(found["milliseconds"].values())
    # After the first half nothing is left behind by a request: 100 of them, 50 MB.
    assert len(found["memory_mb"]) == 11
    assert found["memory_mb"][-1] - found["memory_mb"][5] < 50


def test_answers_are_the_same_whatever_else_is_asked(served):
    """No request sees anything of another at the same time, its text, seed or state."""
    served = served()
    rows = len(TEXTS)
    requests = []
    for i in range(8):
        writing = {"seed": [i] * rows, "max_new_tokens": [6] * rows}
        requests.append({"text": TEXTS[i:] + TEXTS[:i] if i < rows else TEXTS, **writing})
    expected = [served("generate", **one) for one in requests]
    assert len({one["text"].tobytes() for one in expected}) > 1
    found = [[] for _ in requests]

    def ask(i):
        found[i].extend(served("generate", **requests[i]) for _ in range(3))

    threads = [threading.Thread(target=ask, args=[i]) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answers, wanted in zip(found, expected, strict=True):
        assert len(answers) == 3
        for answer in answers:
            for key, value in rows_of(wanted, slice(None)).items():
                np.testing.assert_array_equal(answer[key], value)
