"""The codebook of a coarse loss: how it begins, what it refuses, and that it is saved."""

import keras
import numpy as np
import pytest
from block_helpers import assert_close, random_batch, random_block, read

import fwl_keras
from fwl_keras.layers import Codebook
from fwl_keras.layers.codebook import default_codebook_size

COARSE = {"inner_loss": "coarse", "codebook_size": 3}


@pytest.mark.parametrize(
    ("vocab_size", "size"), [(2, 2), (100, 32), (4096, 256), (49_152, 1024), (10**6, 1024)]
)
def test_default_size(vocab_size, size):
    assert default_codebook_size(vocab_size) == size


def clusters(rng, count=4, each=25, width=6):
    """Columns of some clusters that nothing lies between, shuffled; and the centres."""
    centres = 10 * rng.normal(size=(count, width))
    columns = np.repeat(centres, each, axis=0) + 0.01 * rng.normal(size=(count * each, width))
    return rng.permutation(columns).T.astype(np.float32), centres


def test_classes_begin_as_clusters_of_the_unembedding():
    kernel, centres = clusters(np.random.default_rng(0))
    book = Codebook(4)
    book.build((None, None, 6), 100)
    # A seed whose first columns are one of each cluster: Lloyd's algorithm finds a local optimum.
    seeds = (s for s in range(99) if _one_of_each(kernel, centres, s))
    book.cluster(kernel, seed=next(seeds))
    distances = np.linalg.norm(np.asarray(book.vectors)[:, None] - centres, axis=-1)
    assert distances.min(axis=0).max() < 0.05
    np.testing.assert_allclose(book.bias, np.log(25), rtol=1e-5)
    # A class is as likely as its ids together.
    bias = np.log(np.arange(1.0, 101.0)).astype(np.float32)
    book.cluster(kernel, bias, seed=next(seeds))
    np.testing.assert_allclose(np.exp(book.bias).sum(), 5050, rtol=1e-4)


def _one_of_each(kernel, centres, seed):
    chosen = kernel.T[np.random.default_rng(seed).choice(100, 4, replace=False)]
    return len(set(np.linalg.norm(chosen[:, None] - centres, axis=-1).argmin(axis=1))) == 4


def test_classes_that_lose_all_columns_stay():
    kernel = np.ones((2, 5), np.float32)
    book = Codebook(3)
    book.build((None, None, 2), 5)
    book.cluster(kernel)
    np.testing.assert_allclose(book.vectors, 1)
    assert np.all(np.isfinite(book.bias))
    np.testing.assert_allclose(np.exp(book.bias).sum(), 5, rtol=1e-4)


def test_a_block_on_a_trained_unembedding():
    kernel, centres = clusters(np.random.default_rng(1))
    head = keras.layers.Dense(100, use_bias=False)
    head.build((None, 6))
    head.kernel.assign(kernel)
    block = fwl_keras.FWLBlock(6, 100, unembedding=head, inner_loss="coarse", codebook_size=4)
    block.build((None, None, 6))
    block.initialize_codebook(seed=3)
    found = np.asarray(block.codebook.vectors)
    assert np.linalg.norm(found[:, None] - centres, axis=-1).min() < 0.05


def test_from_config_and_weights():
    rng = np.random.default_rng(2)
    block = random_block(rng, segment_length=3, exact_every=2, **COARSE)
    other = fwl_keras.FWLBlock.from_config(block.get_config())
    other.build((None, None, 4))
    other.set_weights(block.get_weights())
    arguments = random_batch(rng, block, 2, 7)
    for found, expected in zip(
        keras.tree.flatten(read(other, arguments)),
        keras.tree.flatten(read(block, arguments)),
        strict=True,
    ):
        assert_close(found, expected, 1e-6)
    book = Codebook.from_config(block.codebook.get_config())
    assert book.size == block.codebook.size == 3


def test_a_codebook_is_not_trained_where_nothing_adapts():
    block = fwl_keras.FWLBlock(4, 7, use_fast_weights=False, **COARSE)
    block.build((None, None, 4))
    assert not block.codebook.trainable_variables and block.codebook.variables


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"inner_loss": "exact"}, '`inner_loss` must be "full" or "coarse"; received \'exact\''),
        ({"inner_loss": "coarse", "codebook_size": 0}, "`codebook_size` must be"),
        ({"inner_loss": "coarse", "exact_every": 0}, "`exact_every` must be"),
    ],
)
def test_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        fwl_keras.FWLBlock(4, 7, **arguments)


def test_errors():
    with pytest.raises(ValueError, match="`size` must be"):
        Codebook(0)
    book = Codebook(5)
    book.build((None, None, 2), 9)
    with pytest.raises(ValueError, match="has 4 columns, fewer than the codebook has classes, 5"):
        book.cluster(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="`iterations` must be"):
        book.cluster(np.ones((2, 9), np.float32), iterations=0)
    for block in (fwl_keras.FWLBlock(4, 7), fwl_keras.FWLBlock(4, 7, **COARSE)):
        with pytest.raises(ValueError, match="`initialize_codebook` is for a block that is built"):
            block.initialize_codebook()
