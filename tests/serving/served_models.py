"""Small models to be served, and requests to what was exported of them."""

import keras
import keras_hub
import numpy as np
import pytest

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.backbones import RecurrentBackbone
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.models import TextPreprocessor
from fwl_keras.serving.options import ServingOptions
from fwl_keras.serving.status import is_refusal

WIDTH = 8
CONTEXT = 16
SEGMENT = 6
OPTIONS = ServingOptions(max_tokens=96, max_new_tokens=40)
# The second takes as long as the first again.
BODIES = ("recurrent", pytest.param("gemma", marks=pytest.mark.slow))
each_body = pytest.mark.parametrize("kind", BODIES)
# The first with another inner loss, whose state has more in it.
COARSE = {"inner_loss": "coarse", "codebook_size": 8, "exact_every": 2}
each_kind = pytest.mark.parametrize(
    "kind", (*BODIES, pytest.param("coarse", marks=pytest.mark.slow))
)
SIGNATURES = (
    "score",
    "score_tokens",
    "generate",
    "initial_state",
    "read",
    "score_from",
    "generate_from",
    "tokenize",
    "detokenize",
)

CORPUS = [
    "def first(x):\n    return x[0]\n\n",
    "def last(x):\n    return x[-1]\n\n",
    "for one in range(10):\n    print(first(one), last(one))\n",
    "the quick brown fox jumps over the lazy dog\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.\n",
] * 4

# Of one token, of some, around the context of 16 that begins with a start token, of more than
# one, and of three; the fifth has characters that the tokeniser writes as bytes.
TEXTS = [
    "x",
    "def first(x):",
    "the quick brown fox",
    "def last(x):\n    return x[-1]\n\nfor one in ",
    "☃ über \U0001f98a",
    "for one in range(10):\n    print(first(one), last(one))\nthe lazy dog jumps over the fox\n",
]


def served_model(kind, **settings):
    """A model whose steps are large, so that one too many or too few shows.

    Args:
        kind: of the body, or "coarse".
        **settings: more arguments of the block.
    """
    keras.utils.set_random_seed(5)
    tokenizer = SentencePieceTokenizer.train(CORPUS, 340)
    vocab_size = tokenizer.vocab_size
    if kind != "gemma":
        embedding = keras.layers.Embedding(vocab_size, WIDTH)
        body = RecurrentBackbone([embedding, keras.layers.LSTM(WIDTH), keras.layers.GRU(WIDTH)])
    else:
        body = keras_hub.models.GemmaBackbone(
            vocabulary_size=vocab_size,
            num_layers=1,
            num_query_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            hidden_dim=WIDTH,
            intermediate_dim=16,
        )
    settings = {"segment_length": SEGMENT, "initial_step_size": 0.3, **settings}
    if kind == "coarse":
        settings |= COARSE
    block = FWLBlock(WIDTH, vocab_size, **settings)
    preprocessor = TextPreprocessor(tokenizer)
    lm = FWLCausalLM(body, block, preprocessor=preprocessor, context_length=CONTEXT)
    # Without these nearly all that it writes would be single bytes, and it would never end.
    bias = np.random.default_rng(0).normal(size=vocab_size).astype("float32")
    bias[4:260] = -2.5
    bias[tokenizer.eos_id] = 1.5
    lm.block.unembedding.bias.assign(bias)
    return lm


def assert_sane(outputs, rows):
    """All that holds of every answer, whatever was asked; which rows were refused."""
    for key, value in outputs.items():
        assert len(value) == rows, key
        if value.dtype.kind == "f":
            assert np.isfinite(value).all(), key
    refused = is_refusal(outputs["status"])
    said = outputs["status"] != 0
    assert [bool(message) for message in outputs["message"]] == said.tolist()
    for key in ("lengths", "token_count", "log_probabilities", "total_log_probability"):
        if key in outputs:
            assert not outputs[key][refused].any(), key
    if "finish_reason" in outputs:
        reasons = outputs["finish_reason"]
        assert set(reasons[refused]) <= {b"refused"}
        assert set(reasons[~refused]) <= {b"stop", b"length"}
        assert not any(outputs["text"][refused])
        assert (outputs["token_count"][~refused] > 0).all()
    if "position" in outputs:
        assert (outputs["position"] >= 0).all() and (outputs["position"] < 6).all()
    return refused


class Served:
    """An exported model, asked as a client would.

    Args:
        model: what `tf.saved_model.load` returned.
    """

    def __init__(self, model):
        self._model = model

    def __call__(self, name, /, **inputs):
        """Ask a signature. Sampling parameters that are not given get usual ones.

        Args:
            name: the signature.
            **inputs: its inputs, or `state`, a dict of several.

        Returns:
            Dict of arrays.
        """
        import tensorflow as tf

        inputs |= inputs.pop("state", {})
        signature = self._model.signatures[name]
        specs = signature.structured_input_signature[1]
        if "max_new_tokens" in specs:
            rows = len(inputs["text"])
            usual = {"max_new_tokens": 8, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 1}
            for key, value in usual.items():
                inputs.setdefault(key, [value] * rows)
        inputs = {key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()}
        return {key: value.numpy() for key, value in signature(**inputs).items()}

    def fresh_state(self, rows):
        return self.state_of(self("initial_state", text=[""] * rows))

    def read(self, texts, state=None):
        """The state after texts."""
        state = self.fresh_state(len(texts)) if state is None else state
        return self.state_of(self("read", text=texts, state=state))

    @staticmethod
    def state_of(outputs):
        """The entries of a state among an answer's."""
        begins = ("anchor_", "running_", "missing_", "pending_", "position")
        return {key: value for key, value in outputs.items() if key.startswith(begins)}


def token_inputs(rows):
    """Rows of ids as `token_ids` and `lengths`."""
    lengths = [len(row) for row in rows]
    token_ids = np.zeros((len(rows), max(lengths)), "int32")
    for i, row in enumerate(rows):
        token_ids[i, : len(row)] = row
    return {"token_ids": token_ids, "lengths": lengths}


def rows_of(outputs, rows):
    """Some rows of an answer."""
    return {key: value[rows] for key, value in outputs.items()}


def assert_same_state(one, other, atol=1e-4):
    assert set(one) == set(other)
    for name in one:
        a, b = (np.asarray(state[name]) for state in (one, other))
        assert a.dtype == b.dtype, name
        a, b = a.astype("float64"), b.astype("float64")
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol, err_msg=name)
