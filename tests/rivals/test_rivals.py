"""A whole benchmark on a few pages of text."""

import dataclasses
import io
import json
import math
import shutil

import numpy as np
import pytest
from rich.console import Console
from run_helpers import eagerly, tiny_config, write_book

from benchmarks.rivals import cells, costs, report
from benchmarks.rivals.methods import METHODS
from benchmarks.rivals.models import MODELS, ROWS
from benchmarks.rivals.run import choose_rows, order, run_benchmark
from benchmarks.rivals.workspace import Workspace

pytestmark = pytest.mark.eager

# Of each of 45 documents.
CHARACTERS = 200
CHOSEN = [
    "baseline.plain",
    "baseline.sgd",
    "fast_weights.windows",
    "fast_weights.carried",
    "tuned_block.carried",
    "two_thirds_*.[!r]*",
]
# With two seeds, where rows of their group have so many.
TWICE = ["baseline.plain", "baseline.sgd"]
# What no row of these reads with; "carried_rms" is "rms", with the largest graph of all.
OTHERS = sorted(set(METHODS) - {"plain", "sgd", "windows", "carried", "carried_rms"})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("texts")
    whole = write_book(tmp_path_factory.mktemp("book"), 45 * CHARACTERS).read_text()
    for number in range(45):
        (directory / f"{number:02}.txt").write_text(
            whole[number * CHARACTERS : (number + 1) * CHARACTERS]
        )
    return directory


