"""Texts of all of Unicode, SentencePiece's own signs among them: none is lost, none is changed."""

import io
import re

import pytest
import sentencepiece
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from fwl_keras.data import SentencePieceTokenizer

SPACE, UNKNOWN = "\u2581", "\u2585"
CODE = "def f(x):\n    return x + 1234\n\n\tself.y = 'é'\r\n" * 5

# The trainer's signs, its boundaries, names of special pieces, and what normalisers change.
SIGNS = [SPACE, UNKNOWN, "\0", "\x1f", "\t", "\n", "\r", " ", "  ", "<|eos|>", "<0xE2>", "\ufeff"]
SIGNS += ["\ufffd", "\uffff", "\ufb01", "e\u0301", "\u2028", "\u00a0", "\u200d", "\U0010ffff", "☃"]
ANY_CHARACTER = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(st.sampled_from(SIGNS) | ANY_CHARACTER | st.just("return x")).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train([CODE, f"a{SPACE}b{UNKNOWN}c"], 400)


@settings(max_examples=30)
@given(texts=st.lists(TEXT, min_size=1, max_size=40))
def test_python_and_graph_give_the_same_ids_and_the_text_back(tokenizer, texts):
    ids = tokenizer.encode(texts)
    assert [tokenizer.encode(text) for text in texts] == ids
    assert [tokenizer.decode(one) for one in ids] == texts
    assert [b"".join(tokenizer.token_bytes(one)) for one in ids] == [t.encode() for t in texts]
    in_graph = tokenizer.to_tf()
    tokens = in_graph.tokenize(texts)
    assert tokens.to_list() == ids
    assert [one.decode() for one in in_graph.detokenize(tokens).numpy()] == texts


def test_the_sign_for_a_space_is_its_bytes(tokenizer):
    ids = tokenizer.encode(f"x{SPACE} y")
    assert tokenizer.token_bytes(ids)[:5] == [b"x", b"\xe2", b"\x96", b"\x81", b" "]
    assert SPACE not in tokenizer.decode(tokenizer.encode("x  y"))


def test_all_code_points_come_back(tokenizer):
    text = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "shape", ["x", [], ["a", SPACE], [["a", "b c"], ["d" + SPACE, ""]], [["a"], [], ["b", SPACE]]]
)
def test_the_graph_takes_texts_of_any_shape(tokenizer, shape):
    def encoded(part):
        return tokenizer.encode(part) if isinstance(part, str) else [encoded(one) for one in part]

    ids = tokenizer.to_tf().tokenize(shape)
    found = ids.to_list() if isinstance(ids, tf.RaggedTensor) else ids.numpy().tolist()
    assert found == encoded(shape)
    assert ids.dtype == "int32"


# --- what the trainer is given


def characters_seen(texts, vocab_size, capfd, monkeypatch):
    """How many characters SentencePiece says it has trained on."""
    train = sentencepiece.SentencePieceTrainer.train
    monkeypatch.setattr(
        sentencepiece.SentencePieceTrainer,
        "train",
        lambda **options: train(**{**options, "minloglevel": 0}),
    )
    SentencePieceTokenizer.train(texts, vocab_size)
    log = capfd.readouterr().err
    assert "Skipped" not in log
    return int(re.search(r"all chars count=(\d+)", log)[1])


@pytest.mark.parametrize(
    ("texts", "learnable"),
    [
        ([CODE], len(CODE)),
        (["\r\n", "one line\n" * 3, "a\n\n"], 32),
        ([f"ab{UNKNOWN}cd", "xyz"], 7),
        ([CODE, UNKNOWN + ("a word " * 3000) + UNKNOWN], len(CODE) + 21_000),
        ([f"ab{SPACE}c\0\0d{UNKNOWN}{SPACE}e"], 5),
        # Four bytes each: the longest chunk that there is.
        (["\N{GRINNING FACE}" * 9_999 + "\n" + "\N{GRINNING FACE}" * 15_000], 25_000),
    ],
    ids=["code", "line ends", "one sign", "long", "all signs", "four bytes"],
)
def test_the_trainer_sees_all_text_but_the_signs(texts, learnable, capfd, monkeypatch):
    assert characters_seen(texts, 400, capfd, monkeypatch) == learnable


def test_a_sign_does_not_keep_its_surroundings_from_being_learned():
    plain, signs = ["wordy words"] * 90, [f"wordy words{UNKNOWN}" * 90]
    for texts in (plain, signs):
        tokenizer = SentencePieceTokenizer.train(texts, 300)
        assert len(tokenizer.encode("wordy words")) == 2
    # Nor does the trainer take one sign for a space.
    signs = SentencePieceTokenizer.train([f"wordy{SPACE}words" * 90], 300)
    pieces = signs.token_bytes(range(signs.vocab_size))
    assert b"words" in pieces and not any(b" w" in piece for piece in pieces)


@pytest.mark.parametrize("text", [UNKNOWN, SPACE * 9, "\0", f"\0{UNKNOWN} {SPACE}", "<|eos|>"])
def test_text_of_signs_alone_can_be_trained_on(text):
    tokenizer = SentencePieceTokenizer.train([text], 300)
    for one in (text, CODE):
        assert tokenizer.decode(tokenizer.encode(one)) == one


# --- models that change texts


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: setattr(model.normalizer_spec, "add_dummy_prefix", True),
        lambda model: setattr(model.normalizer_spec, "remove_extra_whitespaces", True),
        lambda model: [model.pieces.pop() for _ in range(len(model.pieces) - 260)],
        lambda model: setattr(model.pieces[270], "type", 3),
    ],
    ids=["prefix", "spaces removed", "no sign for a space", "a control piece"],
)
def test_a_model_that_changes_texts_is_an_error(tokenizer, damage):
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.proto)
    damage(model)
    with pytest.raises(ValueError, match=r"^`proto` \(\d+ bytes\) changes texts.*train one with"):
        SentencePieceTokenizer(model.SerializeToString())


@pytest.mark.parametrize("place", [b"<0x05>", b"return"], ids=["a byte", "a piece"])
def test_a_model_whose_pieces_are_no_utf8_is_an_error(tokenizer, place):
    damaged = tokenizer.proto.replace(place, b"\xbc" + place[1:])
    with pytest.raises(ValueError, match=r"^`proto` .* is not a SentencePiece model: ") as error:
        SentencePieceTokenizer(damaged)
    assert type(error.value) is ValueError


def test_a_model_that_normalises_is_an_error():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([CODE]), model_writer=model, vocab_size=300, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, add_dummy_prefix=False, pad_id=0, unk_id=1,
        bos_id=2, eos_id=3, minloglevel=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="changes texts"):
        SentencePieceTokenizer(model.getvalue())
