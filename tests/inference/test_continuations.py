"""What is written, decoded after its prompt: pieces joined are the text, for every tokeniser."""

from types import SimpleNamespace

import keras
import keras_hub
import numpy as np
import pytest
from lm_helpers import WIDTH
from sentence_piece import sentence_piece

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.backbones import RecurrentBackbone
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.inference.texts import Codec
from fwl_keras.models import TextPreprocessor

pytestmark = pytest.mark.eager

TEXTS = ["the man", "☃ naïve the", "the  man and", "man\U0001f98a", " the"]


def ours():
    tokenizer = SentencePieceTokenizer.train(["the man and the dog saw the man\n"] * 20, 300)
    return TextPreprocessor(tokenizer)


def llama():
    """A dummy prefix, as all models that SentencePiece makes by default."""
    tokenizer = keras_hub.models.LlamaTokenizer(
        sentence_piece(remove_extra_whitespaces=False, unk_id=0, bos_id=1, eos_id=2)
    )
    return keras_hub.models.LlamaCausalLMPreprocessor(tokenizer, sequence_length=20)


def gpt2():
    pieces = ["<|endoftext|>", *keras_hub_bytes(), "th", "the", "Ġthe", "Ġm"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary, ["t h", "th e", "Ġ the", "Ġ m"])
    return keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=20)


def keras_hub_bytes():
    """The 256 characters that stand for bytes in GPT-2's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def bytes_alone():
    return SimpleNamespace(tokenizer=keras_hub.tokenizers.ByteTokenizer(), add_start_token=False)


def bytes_with_a_sign():
    tokenizer = keras_hub.tokenizers.ByteTokenizer(replacement_char=ord("?"))
    return SimpleNamespace(tokenizer=tokenizer, add_start_token=False)


def characters():
    tokenizer = keras_hub.tokenizers.UnicodeCodepointTokenizer(lowercase=False)
    return SimpleNamespace(tokenizer=tokenizer, add_start_token=False)


TOKENIZERS = [
    ours,
    llama,
    gpt2,
    bytes_alone,
    bytes_with_a_sign,
    characters,
]


@pytest.fixture(scope="module", params=TOKENIZERS, ids=lambda make: make.__name__)
def codec(request):
    preprocessor = request.param()
    tokenizer = preprocessor.tokenizer
    size = getattr(tokenizer, "vocab_size", None) or tokenizer.vocabulary_size()
    return Codec(preprocessor, size, None)


class Written:
    """A generation that is known beforehand."""

    def __init__(self, prompt, ids):
        self.prompt, self.ids, self.count = prompt, ids, 0

    finished = property(lambda self: self.count >= self.ids.size)
    rows = property(lambda self: [np.concatenate([self.prompt, self.ids[: self.count]])])

    def run(self, count):
        self.count += count


@pytest.mark.parametrize("at_once", [1, 3])
def test_pieces_joined_are_the_text(codec, at_once):
    """Cut at every place: the words, the spaces and the bytes of one character."""
    lm = SimpleNamespace(codec=codec)
    for text in TEXTS:
        ids = codec.encode([text])[0]
        for cut in range(ids.size):
            prompt, rest = ids[:cut], ids[cut:]
            pieces = list(FWLCausalLM._pieces(lm, Written(prompt, rest), True, prompt, at_once))
            given = SimpleNamespace(is_text=True, is_single=True)
            stripped = FWLCausalLM._present(lm, given, [prompt], [ids], 99, True)
            assert "".join(pieces) == stripped
            assert len(pieces) < 2 or not any(codec.replacement in piece for piece in pieces)
            whole = FWLCausalLM._present(lm, given, [prompt], [ids], 99, False)
            before = codec.decode(prompt)
            if prompt.size and whole.startswith(before):
                assert before + stripped == whole


@pytest.mark.parametrize("codec", [llama], indirect=True)
def test_the_space_between_prompt_and_what_is_written(codec):
    the, man = codec.encode(["the", "man"])
    assert codec.decode(np.concatenate([the, man])) == "the man"
    assert codec.continuation(the)(man) == " man"
    # A text that goes on from a state that has read something; and one that begins.
    assert codec.continuation(the[:0])(man) == " man"
    start = np.array([codec.start_token_id])
    assert codec.continuation(start)(man) == "man"
    # Special tokens have no text, wherever they are, and however many.
    end = np.array(codec.end_token_ids)
    assert codec.continuation(np.concatenate([the, *[end] * 40]))(man) == " man"
    assert codec.continuation(the)(np.concatenate([man, end])) == " man"


def test_half_a_character_before(codec):
    """The prompt's own text is then no beginning of the whole."""
    snow = codec.encode(["☃"])[0]
    if snow.size < 3:
        pytest.skip("the character is one token")
    prompt, rest = snow[:-1], snow[-1:]
    assert codec.continuation(prompt)(rest).endswith("☃")


def test_a_model_streams_what_it_generates():
    preprocessor = llama()
    size = preprocessor.tokenizer.vocabulary_size()
    keras.utils.set_random_seed(3)
    body = RecurrentBackbone([keras.layers.Embedding(size, WIDTH), keras.layers.GRU(WIDTH)])
    lm = FWLCausalLM(body, FWLBlock(WIDTH, size, segment_length=5), preprocessor=preprocessor)
    bias = np.full(size, -20.0, "float32")
    bias[lm.codec.encode(["the man and"])[0]] = 20.0
    lm.block.unembedding.bias.assign(bias)
    lm.compile(sampler=keras_hub.samplers.RandomSampler(), run_eagerly=True)
    stripped = lm.generate("the", 8, seed=1, strip_prompt=True)
    assert stripped.startswith(" ") and lm.generate("the", 8, seed=1) == "the" + stripped
    assert "".join(lm.stream("the", 8, seed=1, tokens_at_once=3)) == stripped
    state = lm.read("the")
    after = lm.generate("", 4, state=state, seed=1)
    assert after.startswith(" ") and "".join(lm.stream("", 4, state=state, seed=1)) == after
