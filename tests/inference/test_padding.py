"""Padding is neither read, learned from nor counted, whichever way a text is given."""

import keras
import numpy as np
import pytest
from lm_helpers import V, language_model, random_ids

from fwl_keras.inference.padding import pad_token_id_of

pytestmark = pytest.mark.eager

PAD = 0


class Tokenizer:
    """As much of the package's own tokeniser as these tests need."""

    pad_id, bos_id, eos_id, proto = PAD, 2, 3, b"of no use here"


class HubTokenizer:
    pad_token_id, start_token_id, end_token_id = PAD, 2, 3


class HubPreprocessor:
    tokenizer = HubTokenizer()


def own_preprocessor():
    from fwl_keras.models import TextPreprocessor

    return TextPreprocessor(Tokenizer())


PREPROCESSORS = {"own": own_preprocessor, "keras_hub": HubPreprocessor}


def padded(ids, more):
    return np.pad(ids, [[0, 0], [0, more]], constant_values=PAD)


@pytest.fixture(scope="module")
def models():
    """A model for each kind of preprocessor, run without compiling."""
    made = {}
    for name, make in PREPROCESSORS.items():
        keras.utils.set_random_seed(1)
        made[name] = language_model(preprocessor=make(), initial_step_size=1e-2)
        made[name].compile("sgd", run_eagerly=keras.backend.backend() == "tensorflow")
    return made


@pytest.fixture(params=PREPROCESSORS)
def lm(models, request):
    return models[request.param]


def test_every_tokeniser_says_what_padding_is(lm):
    assert lm.pad_token_id == pad_token_id_of(lm.preprocessor) == PAD
    assert language_model().pad_token_id is None


def test_a_preprocessor_that_comes_later_is_asked_too():
    lm = language_model()
    lm.preprocessor = own_preprocessor()
    assert lm.pad_token_id == PAD
    lm.pad_token_id = 5
    assert lm.pad_token_id == lm.get_config()["pad_token_id"] == 5
    for wrong in ("0", 0.0, True):
        with pytest.raises(ValueError, match="`pad_token_id` must be a whole number"):
            lm.pad_token_id = wrong


def test_evaluate(lm):
    ids = random_ids(1, 9)
    expected = lm.evaluate(ids, verbose=0, return_dict=True)
    for x in (padded(ids, 20), {"token_ids": padded(ids, 3)}):
        found = lm.evaluate(x, verbose=0, return_dict=True)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_evaluate_with_labels(lm):
    """The last label of a row that ends with the window is padding, which no mask of ids tells."""
    ids = random_ids(1, 9)
    expected = lm.evaluate(ids, verbose=0, return_dict=True)
    more = padded(ids, 1)
    found = lm.evaluate(more[:, :-1], more[:, 1:], verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)


def test_fit(lm):
    ids = random_ids(2, 9)
    start = lm.get_weights()
    trained = []
    for x in (ids, padded(ids, 8)):
        lm.set_weights(start)
        lm.fit(x, batch_size=2, verbose=0)
        trained.append(lm.get_weights())
    lm.set_weights(start)
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert any((one != before).any() for one, before in zip(trained[0], start, strict=True))


def test_score_and_read(lm):
    ids = random_ids(2, 7)
    expected = lm.score(ids)
    ways = {
        "behind": padded(ids, 20),
        "before": np.pad(ids, [[0, 0], [5, 0]]),
        "a list": padded(ids, 3).tolist(),
        "a mask": {"token_ids": padded(ids, 4), "padding_mask": padded(ids, 4) != PAD},
    }
    for name, x in ways.items():
        found = lm.score(x)
        there = np.isfinite(found.log_probabilities)
        assert there.sum() == 2 * 6, name
        np.testing.assert_allclose(
            found.log_probabilities[there].reshape(2, 6),
            expected.log_probabilities[:, 1:],
            rtol=1e-4,
            err_msg=name,
        )
        np.testing.assert_allclose(found.perplexity, expected.perplexity, rtol=1e-4)
        state = lm.read(x)
        for key, value in expected.state.items():
            np.testing.assert_allclose(
                keras.ops.convert_to_numpy(state[key]),
                keras.ops.convert_to_numpy(value),
                rtol=1e-4,
                atol=1e-4,
                err_msg=key,
            )


def test_generate(lm):
    lm.compile("sgd", sampler="greedy", run_eagerly=True)
    ids = random_ids(1, 5)
    settings = {"max_length": 9, "stop_token_ids": None}
    expected = lm.generate(ids, **settings)["token_ids"]
    np.testing.assert_array_equal(lm.generate(padded(ids, 7), **settings)["token_ids"], expected)
    assert (expected[0, :5] == ids[0]).all() and expected.shape == (1, 9) and expected.max() < V
