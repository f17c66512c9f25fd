"""Schedules of whole documents against the documents they are made of."""

import keras
import numpy as np
import pytest

from fwl_keras.data import DocumentBatches, DocumentPass, evaluation_windows

pytestmark = pytest.mark.jax

EOS, PAD, LENGTH = 1, 0, 4
# Every length from none to three windows and a bit; no token occurs twice.
SIZES = [9, 0, 1, 3, 4, 5, 13, 2, 8]
ENDS = np.cumsum(SIZES) + 2
DOCUMENTS = [np.arange(end - size, end) for size, end in zip(SIZES, ENDS, strict=True)]


def schedule(documents=DOCUMENTS, **changes):
    arguments = {"length": LENGTH, "batch_size": 3, "steps": 40, "seed": 7}
    return DocumentBatches(documents, **{**arguments, **changes}, eos_id=EOS, pad_id=PAD)


def rows_of(batches):
    """What each row reads: a list of documents, each a list of (inputs, labels) without padding."""
    rows = None
    for x, y in batches:
        rows = rows or [[] for _ in y]
        for row, ids, mask, start, labels in zip(
            rows, x["token_ids"], x["padding_mask"], x["starts"], y, strict=True
        ):
            if start:
                row.append([])
            # Padding is at the end.
            assert (np.diff(mask.astype(int)) <= 0).all()
            assert (ids[~mask] == PAD).all() and (labels[~mask] == PAD).all()
            if mask.any():
                row[-1].append((ids[mask], labels[mask]))
    return rows


def assert_equal_batches(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right)
    for (x, y), (other_x, other_y) in zip(left, right, strict=True):
        assert x.keys() == other_x.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], other_x[name])
        np.testing.assert_array_equal(y, other_y)


def test_shapes_and_dtypes():
    batches = schedule()
    assert len(batches) == len(list(batches)) == 40
    for x, y in batches:
        for array, dtype in ((x["token_ids"], np.int32), (x["padding_mask"], bool), (y, np.int32)):
            assert array.shape == (3, LENGTH) and array.dtype == dtype
        assert x["starts"].shape == (3,) and x["starts"].dtype == bool


def test_rows_walk_through_whole_documents():
    by_text = {tuple(ids): number for number, ids in enumerate(DOCUMENTS)}
    seen = []
    for row in rows_of(schedule()):
        # The last one was cut off by the end of the schedule.
        for windows in row[:-1]:
            inputs, labels = (np.concatenate(part) for part in zip(*windows, strict=True))
            assert inputs[0] == EOS and labels[-1] == EOS
            np.testing.assert_array_equal(inputs[1:], labels[:-1])
            seen.append(by_text[tuple(labels[:-1])])
            assert all(len(ids) == LENGTH for ids, _ in windows[:-1])
    assert 1 not in seen and len(seen) > 3 * 8
    counts = np.bincount(seen, minlength=9)[[0, *range(2, 9)]]
    # Epochs follow each other; at the end at most one document a row is unfinished.
    assert counts.max() - counts.min() <= 3


def test_epochs_have_orders_of_their_own():
    orders = {}
    for seed in (0, 1):
        batches = schedule(seed=seed, batch_size=1, steps=3 * 18)
        order = [int(windows[0][1][0]) for windows in rows_of(batches)[0]]
        orders[seed] = [order[i : i + 8] for i in (0, 8, 16)]
        assert len({tuple(sorted(epoch)) for epoch in orders[seed]}) == 1
    assert len({tuple(epoch) for seed in orders for epoch in orders[seed]}) == 6


def test_numbers_stay_the_same_for_ever():
    # A run that is resumed with another NumPy must go on with the same batches, so the order is
    # RandomState's, whose numbers NumPy promises to keep.
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([7, 0])))
    expected = [DOCUMENTS[i].tolist() for i in random.permutation([0, *range(2, 9)])]
    row = rows_of(schedule(batch_size=1, steps=18))[0]
    assert [np.concatenate([y for _, y in w])[:-1].tolist() for w in row[:8]] == expected


def test_from_step_gives_the_rest():
    expected = list(schedule())
    for start in (0, 1, 17, 39, 40):
        rest = schedule().from_step(start)
        assert len(rest) == 40 - start
        assert_equal_batches(rest, expected[start:])
    in_turns = schedule(groups=3)
    assert_equal_batches(in_turns.from_step(17), list(in_turns)[17:])
    assert_equal_batches(schedule().from_step(10).from_step(20), expected[20:])
    assert_equal_batches(schedule(start=5), expected[5:])
    assert_equal_batches([schedule()[7]], expected[7:8])


def test_a_shorter_schedule_is_the_beginning_of_a_longer_one():
    assert_equal_batches(schedule(steps=11), list(schedule())[:11])


