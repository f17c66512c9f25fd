"""Samplers of the user's own: what they draw is what is written."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from lm_helpers import language_model, random_ids
from samplers import Forbidding

from fwl_keras.inference.sampler_names import DRAWING, SEARCHING
from fwl_keras.inference.samplers import get_sampler
from fwl_keras.inference.writing_loop import next_logits

pytestmark = pytest.mark.eager


@pytest.fixture(scope="module")
def lm():
    keras.utils.set_random_seed(1)
    return language_model("recurrent")


PROMPTS = random_ids(2, 5)


def write(lm, sampler, prompts=PROMPTS, max_length=10, **settings):
    lm.compile(sampler=sampler)
    return lm.generate(prompts, max_length, stop_token_ids=None, **settings)


def test_the_samplers_own_token_comes_next(lm):
    forbidden = int(write(lm, "greedy")["token_ids"][0, -1])
    token_ids = write(lm, Forbidding(forbidden))["token_ids"]
    assert not (token_ids[:, 5:] == forbidden).any()
    # The likeliest of all others, with the weights that adapted to what was written.
    state = lm.read(token_ids[:, :-1])
    logits = np.array(ops.convert_to_numpy(next_logits(lm, state)))
    logits[:, forbidden] = -np.inf
    np.testing.assert_array_equal(token_ids[:, -1], logits.argmax(-1))


def test_weights_adapt_to_what_it_draws(lm):
    def learned(adapt):
        _, state = write(lm, Forbidding(0), adapt_while_generating=adapt, return_state=True)
        return {n: ops.convert_to_numpy(v) for n, v in state.items() if "pending" not in n}

    adapting, frozen = learned(True), learned(False)
    assert any((adapting[name] != frozen[name]).any() for name in adapting)


@pytest.mark.graph
def test_its_seed_generator_goes_on(lm):
    sampler = Forbidding(7, seed=3)
    first = write(lm, sampler, max_length=20)["token_ids"]
    second = write(lm, sampler, max_length=20)["token_ids"]
    assert (first != second).any()
    assert not (np.concatenate([first, second])[:, 5:] == 7).any()
    again = write(lm, Forbidding(7, seed=3), max_length=20)["token_ids"]
    np.testing.assert_array_equal(first, again)


def test_streamed(lm):
    written = write(lm, Forbidding(7, seed=3), PROMPTS[:1])["token_ids"][0, 5:]
    lm.compile(sampler=Forbidding(7, seed=3))
    pieces = list(lm.stream(PROMPTS[0], 10, stop_token_ids=None, tokens_at_once=2))
    np.testing.assert_array_equal(np.concatenate(pieces), written)


def test_stop_tokens(lm):
    class Only(keras_hub.samplers.Sampler):
        def get_next_token(self, probabilities):
            return ops.full(probabilities.shape[:1], 4, "int32")

    lm.compile(sampler=Only())
    found = lm.generate(PROMPTS, 10, stop_token_ids=(4,))
    assert found["padding_mask"].sum(axis=1).tolist() == [6, 6]
    assert found["token_ids"][:, 5].tolist() == [4, 4]


def test_what_it_is_when_the_model_is_compiled_counts(lm):
    sampler = Forbidding(0)
    token = int(write(lm, sampler)["token_ids"][0, -1])
    sampler.token = token
    assert not (write(lm, sampler)["token_ids"][:, 5:] == token).any()


def test_a_seed_for_each_row_is_for_the_others(lm):
    with pytest.raises(ValueError, match=r"`seed`=1 is for .*greedy.*; Forbidding draws by itself"):
        write(lm, Forbidding(0), seed=1)


def test_saved_with_the_model(lm, tmp_path):
    lm.compile(sampler=Forbidding(5, seed=2, temperature=0.5))
    lm.save(tmp_path / "lm.keras")
    sampler = keras.saving.load_model(tmp_path / "lm.keras").sampler
    assert isinstance(sampler, Forbidding)
    assert (sampler.token, sampler.seed, sampler.temperature) == (5, 2, 0.5)


class _Looping(Forbidding):
    def __call__(self, *args, **kwargs):
        raise NotImplementedError


class _Beams(keras_hub.samplers.BeamSampler):
    pass


@pytest.mark.parametrize(
    "sampler", [_Looping(0), _Beams(), keras_hub.samplers.Sampler(), lambda probabilities: 0]
)
def test_a_loop_of_its_own_is_refused(lm, sampler):
    with pytest.raises(ValueError, match=r"cannot be used with fast weights.*get_next_token"):
        write(lm, sampler)


def test_all_names_are_kerashubs():
    for name, kind in (DRAWING | SEARCHING).items():
        assert type(get_sampler(name)).__name__ == kind
