"""Spaces between what was read and what is written, for models that put one before a text."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from sentence_piece import sentence_piece

from fwl_keras.inference.texts import Codec
from fwl_keras.serving.graph_tokenizer import GraphTokenizer


@pytest.fixture(scope="module")
def codec():
    """A tokeniser like Llama's: a dummy prefix, and bytes for unknown characters."""
    model = sentence_piece(unk_id=0, bos_id=1, eos_id=2)
    tokenizer = keras_hub.models.LlamaTokenizer(model)
    preprocessor = keras_hub.models.LlamaCausalLMPreprocessor(tokenizer, sequence_length=20)
    return Codec(preprocessor, tokenizer.vocabulary_size(), None)


def test_the_graph_writes_what_the_model_writes(codec):
    graph = GraphTokenizer(codec, 100, 1000)
    the, man = codec.encode(["the", "man"])
    assert codec.decode(man) == "man" and len(codec.decode(np.concatenate([the, man]))) == 7
    start = np.array([codec.start_token_id], "int32")
    snow = codec.encode(["☃"])[0]
    before = [the, start, the[:0], np.concatenate([start, the]), the, the]
    after = [man, man, man, man, man[:0], np.concatenate([snow, [codec.end_token_ids[0]]])]
    expected = [" man", "man", " man", " man", "", " ☃"]
    assert [codec.continuation(b)(a) for b, a in zip(before, after, strict=True)] == expected
    written = graph.continuation(
        *(tf.ragged.constant([r.tolist() for r in rows], "int32") for rows in (before, after))
    )
    assert [one.decode() for one in written.numpy()] == expected
