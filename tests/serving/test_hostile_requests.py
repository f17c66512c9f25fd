"""Rows that are wrong, alone and among good ones."""

import numpy as np
import pytest
from served_models import OPTIONS, TEXTS, assert_sane, each_body, rows_of

# What clients rely on.
STATUS = {
    "empty": 1,
    "encoding": 2,
    "character": 3,
    "long": 4,
    "ids": 5,
    "new_tokens": 6,
    "temperature": 7,
    "top_k": 8,
    "top_p": 9,
    "seed": 10,
    "state": 11,
    "overflow": 12,
}
# And from this number on a row was answered.
DIVERGED = 100
GOOD = TEXTS[:4]
WRITING = {
    "max_new_tokens": [6, 3, 6, 1],
    "temperature": [1.0, 0.0, 0.5, 2.0],
    "top_k": [0, 0, 3, 0],
    "top_p": [1.0, 1.0, 1.0, 0.5],
    "seed": [1, 2, 3, 4],
}


def hostile_texts(count, seed=0):
    """Pairs of bytes, and the status that they must have; None where it is not known before."""
    rng = np.random.default_rng(seed)
    kinds = [
        lambda: (rng.bytes(int(rng.integers(1, 300))), None),
        lambda: (b"fine until " + rng.choice([b"\xff", b"\xc3", b"\xe2\x98", b"\xed\xa0\x80"]), 2),
        lambda: (rng.choice([b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80"]), 2),
        lambda: ("spaces\u2581of the \u2581\u2585 tokeniser\n".encode(), 0),
        lambda: (b"", 1),
        lambda: (rng.choice([b" ", b"\n", b"\t \r\n", "\u3000\u00a0".encode()]) * 5, 0),
        lambda: (b"\0" * int(rng.integers(1, 90)), 0),
        lambda: (b"a\0b\xff\0", 2),
        lambda: (b"w" * int(rng.integers(400, 3000)), 4),
        lambda: (rng.bytes(3000), None),
        lambda: ("\u202e\u200d\ufeff\U0010ffff\ufffe\u0007".encode() * 3, None),
        lambda: ("e\u0301\u0302\u0303".encode() * 5, None),
        lambda: (b"<|eos|><|bos|><|pad|><0x41>\\x00%s{limit}", 0),
    ]
    pairs = [kinds[i % len(kinds)]() for i in range(count)]
    for place in range(7, count, 120):
        pairs[place] = (rng.bytes(1_000_000) if place % 2 else b"a" * 1_000_000, 4)
    return pairs


def assert_close(one, other):
    for key in one:
        a, b = one[key], other[key]
        if a.dtype.kind in "fi" and a.ndim == 2 and a.shape[1] != b.shape[1]:
            width = min(a.shape[1], b.shape[1])
            assert not a[:, width:].any() and not b[:, width:].any(), key
            a, b = a[:, :width], b[:, :width]
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=key)
        else:
            np.testing.assert_array_equal(a, b, err_msg=key)


@each_body
@pytest.mark.parametrize(
    "name", ["score", "tokenize", "generate", "read", "score_from", "generate_from"]
)
def test_hostile_texts_among_good_ones(served, kind, name):
    served = served(kind)
    writing = WRITING if name.startswith("generate") else {}
    state = {} if name in ("score", "tokenize", "generate") else served.read(GOOD)
    expected = served(name, text=GOOD, **writing, state=state)
    assert (expected["status"] == 0).all()
    pairs = hostile_texts(500)
    refusals = 0
    for start in range(0, 500, 125):
        some = pairs[start : start + 125]
        texts, statuses = zip(*some, strict=True)
        inputs = {
            key: np.concatenate(
                [value[:2], np.resize(value, [125, *np.shape(value)[1:]]), value[2:]]
            )
            for key, value in {**writing, **state}.items()
        }
        outputs = served(name, text=[*GOOD[:2], *texts, *GOOD[2:]], **inputs)
        assert_sane(outputs, 129)
        assert_close(expected, rows_of(outputs, [0, 1, -2, -1]))
        for text, status, found in zip(texts, statuses, outputs["status"][2:-2], strict=True):
            if status == 1 and name == "generate_from":
                # These rows have a state that has read something.
                status = 0
            assert status is None or found == status, (text[:50], found)
            refusals += found != 0
    assert 200 < refusals < 450


def test_hostile_texts_by_themselves(served):
    for text, status in hostile_texts(40, seed=1):
        for name, more in (("score", {}), ("generate", {"max_new_tokens": [2]})):
            outputs = served()(name, text=[text], **more)
            assert_sane(outputs, 1)
            assert status is None or outputs["status"][0] == status, text[:50]


def hostile_parameters(count, seed=0):
    """Dicts of parameters, each with one that is wrong, and the status."""
    rng = np.random.default_rng(seed)
    largest = OPTIONS.max_new_tokens
    wrong = [
        ("max_new_tokens", [0, -1, -(2**31), largest + 1, 2**31 - 1], "new_tokens"),
        ("temperature", [-1e-3, -1e38, np.nan, np.inf, -np.inf], "temperature"),
        ("top_k", [-1, -(2**31)], "top_k"),
        ("top_p", [0.0, -0.5, 1.001, np.nan, np.inf, -np.inf, 3e38], "top_p"),
        ("seed", [-1, 2**32, -(2**63), 2**63 - 1], "seed"),
    ]
    rows = []
    for i in range(count):
        key, values, status = wrong[i % len(wrong)]
        row = {"max_new_tokens": 2, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": i}
        rows.append(({**row, key: rng.choice(np.array(values, object))}, STATUS[status]))
    return rows


@each_body
def test_hostile_parameters_among_good_ones(served, kind):
    served = served(kind)
    expected = served("generate", text=GOOD, **WRITING)
    rows = hostile_parameters(500)
    for start in range(0, 500, 125):
        some, statuses = zip(*rows[start : start + 125], strict=True)
        inputs = {
            key: [*WRITING[key][:2], *(row[key] for row in some), *WRITING[key][2:]]
            for key in WRITING
        }
        outputs = served("generate", text=[*GOOD[:2], *["x = 1"] * 125, *GOOD[2:]], **inputs)
        refused = assert_sane(outputs, 129)
        assert refused[2:-2].all()
        assert outputs["status"][2:-2].tolist() == list(statuses)
        assert_close(expected, rows_of(outputs, [0, 1, -2, -1]))


def test_odd_parameters_that_are_allowed(served):
    odd = [
        # The likeliest token always, in the end.
        {"temperature": 0.0},
        {"temperature": 2e-38},
        {"temperature": 1e-45},
        {"top_k": 1},
        {"top_p": 1e-30},
        # All tokens alike, in the end.
        {"temperature": 3e38},
        {"top_k": 2**31 - 1},
        {"seed": 2**32 - 1},
        {"max_new_tokens": OPTIONS.max_new_tokens},
    ]
    usual = {"max_new_tokens": 5, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 3}
    inputs = {key: [{**usual, **one}[key] for one in odd] for key in usual}
    outputs = served()("generate", text=["the quick"] * len(odd), **inputs)
    assert not assert_sane(outputs, len(odd)).any()
    assert len(set(outputs["text"][:5].tolist())) == 1
    assert outputs["text"][0]


@pytest.mark.parametrize("name", ["score_tokens", "detokenize"])
def test_hostile_ids_among_good_ones(served, name):
    rng = np.random.default_rng(0)
    good = rng.integers(4, 340, size=(4, 20)).astype("int32")
    good_lengths = [20, 3, 1, 17]
    expected = served()(name, token_ids=good, lengths=good_lengths)
    assert (expected["status"] == 0).all()
    for _ in range(4):
        ids = rng.integers(4, 340, size=(125, 20)).astype("int32")
        lengths = np.full(125, 20)
        place = rng.integers(20, size=125)
        statuses = np.resize([5, 5, 5, 5, 1, 5, 0], 125)
        wrong = np.resize([-1, 340, -(2**31), 2**31 - 1], 125)
        for i in range(125):
            if i % 7 < 4:
                ids[i, place[i]] = wrong[i]
            else:
                lengths[i] = (0, rng.choice([-1, 21, 2**31 - 1, -(2**31)]), place[i] + 1)[i % 7 - 4]
                # What is behind the length does not matter.
                ids[i, max(0, min(lengths[i], 20)) :] = -7
        outputs = served()(
            name,
            token_ids=np.concatenate([good, ids]),
            lengths=[*good_lengths, *lengths],
        )
        assert_sane(outputs, 129)
        assert outputs["status"][4:].tolist() == statuses.tolist()
        assert_close(expected, rows_of(outputs, slice(4)))


def test_rows_of_more_ids_than_allowed(served):
    most = OPTIONS.max_tokens
    ids = np.full([3, 100_000], 300)
    outputs = served()("score_tokens", token_ids=ids, lengths=[most, most + 1, 100_000])
    assert_sane(outputs, 3)
    assert outputs["status"].tolist() == [0, 4, 4]
    assert outputs["token_count"][0] == most - 1
    outputs = served()("score_tokens", token_ids=np.zeros([2, 0]), lengths=[0, 1])
    assert outputs["status"].tolist() == [1, 5]
    assert_sane(outputs, 2)


def damaged_states(state):
    """A state's rows damaged in every way, one after the other, and what the status must be."""
    floats = [key for key, value in state.items() if value.dtype.kind == "f"]
    damages = [(key, value, 11) for key in floats for value in (np.nan, np.inf, -np.inf)]
    damages += [("position", value, 11) for value in (-1, 6, 2**31 - 1, -(2**31))]
    # Finite, but what is computed from them is not: at the latest when it is squared.
    damages += [(key, 3e38, None) for key in floats]
    damages += [(key, -1e25, None) for key in floats]
    rows = {key: np.repeat(value[:1], len(damages), axis=0) for key, value in state.items()}
    rng = np.random.default_rng(0)
    for i, (key, value, _) in enumerate(damages):
        flat = rows[key][i : i + 1].reshape(-1)
        flat[rng.integers(flat.size)] = value
        rows[key][i] = flat.reshape(rows[key][i].shape)
    return rows, [status for *_, status in damages]


@each_body
@pytest.mark.parametrize("name", ["read", "score_from", "generate_from"])
def test_damaged_states_among_good_ones(served, kind, name):
    served = served(kind)
    state = served.read(GOOD)
    writing = WRITING if name == "generate_from" else {}
    expected = served(name, text=GOOD, **writing, state=state)
    damaged, statuses = damaged_states(state)
    count = len(statuses)
    joined = {key: np.concatenate([state[key][:2], damaged[key], state[key][2:]]) for key in state}
    writing = {
        key: [*value[:2], *np.resize(value[:1], count), *value[2:]]
        for key, value in writing.items()
    }
    texts = [*GOOD[:2], *["for one in range"] * count, *GOOD[2:]]
    outputs = served(name, text=texts, **writing, state=joined)
    assert_sane(outputs, count + 4)
    assert_close(expected, rows_of(outputs, [0, 1, -2, -1]))
    for i, status in enumerate(statuses):
        found = outputs["status"][i + 2]
        unknown = {0, STATUS["overflow"], DIVERGED}
        assert found in (unknown if status is None else {status}), i
    # A damaged state comes back fresh, any other as it was sent.
    for key, value in served.state_of(outputs).items():
        middle = value[2:-2]
        assert not middle[outputs["status"][2:-2] == STATUS["state"]].any()
        over = outputs["status"][2:-2] == STATUS["overflow"]
        np.testing.assert_array_equal(middle[over], damaged[key][over])
    assert (outputs["status"] == STATUS["overflow"]).any()


def test_a_refused_text_leaves_its_state_as_it_was(served):
    state = served().read(GOOD)
    outputs = served()("read", text=["", b"\xff", b"\xe2\x96", "x" * 10_000], state=state)
    assert outputs["status"].tolist() == [1, 2, 2, 4]
    for key, value in state.items():
        np.testing.assert_array_equal(outputs[key], value)


def test_messages_say_what_to_do(served):
    texts = ["", b"\xff", "x" * 10_000]
    messages = [one.decode() for one in served()("score", text=texts)["message"]]
    for message, part in zip(messages, ["empty", "UTF-8", "more than 96"], strict=True):
        assert part in message
    outputs = served()("generate", text=["x"], max_new_tokens=[41])
    assert "[1, 40]" in outputs["message"][0].decode()
