"""Requests that nobody would send: every row is answered or refused in words, whatever it holds.

The same ones every time; a few by default, a thousand with `-m slow`.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served_models import CORPUS, assert_sane

STATEFUL = ("read", "score_from", "generate_from")
NAMES = ("score", "score_tokens", "generate", "tokenize", "detokenize", *STATEFUL)
INT32 = st.integers(-(2**31), 2**31 - 1)
FLOATS = st.floats(width=32)
PIECES = st.sampled_from(
    [b"", b"\0", b"\xff", b"\xe2\x96", "\u2581".encode(), "\u2585".encode(), b"<|eos|>", b" " * 90]
) | st.binary(max_size=12)
TEXTS = st.lists(PIECES | st.sampled_from([one.encode() for one in CORPUS]), max_size=5)
WRITING = {
    "max_new_tokens": st.integers(-1, 42) | INT32,
    "temperature": st.floats(0, 3, width=32) | FLOATS,
    "top_k": st.integers(-1, 400) | INT32,
    "top_p": st.floats(0, 1, width=32) | FLOATS,
    "seed": st.integers(0, 2**32 - 1) | st.integers(-(2**63), 2**63 - 1),
}


@st.composite
def requests(draw, served):
    """A signature and its inputs."""
    name = draw(st.sampled_from(NAMES))
    rows = draw(st.integers(1, 4))

    def column(strategy):
        return draw(st.lists(strategy, min_size=rows, max_size=rows))

    if name in ("score_tokens", "detokenize"):
        width = draw(st.integers(0, 100))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        low, high = draw(st.sampled_from([(0, 340), (-3, 343), (-(2**31), 2**31)]))
        lengths = column(st.integers(-1, 101) | INT32)
        return name, {"token_ids": rng.integers(low, high, (rows, width)), "lengths": lengths}
    inputs = {"text": [b"".join(parts) for parts in column(TEXTS)]}
    if name.startswith("generate"):
        inputs |= {key: column(strategy) for key, strategy in WRITING.items()}
    if name in STATEFUL:
        state = served("initial_state", text=["x"] * rows)
        state = {key: np.array(v) for key, v in state.items() if key not in ("status", "message")}
        for key in draw(st.lists(st.sampled_from(sorted(state)), max_size=3)):
            flat = state[key].reshape(-1)
            place = draw(st.integers(0, flat.size - 1))
            kind = {"f": FLOATS, "i": INT32, "b": st.booleans()}[flat.dtype.kind]
            flat[place] = draw(kind)
        inputs |= state
    return name, inputs


@pytest.mark.parametrize("examples", [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_row_is_answered_or_refused(served, examples):
    served = served("recurrent")

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(served))
    def check(request):
        name, inputs = request
        outputs = served(name, **inputs)
        assert_sane(outputs, len(next(iter(inputs.values()))))

    check()
