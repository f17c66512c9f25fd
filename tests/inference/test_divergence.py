"""Fast weights that blow up are noticed, and the three things that can be done about it."""

import warnings

import keras
import numpy as np
import pytest
from lm_helpers import WIDTH, V, language_model, random_ids

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.ops.divergence import diverged_rows, looked_at

pytestmark = pytest.mark.eager

WINDOW = 64


def model(step_size):
    keras.utils.set_random_seed(3)
    # A body that computes next to nothing, with features of an ordinary size.
    ordinary = keras.initializers.RandomNormal(stddev=1.0, seed=4)
    body = keras.Sequential([keras.layers.Embedding(V, WIDTH, embeddings_initializer=ordinary)])
    block = FWLBlock(WIDTH, V, segment_length=32, initial_step_size=step_size)
    lm = FWLCausalLM(body, block, context_length=WINDOW)
    # A model that is sure of what it predicts, so that there is something to lose.
    lm.block.unembedding.kernel.assign(lm.block.unembedding.kernel * 3.0)
    lm.compile("sgd", run_eagerly=keras.backend.backend() == "tensorflow")
    return lm


@pytest.fixture(scope="module")
def diverging():
    return model(30.0)


def test_what_is_judged_by_hand():
    """Segments of 64 tokens, every fourth looked at: 16 each, and more than 16 nats between."""
    counted = np.ones((5, 32), bool)
    trained = np.full((5, 32), 2.0, "float32")
    losses = trained.copy()
    losses[1] += 0.9  # worse everywhere, by less than the limit
    losses[2, 16:] += 1.2  # worse in the second segment
    losses[3, :8] += 1.9  # in half a segment, whose other half is as good
    losses[4, 16:] -= 0.2
    losses[4, 3] = np.nan  # not a number is worse than any
    found = diverged_rows(losses, trained, counted, 64)
    assert keras.ops.convert_to_numpy(found).tolist() == [False, False, True, False, True]
    counted[2, 16:] = False
    losses[4, 3] = 2.0
    found = diverged_rows(losses, trained, counted, 64)
    assert not keras.ops.convert_to_numpy(found).any()
    # A few improbable tokens are no evidence.
    few = np.full((1, 2), 3.5, "float32")
    assert not keras.ops.convert_to_numpy(diverged_rows(few + 7, few, few > 0, 128))[0]
    assert keras.ops.convert_to_numpy(diverged_rows(few + 9, few, few > 0, 128))[0]


def test_every_fourth_token_is_looked_at():
    np.testing.assert_array_equal(looked_at(np.arange(10)[None]), [[0, 4, 8]])


def test_steps_of_an_ordinary_size_go_unmentioned():
    lm = model(3e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.score(random_ids(2, 3 * WINDOW))


@pytest.mark.parametrize("call", ["read", "score", "generate", "stream"])
def test_one_warning_names_the_remedy(diverging, call):
    ids = random_ids(1, 3 * WINDOW)
    calls = {
        "read": lambda: diverging.read(ids, passes=2),
        "score": lambda: diverging.score(ids),
        "generate": lambda: diverging.generate(ids, 3 * WINDOW + 2, stop_token_ids=None),
        "stream": lambda: list(diverging.stream(ids[0], 3 * WINDOW + 2, stop_token_ids=None)),
    }
    with pytest.warns(RuntimeWarning) as found:
        try:
            calls[call]()
        except ValueError as error:
            assert "logits are not finite" in str(error)  # it went on, as it was told to
    about = [str(one.message) for one in found if "diverged: over a segment" in str(one.message)]
    assert len(about) == 1
    assert "1 of 1 texts" in about[0] and "lm.block.set_step_sizes" in about[0]


def test_reset_goes_on_with_a_fresh_state(diverging):
    """Each window is then read as if it were the first: by hand, window after window."""
    ids = random_ids(2, 3 * WINDOW)
    with pytest.warns(RuntimeWarning, match="went on with a fresh state"):
        found = diverging.score(ids, on_divergence="reset").log_probabilities
    for start in range(0, 3 * WINDOW, WINDOW):
        # The token before the window predicts its first one; its features are all that is left.
        state = diverging.initial_state(2)
        if start:
            before = diverging.score(ids[:, start - WINDOW : start], use_fast_weights=False).state
            state = {name: before[name] if "pending" in name else state[name] for name in state}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = diverging.score(ids[:, start : start + WINDOW], state).log_probabilities
        np.testing.assert_allclose(found[:, start : start + WINDOW], expected, rtol=1e-3, atol=1e-3)


def test_freeze_keeps_the_weights_from_before(diverging):
    ids = random_ids(2, 3 * WINDOW)
    with pytest.warns(RuntimeWarning, match="took no more steps"):
        found = diverging.score(ids, on_divergence="freeze")
    # Both diverge in the first window, before which the weights were the trained ones.
    trained = diverging.score(ids, use_fast_weights=False).log_probabilities
    np.testing.assert_allclose(
        found.log_probabilities[:, WINDOW:], trained[:, WINDOW:], rtol=1e-4, atol=1e-4
    )
    fresh = diverging.initial_state(2)
    for name in fresh:
        if "pending" not in name:
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(found.state[name]),
                keras.ops.convert_to_numpy(fresh[name]),
            )