def test_tf_dataset_is_the_same_schedule():
    expected = list(schedule())
    dataset = schedule().to_tf_dataset(start=35)
    assert dataset.cardinality() == 5
    x, y = dataset.element_spec
    assert y.shape == (3, LENGTH) and x["starts"].shape == (3,)
    assert_equal_batches(dataset.as_numpy_iterator(), expected[35:])
    rest = schedule().from_step(38).to_tf_dataset()
    assert_equal_batches(rest.as_numpy_iterator(), expected[38:])


def test_batches_for_fit_without_tensorflow(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert_equal_batches(schedule().for_fit(start=35), list(schedule())[35:])


@pytest.mark.parametrize("steps", [40, 38])
def test_groups_of_rows_take_turns(steps):
    groups, rows = 4, 2
    batches = list(schedule(batch_size=rows, steps=steps, groups=groups))
    assert len(batches) == steps
    # As wide batches, cut into groups: all that was said of rows holds for each of them.
    wide = list(schedule(batch_size=rows * groups, steps=10))
    for step, (x, y) in enumerate(batches):
        wide_x, wide_y = wide[step // groups]
        part = slice(step % groups * rows, (step % groups + 1) * rows)
        assert_equal_batches([(x, y)], [({k: v[part] for k, v in wide_x.items()}, wide_y[part])])


def test_fewer_documents_than_rows_are_read_at_several_places():
    book = np.arange(2, 2 + 63)  # 16 windows with its end mark
    batches = list(schedule([book], batch_size=4, steps=33))
    firsts = np.stack([x["token_ids"][:, 0] for x, _ in batches])
    assert firsts[0].tolist() == [1, 17, 33, 49]
    assert batches[0][0]["starts"].all()
    for step, (x, _) in enumerate(batches):
        assert len(set(firsts[step])) == 4
        np.testing.assert_array_equal(x["starts"], (firsts[step] == EOS) | (step == 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": []}, "`documents_ids` holds no tokens"),
        ({"documents": [[], []]}, "`documents_ids` holds no tokens"),
        ({"length": 0}, "`length` must be a positive whole number; received 0"),
        ({"batch_size": 0}, "`batch_size` must be a positive whole number; received 0"),
        ({"steps": 0}, "`steps` must be a positive whole number; received 0"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0; received -1"),
        ({"groups": 0}, "`groups` must be a positive whole number; received 0"),
        ({"start": 41}, "`start` must be between 0 and `steps`=40; received 41"),
    ],
)
def test_bad_arguments_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        schedule(**changes)


@pytest.mark.parametrize("index", [-1, 40])
def test_index_out_of_range_is_an_error(index):
    with pytest.raises(IndexError):
        schedule()[index]


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_one_pass_has_the_windows_of_every_document(batch_size):
    one = DocumentPass(DOCUMENTS, LENGTH, batch_size, eos_id=EOS, pad_id=PAD)
    found = {}
    for step, (x, y) in enumerate(one):
        for row in range(batch_size):
            key = int(one.documents[step, row]), int(one.positions[step, row])
            mask = x["padding_mask"][row]
            assert (key[0] < 0) == (not mask.any())
            assert x["starts"][row] == (key[1] == 0)
            if mask.any():
                assert key not in found
                found[key] = np.concatenate([x["token_ids"][row, :1], np.where(mask, y[row], PAD)])
                if key[1]:
                    # The same row read the window before.
                    assert one.documents[step - 1, row] == key[0]
                    assert one.positions[step - 1, row] == key[1] - LENGTH
    for number, ids in enumerate(DOCUMENTS):
        if len(ids):
            windows = evaluation_windows(np.append(EOS, ids), LENGTH, pad_id=PAD)
            for i, window in enumerate(windows):
                np.testing.assert_array_equal(found.pop((number, i * LENGTH)), window)
    assert not found


def test_one_pass_takes_the_longest_first_and_wastes_little():
    one = DocumentPass(DOCUMENTS, LENGTH, 3, eos_id=EOS, pad_id=PAD)
    assert one.documents[0].tolist() == [6, 0, 5]
    windows = sum(-(-size // LENGTH) for size in SIZES)
    assert len(one) == -(-windows // 3)


def test_one_pass_checks_its_arguments():
    with pytest.raises(
        ValueError, match="`batch_size` must be a positive whole number; received 0"
    ):
        DocumentPass(DOCUMENTS, LENGTH, 0, eos_id=EOS, pad_id=PAD)
    with pytest.raises(ValueError, match="holds no tokens"):
        DocumentPass([[]], LENGTH, 1, eos_id=EOS, pad_id=PAD)
    with pytest.raises(IndexError):
        DocumentPass([[5]], LENGTH, 1, eos_id=EOS, pad_id=PAD)[1]
