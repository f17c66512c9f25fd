import os
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from fwl_keras.data import SentencePieceTokenizer, load_corpus

CODE = [
    "def f(x):\n    if x:\n        return x + 1234\n\n\tself.y = 'é'\r\n" * 5,
    "class A:\n    def g(self):\n        return self.y\n" * 5,
]

AWKWARD = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\t\tx\r\n\r",
    "NUL \0 inside",
    "日本語 русский العربية",
    "emoji \N{GRINNING FACE} \N{WOMAN}\u200d\N{PERSONAL COMPUTER}",
    "<unk> <s></s> <pad> <0x41> <0x0A>",
    "\ufeff\u00a0\u2028\ufffd\uffff",
    "e\u0301 \u00e9 \ufb01 \u2460",
]


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(CODE, 512)


@pytest.fixture(scope="module")
def stdlib():
    return load_corpus("python-stdlib")


@pytest.fixture(scope="module")
def stdlib_tokenizer(stdlib):
    return SentencePieceTokenizer.train([document.text for document in stdlib.train], 4096)


@pytest.mark.parametrize("text", AWKWARD + CODE)
def test_awkward_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", AWKWARD + CODE)
def test_bytes_of_ids_joined_are_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces = tokenizer.token_bytes(np.array(ids))
    assert len(pieces) == len(ids)
    assert all(pieces)
    assert b"".join(pieces) == text.encode("utf-8")


def test_special_ids_have_no_bytes(tokenizer):
    assert tokenizer.token_bytes([0, 1, 2, 3, 4]) == [b"", b"", b"", b"", b"\0"]
    with pytest.raises(ValueError, match="`ids` has 512"):
        tokenizer.token_bytes([5, 512])


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# Random characters are rare in training text; these are the pieces and their surroundings.
CODE_TEXT = st.lists(
    st.sampled_from(
        [" ", "    ", "\n", "\t", "self", "return", ":", "(", "<", "unk", ">", "|", "\0"]
    )
).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT | CODE_TEXT)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(tokenizer.eos_id < one < tokenizer.vocab_size for one in ids)


def test_space_comes_back_when_the_training_text_had_none():
    tokenizer = SentencePieceTokenizer.train(["abcabcabd\nxyz"], 300)
    assert tokenizer.decode(tokenizer.encode("a b  c")) == "a b  c"


def test_tensorflow_text_gives_the_same_ids_and_text(stdlib, stdlib_tokenizer):
    texts = AWKWARD + CODE + [document.text for document in stdlib.valid]
    in_graph = stdlib_tokenizer.to_tf()
    tokens = in_graph.tokenize(texts)
    assert tokens.dtype == "int32"
    assert tokens.to_list() == stdlib_tokenizer.encode(texts)
    assert [text.decode() for text in in_graph.detokenize(tokens).numpy()] == texts


def test_to_tf_adds_the_marks_it_is_asked_for(tokenizer):
    ids = tokenizer.encode("return x")
    for add_bos in (False, True):
        for add_eos in (False, True):
            found = tokenizer.to_tf(add_bos, add_eos).tokenize("return x").numpy().tolist()
            assert found == [2] * add_bos + ids + [3] * add_eos
            assert tokenizer.decode(found) == "return x"


def test_several_texts_are_encoded_like_each_of_them(tokenizer):
    texts = AWKWARD + CODE
    assert tokenizer.encode(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode([]) == []


def test_long_lists_are_encoded_in_groups_with_the_same_ids(tokenizer, monkeypatch):
    expected = tokenizer.encode(CODE * 3)
    monkeypatch.setattr("fwl_keras.data.sentencepiece_tokenizer._GROUP_CHARACTERS", 100)
    assert tokenizer.encode(CODE * 3) == expected
    arrays = tokenizer.encode_arrays(iter(CODE * 3))
    assert [ids.dtype for ids in arrays] == [np.int32] * 6
    assert [ids.tolist() for ids in arrays] == expected


def test_special_ids_and_vocabulary(tokenizer):
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.proto)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert [processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id()] == [
        0, 1, 2, 3
    ]  # fmt: skip
    assert tokenizer.vocab_size == processor.get_piece_size()
    assert tokenizer.decode([2, *tokenizer.encode("x"), 3, 0, 0]) == "x"
    assert tokenizer.decode(np.array(tokenizer.encode("def f"), dtype=np.int32)) == "def f"


def test_training_is_deterministic(stdlib):
    texts = [document.text for document in stdlib.train[:40]]
    one, again = (SentencePieceTokenizer.train(given, 4096) for given in (texts, iter(texts)))
    assert again.vocab_size == 4096
    assert again.proto == one.proto


