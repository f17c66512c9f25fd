"""Writing, against scores of what was written and against brute force."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from lm_helpers import (
    WIDTH,
    V,
    all_log_probabilities,
    assert_same_state,
    chosen,
    gemma_body,
    language_model,
    log_softmax,
    random_ids,
)

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.backbones import RecurrentBackbone
from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.inference.writing_loop import next_logits
from fwl_keras.models import TextPreprocessor

pytestmark = pytest.mark.eager


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


N = 16
LENGTHS = (3, 7, 5)


@pytest.fixture(autouse=True)
def _seed():
    """None for single tests: one makes TensorFlow prepare every graph again."""


@pytest.fixture(scope="module")
def models():
    """Models by body, made once: compiling is what takes time here."""
    made = {}

    def get(body, sampler="greedy"):
        if body not in made:
            keras.utils.set_random_seed(1)
            made[body] = language_model(body)
        made[body].compile(sampler=sampler)
        return made[body]

    return get


def prompts(seed=0):
    return [random_ids(n, seed=seed + n) for n in LENGTHS]


def write(lm, given=None, length=N, **settings):
    given = prompts() if given is None else given
    settings = {"stop_token_ids": None, **settings}
    return lm.generate(given, length, **settings)


@pytest.mark.parametrize("body", ["recurrent", "gemma", slow("gpt2"), "plain"])
def test_greedy_tokens_are_the_likeliest_under_score(models, body):
    lm = models(body)
    ids = write(lm)["token_ids"]
    scores = lm.score(ids).log_probabilities
    best = all_log_probabilities(lm, ids).max(axis=-1)
    for row, n in zip(range(3), LENGTHS, strict=True):
        np.testing.assert_allclose(scores[row, n:], best[row, n - 1 :], atol=1e-4)


@pytest.mark.graph
@pytest.mark.parametrize("body", [slow("recurrent"), "gemma", slow("gpt2")])
def test_with_the_cache_as_without(models, body):
    lm = models(body)
    np.testing.assert_array_equal(write(lm)["token_ids"], write(lm, use_cache=False)["token_ids"])


@pytest.mark.graph
@pytest.mark.parametrize("body", ["recurrent", slow("gemma")])
def test_a_prompt_alone_is_as_among_others(models, body):
    lm = models(body, keras_hub.samplers.RandomSampler(temperature=2.0))
    together = write(lm, seed=[5, 6, 7])["token_ids"]
    alone = write(lm, prompts()[1], seed=[6])["token_ids"]
    np.testing.assert_array_equal(alone[0], together[1])
    neighbours = [random_ids(3, seed=50), prompts()[1], random_ids(5, seed=51)]
    again = write(lm, neighbours, seed=[1, 6, 2])["token_ids"]
    np.testing.assert_array_equal(again[1], together[1])
    assert (again[0] != together[0]).any()


@pytest.mark.graph
def test_seeds(models):
    lm = models("recurrent", keras_hub.samplers.RandomSampler(temperature=2.0))
    same = [random_ids(3)] * 3
    one, two, other = (write(lm, same, seed=s)["token_ids"] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    # Equal prompts in one batch go different ways, each its own whatever the others do.
    assert len({tuple(row) for row in one}) == 3
    by_row = write(lm, same, seed=[1, 1, 2])["token_ids"]
    np.testing.assert_array_equal(by_row[0], by_row[1])
    np.testing.assert_array_equal(by_row[0], one[0])
    assert (write(lm, same)["token_ids"] != write(lm, same)["token_ids"]).any()


@pytest.mark.graph
def test_the_sampler_decides(models):
    given = prompts()
    greedy = write(models("recurrent"), given)["token_ids"]
    only_one = write(models("recurrent", keras_hub.samplers.TopKSampler(k=1)), given, seed=3)
    np.testing.assert_array_equal(only_one["token_ids"], greedy)
    narrow = write(models("recurrent", keras_hub.samplers.TopPSampler(p=1e-6)), given, seed=3)
    np.testing.assert_array_equal(narrow["token_ids"], greedy)


@pytest.mark.graph
def test_top_k_tokens_are_among_the_k_likeliest(models):
    lm = models("recurrent", keras_hub.samplers.TopKSampler(k=3, temperature=5.0))
    ids = write(lm, seed=3)["token_ids"]
    everything = all_log_probabilities(lm, ids)
    third = np.sort(everything, axis=-1)[..., -3]
    found = chosen(everything, ids[:, 1:])
    for row, n in enumerate(LENGTHS):
        assert (found[row, n - 1 :] >= third[row, n - 1 :] - 1e-4).all()
    assert (found[2, 4:] < everything.max(axis=-1)[2, 4:] - 1e-3).any()


@pytest.mark.graph
@pytest.mark.parametrize("body", ["recurrent", slow("gemma"), "plain"])
def test_the_state_is_that_of_having_read_it_all(models, body):
    lm = models(body)
    result, state = write(lm, return_state=True)
    assert_same_state(state, lm.read(result["token_ids"]))


def test_a_row_ends_at_its_stop_token(models):
    lm = models("gemma", keras_hub.samplers.RandomSampler(temperature=3.0))
    free = write(lm, seed=1)["token_ids"]
    stop = (int(free[0, 6]), int(free[1, 9]))
    result, state = write(lm, seed=1, stop_token_ids=stop, return_state=True)
    ids, mask = result["token_ids"], result["padding_mask"]
    for row, n in enumerate(LENGTHS):
        stops = np.nonzero(np.isin(free[row, n:], stop))[0]
        end = n + stops[0] + 1 if stops.size else N
        np.testing.assert_array_equal(ids[row, :end], free[row, :end])
        assert mask[row].sum() == end and not ids[row, end:].any()
    assert mask.sum(axis=1).min() < N
    assert_same_state(state, lm.read(result))


@pytest.mark.graph
def test_a_stop_token_in_the_prompt_does_not_end_it(models):
    lm, given = models("recurrent"), prompts()
    stop = (int(given[1][2]),)
    assert write(lm, given, stop_token_ids=stop)["padding_mask"][1].sum() > len(given[1])


@pytest.mark.parametrize("body", ["recurrent", "gemma", "plain"])
@pytest.mark.slow
def test_longer_than_the_context_goes_on_in_a_new_one(models, body):
    """The windows are those of `score`; a prompt may be longer than a window, or just fill it."""
    lm = models(body)
    lm.context_length = 6
    try:
        given = [random_ids(n, seed=n) for n in (14, 6, 2)]
        result, state = write(lm, given, 20, return_state=True)
        ids = result["token_ids"]
        score = lm.score(ids)
        assert_same_state(state, score.state)
        for t in (6, 14, 18):
            # Whole prefixes: reading token by token would begin a context each time.
            logits = log_softmax(next_logits(lm, lm.read(ids[:, :t])))
            for row in np.nonzero(np.array([14, 6, 2]) <= t)[0]:
                assert score.log_probabilities[row, t] >= logits[row].max() - 1e-4
        alone = write(lm, given[0], 20)["token_ids"]
        np.testing.assert_array_equal(alone[0], ids[0])
    finally:
        lm.context_length = None


@pytest.mark.parametrize("body", ["recurrent", "gemma"])
@pytest.mark.slow
def test_going_on_from_a_carried_context_is_writing_at_once(models, body):
    lm = models(body)
    given = random_ids(2, 5)
    whole, whole_state = write(lm, given, 15, return_state=True)
    state = lm.initial_state(2, carry_context=True, context_length=15)
    first, state = write(lm, given, 9, state=state, return_state=True)
    then, state = write(lm, [[], []], 6, state=state, return_state=True)
    joined = np.concatenate([first["token_ids"], then["token_ids"]], axis=1)
    np.testing.assert_array_equal(joined, whole["token_ids"])
    block_state = {name: state[name] for name in whole_state}
    assert_same_state(block_state, whole_state)


@pytest.mark.graph
def test_what_was_read_before_matters(models):
    lm = models("gemma")
    state = lm.read(random_ids(3, 20, seed=4))
    with_state = write(lm, state=state)["token_ids"]
    assert (with_state != write(lm)["token_ids"]).any()


@pytest.mark.graph
def test_frozen_weights_stay_those_of_the_prompt(models):
    lm, given = models("gemma"), prompts()
    result, state = write(lm, given, adapt_while_generating=False, return_state=True)
    read = lm.read(given)
    fixed = [name for name in state if name.startswith(("anchor", "running", "position"))]
    for name in fixed:
        np.testing.assert_allclose(state[name], read[name], atol=1e-5, err_msg=name)
    for row, n in enumerate(LENGTHS):
        ids = result["token_ids"][row : row + 1]
        features = lm.body.features(keras.ops.convert_to_tensor(ids), None)
        one = {name: read[name][row : row + 1] for name in fixed}
        logits = np.asarray(lm.block(features[:, n - 1 : -1], state=one))
        np.testing.assert_array_equal(logits.argmax(axis=-1)[0], ids[0, n:])


@pytest.mark.optimised
def test_without_fast_weights():
    lm = language_model("recurrent", use_fast_weights=False)
    lm.compile(sampler="greedy")
    ids = write(lm)["token_ids"]
    logits = np.asarray(lm(ids))
    for row, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(logits[row, n - 1 : -1].argmax(-1), ids[row, n:])


@pytest.mark.parametrize("body", ["recurrent", slow("plain")])
@pytest.mark.parametrize("adapt", [True, slow(False)])
def test_beam_search_with_all_beams_finds_the_best_text(body, adapt):
    """Against brute force over every continuation, each scored with fast weights of its own."""
    size, new, stop = 4, 3, 0
    keras.utils.set_random_seed(2)
    if body == "recurrent":
        backbone = RecurrentBackbone([keras.layers.Embedding(size, WIDTH), keras.layers.GRU(WIDTH)])
    else:
        layers = [keras.layers.Embedding(size, WIDTH), keras.layers.Dense(WIDTH)]
        backbone = keras.Sequential(layers)
    lm = FWLCausalLM(backbone, FWLBlock(WIDTH, size, segment_length=2, initial_step_size=0.3))
    lm.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=size**2))
    prompt = [1, 3, 2]
    tails = set()
    for tail in itertools.product(range(size), repeat=new):
        tails.add(tail[: tail.index(stop) + 1] if stop in tail else tail)
    rows = [[*prompt, *tail] for tail in sorted(tails)]
    scores = lm.score(rows).log_probabilities if adapt else _frozen_scores(lm, prompt, rows)
    totals = np.nansum(scores[:, len(prompt) :], axis=1)
    best = rows[int(totals.argmax())]
    result, state = lm.generate(
        [prompt],
        len(prompt) + new,
        stop_token_ids=(stop,),
        adapt_while_generating=adapt,
        return_state=True,
    )
    np.testing.assert_array_equal(result["token_ids"][0][result["padding_mask"][0]], best)
    expected = lm.read([best])
    if not adapt:
        pending = {name: value for name, value in expected.items() if "pending" in name}
        expected = {**lm.read([prompt]), **pending}
    assert_same_state(state, expected)


def _frozen_scores(lm, prompt, rows):
    """Log-probabilities with the fast weights as they are after the prompt."""
    state = lm.read([prompt])
    fixed = {name: state[name] for name in lm.block.initial_state(1)}
    scores = np.full((len(rows), max(map(len, rows))), np.nan)
    for i, row in enumerate(rows):
        ids = keras.ops.convert_to_tensor([row], "int32")
        logits = lm.block(lm.body.features(ids, None)[:, :-1], state=fixed)
        scores[i, 1 : len(row)] = chosen(log_softmax(logits), np.array([row[1:]]))[0]
    return scores


@pytest.mark.slow
def test_beams_of_a_batch_and_of_carried_contexts(models):
    lm = models("gemma", keras_hub.samplers.BeamSampler(num_beams=3))
    given = random_ids(2, 5)
    together = write(lm, given, 10)["token_ids"]
    np.testing.assert_array_equal(write(lm, given[1], 10)["token_ids"][0], together[1])
    state = lm.read(given[:, :3], state=lm.initial_state(2, carry_context=True, context_length=12))
    carried = write(lm, given[:, 3:], 7, state=state)["token_ids"]
    np.testing.assert_array_equal(carried[:, 2:], together[:, 5:])


@pytest.mark.graph
def test_streaming_gives_the_same(models):
    lm = models("gemma", "top_k")
    given = prompts()[0]
    pieces = list(lm.stream(given, N, stop_token_ids=None, seed=3, tokens_at_once=4))
    assert len(pieces) > 2
    whole = write(lm, given, seed=3, strip_prompt=True)
    np.testing.assert_array_equal(np.concatenate(pieces), whole["token_ids"][0, : N - 3])


@pytest.fixture(scope="module")
def text_model():
    keras.utils.set_random_seed(1)
    tokenizer = SentencePieceTokenizer.train(["to be or not to be, that is the question\n"], 300)
    size = tokenizer.vocab_size
    body = RecurrentBackbone([keras.layers.Embedding(size, WIDTH), keras.layers.GRU(WIDTH)])
    block = FWLBlock(WIDTH, size, segment_length=5, initial_step_size=0.3)
    lm = FWLCausalLM(body, block, preprocessor=TextPreprocessor(tokenizer))
    lm.compile(sampler=keras_hub.samplers.RandomSampler())
    return lm


@pytest.mark.graph
@pytest.mark.slow
def test_texts(text_model):
    lm = text_model
    tokenizer = lm.preprocessor.tokenizer
    texts = lm.generate(["to be", "or"], 12, seed=4)
    assert [text[:n] for text, n in zip(texts, (5, 2), strict=True)] == ["to be", "or"]
    alone = lm.generate("or", 12, seed=[4], strip_prompt=True)
    assert lm.generate("or", 12, seed=[4]) == "or" + alone
    ids = [tokenizer.bos_id, *tokenizer.encode("or")]
    by_ids = lm.generate([ids], 12, seed=[4], stop_token_ids=(tokenizer.eos_id,))
    assert tokenizer.decode(by_ids["token_ids"][0][by_ids["padding_mask"][0]]) == "or" + alone
    assert len(lm.generate("", 12, seed=4)) > 0
    assert "".join(lm.stream("or", 12, seed=4)) == lm.generate("or", 12, seed=4)[2:]


def test_streamed_text_has_no_half_characters(text_model, monkeypatch):
    """Bytes of one character come as several tokens."""
    tokenizer = text_model.preprocessor.tokenizer
    wanted = "naïve ☃!"
    ids = tokenizer.encode(wanted)
    assert len(ids) > len(wanted)

    class Written:
        def __init__(self, *args, **settings):
            self.count = 0

        finished = property(lambda self: self.count == len(ids))
        rows = property(lambda self: [np.array(ids[: self.count], "int32")])

        def run(self, count):
            self.count += count

    pieces = list(text_model._pieces(Written(), True, np.zeros(0, "int32"), 1))
    assert "".join(pieces) == wanted
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_keras_hub_preprocessor():
    vocabulary = {"<|endoftext|>": 0, "t": 1, "o": 2, "Ġ": 3, "b": 4, "e": 5, "to": 6, "be": 7}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary, ["t o", "b e"])
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=10)
    lm = FWLCausalLM(gemma_body(), FWLBlock(WIDTH, V, segment_length=5), preprocessor=preprocessor)
    lm.compile(sampler="greedy")
    text = lm.generate("to be", stop_token_ids=None)
    assert text.startswith("to be")
    score = lm.score("to be")
    assert score.log_probabilities.shape == (1, 4)
    np.testing.assert_allclose(
        score.log_probabilities, lm.score([[0, 6, 3, 7]]).log_probabilities, atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 3}, "leaves no room to write: prompt 0 has 3 tokens"),
        ({"max_length": 0}, "`max_length` must be a positive"),
        ({"max_length": None}, "`max_length` must be a positive"),
        ({"prompts": [[]]}, "`prompts` is empty in row 0"),
        ({"prompts": [[V]]}, "outside"),
        ({"prompts": "text"}, "preprocessor"),
        ({"stop_token_ids": "auto"}, '`stop_token_ids="auto"`'),
        ({"seed": [1, 2]}, "one int for each of the 1 rows"),
        ({"seed": -1}, r"`seed` must be a whole number in \[0, 4294967296\)"),
    ],
)
def test_errors(models, settings, message):
    arguments = {"prompts": [[1, 2, 3]], "max_length": 8, "stop_token_ids": None, **settings}
    with pytest.raises(ValueError, match=message):
        models("recurrent").generate(**arguments)


@pytest.mark.parametrize("sampler", ["contrastive", keras_hub.samplers.SpeculativeSampler()])
def test_samplers_that_are_not_supported(models, sampler):
    with pytest.raises(ValueError, match="cannot be used with fast weights"):
        write(models("recurrent", sampler))


def test_beam_search_says_what_it_cannot_do(models):
    lm = models("recurrent", "beam")
    with pytest.raises(ValueError, match="cannot be streamed"):
        lm.stream([1, 2], 8, stop_token_ids=None)
    with pytest.raises(ValueError, match="at least one token"):
        write(lm, [[]], state=lm.read([[1, 2]]))
    every = models("recurrent", keras_hub.samplers.BeamSampler(return_all_beams=True))
    with pytest.raises(ValueError, match="return_all_beams"):
        write(every)


@pytest.mark.slow
def test_the_same_on_jax(models, tmp_path):
    """Scores, states and texts from the same weights, in a process with the other backend."""
    lm = models("gemma", keras_hub.samplers.TopKSampler(k=5, temperature=2.0))
    lm.save_weights(tmp_path / "lm.weights.h5")
    ids = random_ids(2, 12)
    score = lm.score(ids)
    written = write(lm, seed=3)["token_ids"]
    expected = {n: np.asarray(v) for n, v in score.state.items()}
    np.savez(
        tmp_path / "expected.npz",
        ids=ids,
        log_probabilities=score.log_probabilities,
        written=written,
        **expected,
    )
    here = Path(__file__).parent
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, str(here / "jax_reading.py"), str(tmp_path)],
        check=True,
        env=environment,
    )
