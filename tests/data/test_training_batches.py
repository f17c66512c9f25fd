import types

import keras
import numpy as np
import pytest

from fwl_keras.data import TrainingBatches

STREAM = np.arange(1000)


def schedule(**changes):
    arguments = {"stream": STREAM, "length": 10, "batch_size": 4, "steps": 100, "seed": 7}
    return TrainingBatches(**{**arguments, **changes})


def test_batches_are_windows_of_the_stream():
    batches = schedule()
    assert len(batches) == len(list(batches)) == 100
    for batch in batches:
        assert batch.shape == (4, 10) and batch.dtype == np.int32
        assert (np.diff(batch, axis=1) == 1).all()


def test_epochs_cover_the_stream_once_and_differ():
    batches = schedule()
    assert batches.windows_per_epoch == 99
    windows = np.concatenate(list(batches))[: 99 * 4]
    epochs = windows.reshape(4, 99 * 10)
    for epoch in epochs:
        # No token twice, and no more left out than the offset.
        assert len(set(epoch.tolist())) == 990
        assert epoch.max() - epoch.min() == 989
    assert len({epoch.min() for epoch in epochs}) > 1
    assert not (np.sort(windows[:99, 0]) == windows[:99, 0]).all()


def test_batch_depends_on_seed_and_step_only():
    forwards, backwards = schedule(), schedule()
    expected = list(forwards)
    for step in reversed(range(100)):
        np.testing.assert_array_equal(backwards[step], expected[step])
    assert not np.array_equal(schedule(seed=8)[0], expected[0])


def test_numbers_stay_the_same_for_ever():
    # Pinned: a run that is resumed with another NumPy must go on with the same batches.
    assert schedule()[0][:, 0].tolist() == [563, 263, 493, 143]
    assert schedule()[99][:, 0].tolist() == [726, 86, 626, 206]


def test_from_step_gives_the_rest():
    expected = list(schedule())
    for start in (0, 1, 37, 99):
        rest = schedule().from_step(start)
        assert len(rest) == 100 - start
        np.testing.assert_array_equal(np.stack(list(rest)), np.stack(expected[start:]))
    assert list(schedule().from_step(100)) == []
    np.testing.assert_array_equal(schedule().from_step(10).from_step(20)[0], expected[20])


def test_tf_dataset_is_the_same_schedule():
    expected = np.stack(list(schedule()))
    dataset = schedule().to_tf_dataset(start=95)
    assert dataset.cardinality() == 5
    assert dataset.element_spec.shape == (4, 10) and dataset.element_spec.dtype == "int32"
    np.testing.assert_array_equal(np.stack(list(dataset.as_numpy_iterator())), expected[95:])
    rest = list(schedule().from_step(98).to_tf_dataset().as_numpy_iterator())
    np.testing.assert_array_equal(np.stack(rest), expected[98:])


def test_batches_for_fit_without_tensorflow(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    expected = list(schedule())
    batches = schedule().for_fit(start=95)
    assert isinstance(batches, types.GeneratorType)
    for (batch,), other in zip(batches, expected[95:], strict=True):
        np.testing.assert_array_equal(batch, other)


@pytest.mark.parametrize("size", [10, 11, 19, 20, 29])
def test_short_stream_has_windows_from_end_to_end(size):
    batches = schedule(stream=np.arange(size))
    assert batches.windows_per_epoch == max(1, (size - 9) // 10)
    starts = {int(row[0]) for batch in batches for row in batch}
    assert min(starts) == 0 and max(starts) <= size - 10
    if size < 20:
        assert starts == set(range(size - 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stream": np.arange(9)}, "`stream` has 9 tokens, too few for one window of `length`=10"),
        ({"stream": np.zeros(99)}, "`stream` must be a vector of integers"),
        ({"length": 0}, "`length` must be a positive whole number; received 0"),
        ({"batch_size": 0}, "`batch_size` must be a positive whole number; received 0"),
        ({"steps": 0}, "`steps` must be a positive whole number; received 0"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0; received -1"),
        ({"start": 101}, "`start` must be between 0 and `steps`=100; received 101"),
    ],
)
def test_bad_arguments_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        schedule(**changes)


@pytest.mark.parametrize("index", [-1, 100])
def test_index_out_of_range_is_an_error(index):
    with pytest.raises(IndexError):
        schedule()[index]
