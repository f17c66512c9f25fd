"""What a served model answers, against the model in Python."""

import keras_hub
import numpy as np
import pytest
from served_models import TEXTS, assert_same_state, each_body, each_kind, token_inputs


def assert_same_scores(outputs, expected, first):
    """Compare with a Score, whose row i has the text's tokens from place first[i] on."""
    for i, length in enumerate(outputs["lengths"]):
        found = outputs["log_probabilities"][i]
        wanted = expected.log_probabilities[i][first[i] : first[i] + length]
        scored = np.isfinite(wanted)
        np.testing.assert_allclose(found[:length], np.where(scored, wanted, 0), atol=1e-4)
        assert (found[length:] == 0).all()
        assert outputs["token_count"][i] == scored.sum()
        total = outputs["total_log_probability"][i]
        np.testing.assert_allclose(total, wanted[scored].sum(), rtol=1e-4, atol=1e-4)
        if scored.any():
            np.testing.assert_allclose(outputs["perplexity"][i], expected.perplexity[i], rtol=1e-3)
    assert (outputs["status"] == 0).all()
    assert (outputs["message"] == b"").all()


@each_kind
def test_texts_are_scored_as_by_the_model(served, models, kind):
    outputs = served(kind)("score", text=TEXTS)
    expected = models(kind).score(TEXTS)
    lengths = [len(row) for row in models(kind).codec.encode(TEXTS)]
    assert outputs["lengths"].tolist() == lengths
    assert max(lengths) > 32
    # Every token of a text has a probability: the first follows on the start token.
    assert outputs["token_count"].tolist() == lengths
    assert_same_scores(outputs, expected, [1] * len(TEXTS))


@each_body
def test_token_ids_are_scored_as_by_the_model(served, models, kind):
    rows = [[7, 300, 2, 3, 4, 5], [9], list(range(300, 337)), [339] * 16]
    outputs = served(kind)("score_tokens", **token_inputs(rows))
    expected = models(kind).score(rows)
    assert outputs["lengths"].tolist() == [6, 1, 37, 16]
    assert outputs["token_count"].tolist() == [5, 0, 36, 15]
    assert_same_scores(outputs, expected, [0] * 4)


@each_kind
def test_a_text_is_read_and_another_scored_as_by_the_model(served, models, kind):
    lm, served = models(kind), served(kind)
    # The last row stays fresh.
    state = lm.read([*TEXTS[:5], ""])
    fresh = served.fresh_state(1)
    found = served.read([*TEXTS[:5], "x"])
    found = {key: np.concatenate([value[:5], fresh[key]]) for key, value in found.items()}
    assert_same_state(found, state)

    texts = TEXTS[::-1]
    outputs = served("score_from", text=texts, state=found)
    expected = lm.score(texts, state)
    assert_same_scores(outputs, expected, [0] * 5 + [1])
    assert_same_state(served.state_of(outputs), expected.state)


# Of each row: text, temperature, top_k, top_p, seed, max_new_tokens, and the sampler.
_samplers = keras_hub.samplers
WRITING = [
    (TEXTS[0], 0.0, 0, 1.0, 3, 4, _samplers.GreedySampler()),
    (TEXTS[1], 1.0, 0, 1.0, 4, 6, _samplers.RandomSampler()),
    (TEXTS[2], 0.7, 5, 1.0, 5, 1, _samplers.TopKSampler(k=5, temperature=0.7)),
    (TEXTS[3], 1.3, 0, 0.6, 2**32 - 1, 3, _samplers.TopPSampler(p=0.6, temperature=1.3)),
    (TEXTS[4], 0.5, 40, 0.9, 0, 18, _samplers.TopPSampler(p=0.9, k=40, temperature=0.5)),
    (TEXTS[5], 1.0, 1000, 1.0, 7, 5, _samplers.RandomSampler()),
]


def write(served, name="generate", rows=WRITING, texts=None, **more):
    keys = ("text", "temperature", "top_k", "top_p", "seed", "max_new_tokens")
    inputs = {key: [row[i] for row in rows] for i, key in enumerate(keys)}
    return served(name, **(inputs if texts is None else {**inputs, "text": texts}), **more)


