"""A served model's tokeniser against the one in Python."""

from types import SimpleNamespace

import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from served_models import CORPUS

from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.serving.checks import RowChecks
from fwl_keras.serving.graph_tokenizer import GraphTokenizer

SIGNS = ["\u2581", "\u2585", "\0", "\x1f", "\t", " ", "<|eos|>", "\ufeff", "\ufb01", "def last(x)"]
TEXT = st.lists(st.sampled_from(SIGNS) | st.characters(exclude_categories=["Cs"]), min_size=1)


def graph_tokenizer(tokenizer):
    codec = SimpleNamespace(
        preprocessor=SimpleNamespace(tokenizer=tokenizer),
        start_token_id=2,
        end_token_ids=(3,),
        vocab_size=340,
    )
    return GraphTokenizer(codec, max_tokens=1000, max_bytes=10_000)


@settings(max_examples=10)
@given(texts=st.lists(TEXT.map("".join), min_size=1, max_size=40))
def test_every_text_has_the_same_ids_as_in_python(texts):
    tokenizer = SentencePieceTokenizer.train(CORPUS, 340)
    in_graph = graph_tokenizer(tokenizer)
    checks = RowChecks(tf.zeros_like(texts, tf.int32))
    ids = in_graph.encode(tf.constant(texts), checks)
    assert not checks.status.numpy().any()
    assert ids.to_list() == tokenizer.encode(texts)
    assert [text.decode() for text in in_graph.decode(ids).numpy()] == texts


def test_a_tokeniser_that_would_change_the_sign_refuses_it():
    # What KerasHub's tokenisers have: the model's bytes, and no way around the sign.
    foreign = SimpleNamespace(proto=SentencePieceTokenizer.train(CORPUS, 340).proto)
    checks = RowChecks(tf.zeros(3, tf.int32))
    ids = graph_tokenizer(foreign).encode(tf.constant(["x", "a\u2581b", "y"]), checks)
    assert checks.status.numpy().tolist() == [0, 3, 0]
    assert [len(row) for row in ids.to_list()] == [1, 0, 1]