@pytest.fixture(scope="module")
def few_settings():
    """Searches that take no time."""
    scales = {
        "learning_rate": [0.001, 0.01, 0.1],
        "decay": [1e-3, 0.1],
        "epsilon": [1e-3],
        "length": [16],
        "per_document": [0, 1],
        "step_size": [1e-4, 1e-3],
        "step_scale": [1.0, 0.7],
        "decay_power": [1.0, 0.5],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.rivals.workspace._STATISTICS_WINDOWS", 6)
        for name, method in list(METHODS.items()):
            known = {key: scales[key] for key in method.start}
            start = {key: values[0] for key, values in known.items()}
            changes = {"start": start, "scales": lambda length, known=known: known}
            if name == "sgd":
                changes["losses"] = in_graphs(method.losses)
            patch.setitem(METHODS, name, dataclasses.replace(method, **changes))
        # A search and the cell that it is for read with one model, with what it has compiled.
        patch.setattr(cells, "open_reader", once(cells.open_reader))
        # Not of interest here, and there are many.
        patch.setattr(
            "fwl_keras.runs.train.plot_run", lambda metrics, path: path.write_bytes(b"curve")
        )
        yield


def once(open_reader):
    readers = {}

    def opened(workspace, *names, **options):
        key = workspace.path, *names
        if key not in readers:
            readers[key] = open_reader(workspace, *names, **options)
        return readers[key]

    return opened


def in_graphs(losses):
    """The benchmark's rows take so many steps in this way that graphs are worth making."""

    def wrapped(*arguments):
        with eagerly(False):
            return losses(*arguments)

    return wrapped


@pytest.fixture(scope="module")
def done(corpus, few_settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "texts-tiny"
    console = Console(record=True, width=200, file=io.StringIO())
    config = tiny_config(corpus, steps=20, validation_windows=0)
    with eagerly():
        result = run_bit_by_bit(path, config, console)
    return path, config, result, console.export_text()


def run_bit_by_bit(path, config, console=None, **options):
    run_benchmark(path, config, console, seeds=1, rows=CHOSEN, costs=False, **options)
    return run_benchmark(path, config, console, seeds=2, rows=TWICE, costs=False, **options)


def rows_of(result):
    return {row["name"]: row for row in result["rows"]}


@pytest.mark.slow
def test_every_chosen_row_is_measured(done):
    path, _, result, said = done
    rows = rows_of(result)
    assert set(rows) == {row.name for row in choose_rows(CHOSEN)}
    for name, row in rows.items():
        assert row["seeds"] == ([0, 1] if name == "baseline.plain" else [0])
        assert set(row["perplexity"]) == (
            {"third"} if ROWS[name].group == "third" else {"valid", "test"}
        )
        assert all(1 < value < 400 for values in row["perplexity"].values() for value in values)
    # However little was learned in training, steps while reading help.
    assert (
        rows["baseline.sgd"]["perplexity"]["test"][0]
        < rows["baseline.plain"]["perplexity"]["test"][0]
    )
    assert f"of {len(ROWS)} rows are measured" in said
    assert result["unit"] == "perplexity per token"
    assert json.loads((path / "texts-tiny.json").read_text())["rows"] == result["rows"]


@pytest.mark.slow
def test_cells_are_what_the_models_say(done):
    """One cell computed in another way: token by token from the run's own model."""
    path, config, result, _ = done
    workspace = Workspace.open(path, config, Console(quiet=True))
    losses = workspace.read_losses("fast_weights.windows-0")["test"]
    reader = cells.open_reader(workspace, "fast_weights", "windows", 0)
    expected = []
    for ids in workspace.documents_ids("test"):
        tokens = np.insert(ids, 0, reader.eos_id)
        for start in range(0, len(ids), config.length):
            window = tokens[start : start + config.length + 1]
            found = reader.lm(window[None, :-1], labels=window[None, 1:], output="loss")
            expected.append(np.asarray(found["loss"])[0])
    np.testing.assert_allclose(losses, np.concatenate(expected), atol=1e-4)
    perplexity = math.exp(np.concatenate(expected).mean())
    assert rows_of(result)["fast_weights.windows"]["perplexity"]["test"][0] == pytest.approx(
        perplexity, rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_read(done, name):
    """Every token, as likely as a model of few steps can say, and not as it does without a step."""
    path, config, _, _ = done
    workspace = Workspace.open(path, config, Console(quiet=True))
    row = "fast_weights.carried" if name == "carried_scaled" else "baseline.plain"
    ids, method = workspace.documents_ids("search"), METHODS[name]
    reader = cells.open_reader(workspace, ROWS[row].model, name, 0, progress=False)
    scales = method.scales(config.length)
    # With the first of these scales a model reads as it was trained to.
    settings = {key: values[name == "carried_scaled"] for key, values in scales.items()}
    if name == "hidden_states":
        # A step on one piece's states is seen in the piece after the next.
        settings |= {"learning_rate": 1.0, "length": config.length // 4}
    losses = method.losses(reader, ids, {**method.start, **settings})
    assert [len(one) for one in losses] == [len(one) for one in ids]
    losses = np.concatenate(losses)
    assert 1 < math.exp(losses.mean()) < 400
    plain = workspace.in_search(workspace.read_losses(f"{row}-0")["valid"])
    assert np.abs(losses - plain).max() > 1e-4


@pytest.mark.slow
def test_settings_of_another_model_are_not_searched(done):
    path, config, _, _ = done
    workspace = Workspace.open(path, config, Console(quiet=True))
    found = {"finished": True, "trials": [{"settings": {"length": 8}, "nll": 1.0}]}
    workspace.write_json("searches", "baseline.rms", found)
    row = ROWS["two_thirds_baseline.rms"]
    assert cells.search_settings(workspace, row, Console(quiet=True)) == {"length": 8}
    (path / "searches" / "baseline.rms.json").unlink()


@pytest.mark.slow
def test_the_same_commands_again_measure_nothing(done, monkeypatch):
    path, config, result, _ = done

    def refuse(*arguments, **settings):
        raise AssertionError("measured again")

    monkeypatch.setattr("benchmarks.rivals.workspace.train", refuse)
    monkeypatch.setattr(cells, "open_reader", refuse)
    again = run_bit_by_bit(path, config)
    assert again["rows"] == result["rows"]


@pytest.mark.slow
def test_published_results_are_taken_over(done, monkeypatch, tmp_path):
    """On a machine that has nothing but the results: the same table, and the same pictures."""
    path, config, result, _ = done
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(path / "texts-tiny.json", results)

    def refuse(*arguments, **settings):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.rivals.workspace.train", refuse)
        patch.setattr(cells, "open_reader", refuse)
        new = tmp_path / "texts-tiny"
        again = run_bit_by_bit(new, config, results=results)
        assert again == result
        for kind in ("gains", "gains-third", "effort"):
            name = f"texts-tiny-{kind}.png"
            assert (results / name).read_bytes() == (path / name).read_bytes()
    # A search that was published is not made again either.
    workspace = Workspace.open(new, config, Console(quiet=True))
    kept = workspace.read_json("searches", "baseline.sgd")
    assert kept == Workspace.open(path, config, Console(quiet=True)).read_json(
        "searches", "baseline.sgd"
    )
    # What this machine has measured itself stays.
    cell = workspace.read_json("cells", "baseline.plain-0")
    cell["splits"]["test"]["perplexity"] = 1.5
    workspace.write_json("cells", "baseline.plain-0", cell)
    again = run_benchmark(
        new, config, seeds=2, rows=["baseline.plain"], costs=False, results=results
    )
    assert rows_of(again)["baseline.plain"]["perplexity"]["test"][0] == 1.5


@pytest.mark.slow
def test_other_results_are_refused(done, tmp_path):
    path, config, _, _ = done
    results = tmp_path / "results"
    results.mkdir()
    published = json.loads((path / "texts-tiny.json").read_text())
    file = results / "texts-tiny.json"
    file.write_text(json.dumps({**published, "config": {**published["config"], "steps": 7}}))
    with pytest.raises(ValueError, match=r"another steps.*--results"):
        run_benchmark(path, config, rows=["baseline.plain"], costs=False, results=results)
    file.write_text(json.dumps({**published, "corpus": "another"}))
    with pytest.raises(ValueError, match=r"another corpus.*--results"):
        run_benchmark(path, config, rows=["baseline.plain"], costs=False, results=results)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read as a benchmark's results.*--results"):
        run_benchmark(path, config, rows=["baseline.plain"], costs=False, results=results)


@pytest.mark.slow
def test_models_share_batches_and_weights_but_for_what_they_are_about(done):
    path, config, _, _ = done
    workspace = Workspace.open(path, config, Console(quiet=True))
    configs = {name: workspace.model_config(name, 1) for name in MODELS}
    assert configs["baseline"].replace(fast_weights=True) == configs["fast_weights"]
    assert configs["tuned_block"].initial_model == str(workspace.run("baseline", 1).path)
    assert configs["tuned_block"].steps == 2
    text, third = workspace.two_thirds
    train = workspace.text.corpus.train
    assert {*text.corpus.train, *third} == set(train)
    assert len(third) == len(train) // 3


@pytest.mark.slow
def test_another_configuration_is_refused(done):
    path, config, _, _ = done
    with pytest.raises(ValueError, match="another steps"):
        run_benchmark(path, config.replace(steps=21))
    with pytest.raises(ValueError, match="No row is called 'nothing'"):
        run_benchmark(path, config, rows=["nothing"])
    with pytest.raises(ValueError, match=r"`seeds` must be .* received 0"):
        run_benchmark(path, config, seeds=0)


@pytest.mark.slow
def test_an_interrupted_search_goes_on(done):
    path, config, _, _ = done
    workspace = Workspace.open(path, config, Console(quiet=True))
    kept = workspace.read_json("searches", "baseline.sgd")
    assert kept["finished"]
    assert len(kept["trials"]) > 3
    best = kept["trials"][0]
    # As if it had been interrupted before the last trial; nothing else is tried again.
    wrong = {
        **kept,
        "finished": False,
        "trials": [{**t, "nll": t["nll"] - 1} for t in kept["trials"]],
    }
    workspace.write_json("searches", "baseline.sgd", wrong)
    found = cells.search_settings(workspace, ROWS["baseline.sgd"], Console(quiet=True))
    assert found == best["settings"]
    assert len(workspace.read_json("searches", "baseline.sgd")["trials"]) == len(kept["trials"])
    workspace.write_json("searches", "baseline.sgd", kept)


@pytest.mark.slow
def test_the_page(done):
    path, config, result, _ = done
    page = (path / "texts-tiny.md").read_text()
    assert "| baseline | " in page
    assert "texts-tiny-gains.png" in page
    assert "Words that gain most" in page
    assert (path / "texts-tiny-gains.png").read_bytes().startswith(b"\x89PNG")
    for name in ("gains-third", "effort"):
        assert (path / f"texts-tiny-{name}.png").read_bytes().startswith(b"\x89PNG")
    # Nothing of where things are on this machine.
    assert str(path.parent) not in page + json.dumps(result)
    assert str(config.corpus) not in page + json.dumps(result)


@pytest.mark.slow
def test_what_effort_buys(done):
    """The picture's points: the search's own trials, and the same documents read by the others."""
    path, config, result, _ = done
    workspace = Workspace.open(path, config, Console(quiet=True))
    points = result["pictures"]["What operations buy"]
    ids = workspace.documents_ids("search")
    tokens = sum(map(len, ids))
    best = workspace.read_json("searches", "baseline.sgd")["trials"][0]
    [[operations, perplexity]] = points["dynamic evaluation, SGD"]
    assert perplexity == pytest.approx(math.exp(best["nll"]))
    assert operations > 3 * points["baseline"][0][0]
    reader = cells.open_reader(workspace, "fast_weights", "carried", 0)
    losses = METHODS["carried"].losses(reader, ids, {})
    expected = math.exp(np.concatenate(losses).sum(dtype="float64") / tokens)
    assert points["fast weights, state carried"][0][1] == pytest.approx(expected, rel=1e-4)


def test_order_and_summaries():
    everything = order(list(ROWS.values()), 3)
    assert everything[0] == (ROWS["baseline.plain"], 0)
    main = [row for row in ROWS.values() if row.group == "main"]
    assert everything[: len(main)] == [(row, 0) for row in main]
    assert len(everything) == len(set(everything)) == len(ROWS) + 2 * len(main)
    assert report.summary([100.0]) == "100.0"
    assert report.summary([100.0, 102.0]) == "101.0 ± 1.4"
    assert report.summary([100.0, None]) == "diverges"
    result = {
        "rows": [
            {"name": "a", "seeds": [0, 1], "perplexity": {"test": [100.0, 200.0]}},
            {"name": "b", "seeds": [1, 2], "perplexity": {"test": [150.0, 1.0]}},
        ]
    }
    assert report.gain(result, "b", ["a"], "test") == [25.0]
    assert report.gain(result, "b", ["c"], "test") is None
    rows = [("fast_weights.carried", 90.0), ("baseline.sgd", 120.0), ("baseline.rms", 100.0)]
    result["rows"] = [{"name": n, "seeds": [0], "perplexity": {"test": [p]}} for n, p in rows]
    assert report.comparisons(result) == [
        "Fast weights, carried, against the best dynamic evaluation of the baseline: -10.0 %"
    ]
    # With each seed the best rival of those that were measured with it.
    result["rows"] = [
        {"name": name, "seeds": list(range(len(values))), "perplexity": {"test": values}}
        for name, values in {
            "fast_weights.carried": [90.0, 90.0],
            "baseline.rms": [100.0, 180.0],
            "baseline.block": [120.0],
        }.items()
    ]
    assert report.comparisons(result)[0].endswith("baseline: -10.0 %, -50.0 %")


def test_tables_hold_what_was_measured_and_no_more():
    def row(group, operations=None, **perplexity):
        more = {"seeds": [0], "settings": {}, "operations": operations, "cost": None}
        return {"name": group, "title": group, "group": group, "perplexity": perplexity, **more}

    about = {"layers": 1, "width": 8, "vocab_size": 9, "steps": 2, "batch_size": 3, "length": 4}
    result = {
        "command": "the command",
        "corpus": "a corpus",
        "unit": "perplexity per word",
        "config": about,
        "environment": {"machine": "a machine"},
        "rows": [row("third", third=[7.0]), row("main", 2e6, valid=[5.0], test=[None])],
    }
    main, third = report.rich_tables(result)
    assert [column.header for column in main.columns] == [
        "",
        "valid",
        "test",
        "seeds",
        "million operations",
    ]
    assert [column.header for column in third.columns] == ["", "the other third", "seeds"]
    page = report.markdown(result, {})
    assert "| main | 5.0 | diverges | 1 | 2.00 |" in page
    assert "| third | 7.0 | 1 |" in page
    assert "Other sizes" not in page


def test_every_row_has_its_model_and_method():
    for row in ROWS.values():
        assert row.model in MODELS
        assert row.method in METHODS
        assert row.settings_of is None or f"{row.settings_of}.{row.method}" in ROWS


def test_searches_begin_on_their_scales():
    for method in METHODS.values():
        for name, values in method.scales(512).items():
            assert method.start[name] in values, method.name


@pytest.mark.slow
def test_costs(done, few_settings, monkeypatch):
    path, config, _, _ = done
    monkeypatch.setattr(costs, "_SECONDS", 1.0)
    result = run_benchmark(path, config, rows=["baseline.plain", "baseline.sgd"], seeds=1)
    rows = rows_of(result)
    found = {name: row["cost"] for name, row in rows.items() if row["cost"]}
    assert found["baseline.plain"]["seconds"] == pytest.approx(1.0, rel=0.5)
    assert found["baseline.sgd"]["seconds"] > 2
    assert found["baseline.plain"]["megabytes"] > 1
    plain = rows["baseline.plain"]["operations"]
    assert rows["baseline.sgd"]["operations"] > 3 * plain
    assert rows["fast_weights.carried"]["operations"] > plain


@pytest.mark.slow
def test_equal_costs_are_measured_once(done, few_settings, monkeypatch):
    """Rows that differ in what their models have learned only; and no model is needed."""
    path, config, _, _ = done
    workspace = Workspace.open(path, config, Console(quiet=True))
    measured = []

    def measure(workspace, row, settings):
        measured.append(row.name)
        return {"seconds": float(len(measured)), "megabytes": 1.0, "tokens_per_second": 1.0}

    monkeypatch.setattr(costs, "_measure_apart", measure)
    (path / "costs" / "fast_weights.windows.json").unlink(missing_ok=True)
    (path / "costs" / "fast_weights.carried.json").unlink(missing_ok=True)
    names = [
        "fast_weights.windows",
        "documents.windows",
        "one_segment.windows",
        "documents.carried",
    ]
    found = [costs.measure_cost(workspace, ROWS[name], {})["seconds"] for name in names]
    assert found == [1.0, 1.0, 2.0, 3.0]
    assert measured == [names[0], *names[2:]]