def assert_same_texts(lm, outputs, texts, state=None):
    """Compare with what the model writes, row by row."""
    reasons, states = [], []
    begun = [False] * len(texts) if state is None else state["pending_valid"]
    for i, (text, *_, seed, new, sampler) in enumerate(
        (text, *row[1:]) for text, row in zip(texts, WRITING, strict=True)
    ):
        lm.sampler = sampler
        one = None if state is None else {key: value[i : i + 1] for key, value in state.items()}
        (prompt,) = lm.codec.encode([text])
        before = len(prompt) + (not begun[i])
        (written,), after = lm.generate(
            [text], before + new, one, seed=[seed], strip_prompt=True, return_state=True
        )
        assert outputs["text"][i].decode() == written, i
        count = outputs["token_count"][i]
        reasons.append("length" if count == new else "stop")
        assert 1 <= count <= new
        states.append(after)
    found = [reason.decode() for reason in outputs["finish_reason"]]
    # A row whose very last token is the end stops, too.
    differ = [i for i, (a, b) in enumerate(zip(found, reasons, strict=True)) if a != b]
    assert all(found[i] == "stop" for i in differ), (found, reasons)
    assert (outputs["status"] == 0).all()
    return found, {key: np.concatenate([one[key] for one in states]) for key in states[0]}


@each_body
def test_texts_are_written_as_by_the_model(served, models, kind):
    outputs = write(served(kind))
    reasons, _ = assert_same_texts(models(kind), outputs, [row[0] for row in WRITING])
    # Each row ends by itself, in both ways.
    assert set(reasons) == {"stop", "length"}
    assert len(set(outputs["token_count"].tolist())) > 3


@each_kind
@pytest.mark.slow
def test_a_text_is_written_on_from_a_state_as_by_the_model(served, models, kind):
    lm, served = models(kind), served(kind)
    read = ["", *TEXTS[5:2:-1], "y = x", "fox"]
    state = {key: np.asarray(value) for key, value in lm.read(read).items()}
    # A row that has read something may be asked to go on at once.
    texts = ["def", "", TEXTS[5], "", "x", " "]
    outputs = write(served, "generate_from", texts=texts, state=state)
    _, expected = assert_same_texts(lm, outputs, texts, state)
    assert_same_state(served.state_of(outputs), expected)


def test_tokens_of_a_text_and_back(served, models):
    lm, served = models(), served()
    texts = [*TEXTS, "\t  two  spaces \r\n", "\0 a\0", "\ufeffbom", "\ufffd", "e\u0301 \u200d"]
    outputs = served("tokenize", text=texts)
    expected = lm.codec.encode(texts)
    for ids, length, wanted in zip(outputs["token_ids"], outputs["lengths"], expected, strict=True):
        assert ids[:length].tolist() == wanted.tolist()
        assert (ids[length:] == 0).all()
    back = served("detokenize", token_ids=outputs["token_ids"], lengths=outputs["lengths"])
    assert [text.decode() for text in back["text"]] == texts


def test_text_of_tokens_that_are_no_text(served, models):
    tokenizer = models().preprocessor.tokenizer
    # Half a character, and special ids, which disappear.
    rows = [[4 + 0xE2, 4 + 0x98, 300], [2, 301, 3, 302], [3]]
    outputs = served()("detokenize", **token_inputs(rows))
    assert [text.decode() for text in outputs["text"]] == [tokenizer.decode(row) for row in rows]
    assert "\ufffd" in outputs["text"][0].decode()


def test_the_default_signature_scores(served):
    outputs, expected = (served()(name, text=TEXTS) for name in ("serving_default", "score"))
    for key, value in expected.items():
        np.testing.assert_array_equal(outputs[key], value)


def test_a_fresh_state_is_the_models(served, models):
    assert_same_state(served().fresh_state(3), models().initial_state(3), atol=0)