def test_other_rows_are_not_touched(diverging):
    """A row that has too few tokens to diverge, beside one that does."""
    long, short = random_ids(3 * WINDOW), random_ids(4)
    alone = diverging.score([short])
    for policy in ("reset", "freeze"):
        with pytest.warns(RuntimeWarning, match="1 of 2 texts"):
            both = diverging.score([long, short], on_divergence=policy)
        np.testing.assert_allclose(
            both.log_probabilities[1, :4], alone.log_probabilities[0], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("call", ["read", "score", "generate"])
@pytest.mark.parametrize("policy", ["stop", None, 1])
def test_an_unknown_policy_is_refused(diverging, call, policy):
    settings = {"max_length": 9, "stop_token_ids": None} if call == "generate" else {}
    with pytest.raises(ValueError, match="`on_divergence` must be one of ignore, reset, freeze"):
        getattr(diverging, call)([[1, 2]], on_divergence=policy, **settings)


def document(lm, rows, on_divergence, **settings):
    from fwl_keras.evaluation import document_losses

    return document_losses(
        lm,
        rows,
        length=WINDOW,
        batch_size=2,
        eos_id=1,
        pad_id=0,
        on_divergence=on_divergence,
        **settings,
    )


def test_documents_too(diverging):
    """Two that diverge in their first window, and a third that begins where one of them ended."""
    rows = [random_ids(2 * WINDOW + 5), random_ids(2 * WINDOW, seed=1), random_ids(20, seed=2)]
    with pytest.warns(RuntimeWarning, match="went on with a fresh state"):
        reset = document(diverging, rows, "reset")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = document(diverging, rows, "ignore", carry=False)
    for one, other in zip(reset, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    with pytest.warns(RuntimeWarning, match="took no more steps"):
        frozen = document(diverging, rows, "freeze")
    use, diverging.block.use_fast_weights = diverging.block.use_fast_weights, False
    try:
        trained = document(diverging, rows, "ignore")
    finally:
        diverging.block.use_fast_weights = use
    for one, other in zip(frozen[:2], trained[:2], strict=True):
        np.testing.assert_allclose(one[WINDOW:], other[WINDOW:], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(frozen[2], alone[2], rtol=1e-3, atol=1e-3)


class Windows:
    """As much of a KerasHub preprocessor as says how long texts are."""

    tokenizer = None
    sequence_length = 16


def test_the_context_length_is_taken_from_wherever_it_is_known():
    def length(body, **settings):
        return language_model(body, **settings).context_length

    assert length("gpt2") == 32  # its own
    assert length("plain", preprocessor=Windows()) == 16
    assert length("gpt2", preprocessor=Windows()) == 32
    assert length("plain", preprocessor=Windows(), context_length=8) == 8
    assert length("recurrent", preprocessor=Windows()) is None  # as long as texts are
    assert length("plain") is None


def test_a_text_of_any_length_is_not_read_at_once_without_a_word(monkeypatch):
    from fwl_keras.inference import reading_loop

    monkeypatch.setattr(reading_loop, "_LONG", 20)
    lm = language_model("plain", initial_step_size=1e-3)
    lm.compile("sgd", run_eagerly=keras.backend.backend() == "tensorflow")
    with pytest.warns(RuntimeWarning, match=r"21 tokens at once.*context_length"):
        lm.score(random_ids(21))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.score(random_ids(20))