def test_vocabulary_is_as_large_as_asked_and_compresses_unseen_source(stdlib, stdlib_tokenizer):
    assert stdlib_tokenizer.vocab_size == 4096
    texts = [document.text for document in stdlib.valid + stdlib.test]
    tokens = sum(map(len, stdlib_tokenizer.encode(texts)))
    # Measured 3.7; SentencePiece's defaults give 2.2.
    assert sum(len(text.encode()) for text in texts) / tokens > 3.5


def test_indentation_and_words_in_angle_brackets_are_single_pieces(stdlib_tokenizer):
    assert len(stdlib_tokenizer.encode(" " * 8)) == 1
    wikitext = SentencePieceTokenizer.train(["a <unk> in the <unk> of an <unk> \n" * 50], 300)
    assert len(wikitext.encode(" <unk>")) == 1


def test_small_text_gives_a_smaller_vocabulary():
    tokenizer = SentencePieceTokenizer.train(["A very small book.\n"], 4096)
    assert 260 < tokenizer.vocab_size < 4096
    assert max(tokenizer.encode("Another text, 日本.\n")) < tokenizer.vocab_size


def test_more_characters_than_ids_become_bytes():
    text = "".join(chr(0x4E00 + number) for number in range(3000)) + "的" * 100
    tokenizer = SentencePieceTokenizer.train([text], 400)
    assert tokenizer.vocab_size <= 400
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("的")) == 1


def test_long_training_text_is_thinned_out_evenly():
    texts = [f"{letter * 9} " * 3000 for letter in "abcdefgh"]
    tokenizer = SentencePieceTokenizer.train(texts, 400, max_characters=80_000)
    for letter in "abcdefgh":
        assert len(tokenizer.encode(letter * 9)) <= 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab\ud800", "surrogate pair at 2"),
        (b"bytes", "`text` must be a str; received bytes"),
    ],
)
def test_text_that_would_not_come_back_is_an_error(tokenizer, text, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(["fine", text])
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizer.train(["fine", text], 300)


@pytest.mark.parametrize("ids", [[5, -1], [512]])
def test_id_out_of_range_is_an_error(tokenizer, ids):
    with pytest.raises(ValueError, match=rf"`ids` has {ids[-1]}, which is not in \[0, "):
        tokenizer.decode(ids)


@pytest.mark.parametrize("texts", [[], [""], [" \n\t\n"]])
def test_training_without_text_is_an_error(texts):
    with pytest.raises(ValueError, match="`texts` has no text"):
        SentencePieceTokenizer.train(texts, 300)


def test_tiny_vocabulary_is_an_error():
    with pytest.raises(ValueError, match=r"`vocab_size` must be at least 300.*received 299"):
        SentencePieceTokenizer.train(CODE, 299)


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"an older file")
    tokenizer.save(path)
    assert SentencePieceTokenizer.load(path).proto == tokenizer.proto
    assert os.listdir(tmp_path) == ["tokenizer.model"]


def test_save_that_fails_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"an older file")

    def replace(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="disk full"):
        tokenizer.save(path)
    assert path.read_bytes() == b"an older file"
    assert os.listdir(tmp_path) == ["tokenizer.model"]


def test_loading_something_else_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.*cannot be read"):
        SentencePieceTokenizer.load(tmp_path / "nowhere")
    (tmp_path / "other").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        SentencePieceTokenizer.load(tmp_path / "other")


def test_model_with_other_special_ids_is_an_error(tmp_path):
    prefix = tmp_path / "foreign"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CODE), model_prefix=str(prefix), vocab_size=60, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="`proto` has `pad_id`=-1 where 0 is needed"):
        SentencePieceTokenizer.load(f"{prefix}.model")


def test_without_sentencepiece_it_says_what_to_install(tokenizer, monkeypatch):
    proto = tokenizer.proto
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    for make in (
        lambda: SentencePieceTokenizer(proto),
        lambda: SentencePieceTokenizer.train(["some text"], 300),
    ):
        with pytest.raises(ImportError, match=r"`pip install sentencepiece`\.$"):
            make()


def test_the_other_parts_do_without_sentencepiece():
    code = (
        # As the command does: else all of the package is imported.
        "import sys; sys.argv = ['fwl-keras']; sys.modules['sentencepiece'] = None\n"
        "from fwl_keras.data import DocumentBatches, SentencePieceTokenizer, load_corpus\n"
        "assert not {'keras', 'tensorflow', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
