"""The client never sends another number than it was given."""

import numpy as np
import pytest

from fwl_keras.serving.client import Client
from fwl_keras.serving.options import ServingOptions
from fwl_keras.serving.transports import GrpcTransport, RestTransport

NAN = float("nan")
COUNTS = (0, -1, 1.5, True, "2", None)


class Asked:
    """Keeps what it was asked, and answers nothing."""

    def call(self, signature, inputs):
        self.inputs = inputs
        rows = len(inputs["text"])
        return {"status": np.zeros(rows, int), "message": [b""] * rows} | {
            "text": [b""] * rows,
            "token_count": [0] * rows,
            "finish_reason": [b"stop"] * rows,
        }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, values in {
            "seed": (1.5, -1, 2**32, True, "1", [1, 2], [1.5, 1, 1]),
            "max_new_tokens": (2.7, "8", None, 2**40, [1, 2], True),
            "top_k": (1.5, None, [[1, 2, 3]]),
            "top_p": (NAN, "1", None),
            "temperature": (NAN, float("inf"), True),
        }.items()
        for value in values
    ],
)
def test_numbers(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must"):
        Client(Asked()).generate(["a", "b", "c"], **{name: value})


def test_what_is_sent():
    asked = Asked()
    Client(asked).generate(["a", "b"], np.int64(5), temperature=0, top_k=[1, 2], seed=2**32 - 1)
    sent = {name: value.tolist() for name, value in asked.inputs.items() if name != "text"}
    assert sent == {
        "max_new_tokens": [5, 5],
        "temperature": [0.0, 0.0],
        "top_k": [1, 2],
        "top_p": [pytest.approx(0.9)] * 2,
        "seed": [2**32 - 1, 0],
    }


@pytest.mark.parametrize("texts", [[], [1], 5, None, ["a", None]])
def test_texts(texts):
    with pytest.raises(ValueError, match="`text` must be"):
        Client(Asked()).score(texts)


def test_strict():
    with pytest.raises(ValueError, match="`strict`"):
        Client(Asked(), strict="no")


@pytest.mark.parametrize("transport", [RestTransport, GrpcTransport])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("address", ("", None, 8501)),
        ("model", ("", None)),
        ("version", (-1, 1.5, True, "1")),
        ("timeout", (0, -1.0, NAN, None)),
    ],
)
def test_servers(transport, name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"`{name}` must"):
            transport(**{"address": "http://localhost:1", "model": "lm", name: value})


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens"])
@pytest.mark.parametrize("value", COUNTS)
def test_options(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        ServingOptions(**{name: value})


def test_dtype():
    with pytest.raises(ValueError, match="`dtype` must"):
        ServingOptions(dtype="int8")
