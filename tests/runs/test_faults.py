"""What happens to a run when its process, its disk or its files fail.

The module ends with a table: every fault, how often it was tried, and what was lost by it.
"""

import collections
import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time

import fault_helpers
import keras
import numpy as np
import pytest
from fault_helpers import DAMAGES, another_content, another_kind, cut, emptied, flipped, removed
from run_helpers import tiny_config, write_book
from typer.testing import CliRunner

from fwl_keras.cli import app
from fwl_keras.files import disk_errors
from fwl_keras.runs import RunConfig, RunDirectory
from fwl_keras.runs import evaluate as evaluating
from fwl_keras.runs.build_model import build_model
from fwl_keras.runs.checksums import Checksums, sha256
from fwl_keras.runs.export import describe_run
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.run_text import prepare_text
from fwl_keras.runs.train import restore, resume_run

# By fault: how often it was tried, and what was lost.
TABLE = collections.defaultdict(collections.Counter)

STEPS = (5, 10)


@pytest.fixture(scope="module", autouse=True)
def table(request):
    yield
    plugins = request.config.pluginmanager
    reporter = plugins.get_plugin("terminalreporter")
    if reporter is None:  # a worker's output goes nowhere
        return
    with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
        reporter.write_line(f"\n{'fault':50} tried  lost")
        for fault, lost in TABLE.items():
            reporter.write_line(f"{fault:50} {lost.total():5}  {', '.join(lost)}")


def tried(fault, lost="nothing"):
    TABLE[fault][lost] += 1


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write_book(tmp_path_factory.mktemp("book"), 10_000)


@pytest.fixture(scope="module")
def prepared(book):
    config = tiny_config(book, width=8, validation_windows=0)
    return prepare_text(config, lambda line: None, steps_given=True)


@pytest.fixture(scope="module")
def lm(prepared):
    config, text = prepared
    return build_model(config, text.tokenizer)


@pytest.fixture(scope="module")
def whole(prepared, lm, tmp_path_factory):
    """A run as training leaves it, with all its files, without the time that training takes."""
    config, text = prepared
    path = tmp_path_factory.mktemp("runs") / "whole"
    run = RunDirectory.create(path, config, text.tokenizer, text.description())
    for step in STEPS:
        mark(lm, step)
        run.append_metrics({"step": step, "loss": 1.0 / step, "perplexity": np.exp(1.0 / step)})
        run.keep_checkpoint(lm)
    run.keep_model(lm)
    run.evaluation.write_text('{"corpus": "book", "perplexity_per_token": 3.5}')
    return run


@pytest.fixture
def run(whole, tmp_path):
    return RunDirectory(fault_helpers.copy(whole.path, tmp_path / "run"))


def mark(lm, step):
    """Gives a model weights that tell which step they are of."""
    lm.optimizer.iterations.assign(step)
    lm.block.expand.kernel.assign(np.full(lm.block.expand.kernel.shape, float(step)))


def marked(lm):
    return int(lm.optimizer.iterations), float(np.asarray(lm.block.expand.kernel)[0, 0])


def files(run):
    return {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}


def one_line(error, *words):
    line = str(error.value)
    assert "\n" not in line
    for word in words:
        assert word in line.replace("`", "")
    return line


# Damaged files.


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config", "corpus"])
def test_a_small_file_is_refused_and_its_values_are_kept(run, name, damage):
    run.model.unlink()
    path = getattr(run, name)
    before = json.loads(path.read_text())
    damage(path)
    with pytest.raises(ValueError) as error:
        resume_run(run.path)
    one_line(error, path.name, "checksums.json has its values", "put it back")
    assert json.loads(run.checksums.read_text())[name] == before
    if path.is_dir():
        path.rmdir()
    path.write_text(json.dumps(before))
    read = {"config": run.read_config, "corpus": run.read_corpus}[name]()
    assert (read if name == "corpus" else dataclasses.asdict(read)) == before
    tried(f"{path.name} {damage.__name__}")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tokeniser_is_written_again(run, damage):
    before = run.tokenizer.read_bytes()
    damage(run.tokenizer)
    assert run.read_tokenizer().proto == before
    assert "tokenizer.model" in run.repair_tokenizer()
    assert run.tokenizer.read_bytes() == before
    assert run.repair_tokenizer() is None
    tried(f"tokenizer.model {damage.__name__}")
    # Without the copy there is nothing to repair it with.
    if damage is not flipped:
        run.checksums.unlink()
        damage(run.tokenizer)
        with pytest.raises(ValueError) as error:
            run.read_tokenizer()
        one_line(error, "tokenizer.model", "put it back")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checksums_are_no_way_into_a_run(run, damage):
    run.model.unlink()
    damage(run.checksums)
    if damage is not removed:
        with pytest.raises(ValueError) as error:
            resume_run(run.path)
        one_line(error, "checksums.json is damaged", "remove it")
        run.checksums.rmdir() if run.checksums.is_dir() else run.checksums.unlink()
    run.remember_beginning()
    assert run.read_config() == RunConfig.load(run.config)
    assert run.damage(run.tokenizer) is None
    tried(f"checksums.json {damage.__name__}")


@pytest.mark.parametrize(
    ("damage", "known"),
    # A flipped byte is what only a checksum shows.
    [*((one, True) for one in DAMAGES), *((one, False) for one in DAMAGES if one is not flipped)],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, lm, damage, known):
    if not known:
        run.checksums.unlink()
    damage(run.checkpoint)
    said = []
    mark(lm, 0)
    assert restore(run, lm, said.append) == STEPS[0]
    assert marked(lm) == (STEPS[0], STEPS[0])
    assert [line["step"] for line in run.read_metrics()] == [STEPS[0]]
    if damage is not removed:
        (line,) = said
        assert "checkpoint.weights.h5" in line
        assert "going on from checkpoint.previous.weights.h5" in line
        # It must not become the one before.
        assert not run.checkpoint.exists()
        assert (run.path / "damaged-1-checkpoint.weights.h5").exists()
    mark(lm, 7)
    run.keep_checkpoint(lm)
    assert restore(run, lm) == 7
    tried(f"checkpoint.weights.h5 {damage.__name__}", "nothing: trained again from the one before")


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_may_be_damaged(run, lm, damage):
    damage(run.previous_checkpoint)
    mark(lm, 0)
    assert restore(run, lm) == STEPS[1]
    assert marked(lm) == (STEPS[1], STEPS[1])
    tried(f"checkpoint.previous.weights.h5 {damage.__name__}")


def test_without_a_whole_checkpoint_nothing_is_guessed(run, lm):
    cut(run.checkpoint)
    emptied(run.previous_checkpoint)
    before = files(run)
    with pytest.raises(ValueError) as error:
        restore(run, lm)
    names = "checkpoint.weights.h5 is damaged", "checkpoint.previous.weights.h5 is empty"
    one_line(error, *names, "put a whole one back")
    assert files(run) == before
    tried("both checkpoints damaged", "steps since the last copy of one")


@pytest.mark.parametrize("damage", DAMAGES)
def test_metrics_that_cannot_be_read_do_not_stop_a_resume(run, lm, damage):
    before = run.metrics.read_bytes()
    damage(run.metrics)
    said = []
    assert restore(run, lm, said.append) == STEPS[1]
    lines = run.read_metrics() if run.metrics.exists() else []
    assert all(line in map(json.loads, before.splitlines()) for line in lines)
    assert bool(said) == (damage in (flipped, another_kind, another_content))
    if said:
        assert "metrics.jsonl" in said[0]
        assert (run.path / "damaged-1-metrics.jsonl").exists()
    run.append_metrics({"step": 15})
    assert run.read_metrics() == [*lines, {"step": 15}]
    tried(f"metrics.jsonl {damage.__name__}", "the lines that were damaged; no weights")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_named(run, damage):
    damage(run.model)
    with pytest.raises(ValueError) as error:
        load_run_model(run.path)
    one_line(error, "model.keras", f"train --resume {run.path}")
    tried(f"model.keras {damage.__name__}", "nothing: written again from the checkpoint")


def test_a_removed_model_is_written_again(run, prepared, monkeypatch):
    """From the checkpoint alone: with all steps done nothing is trained."""
    config = RunConfig.load(run.config)
    text = json.loads(run.config.read_text())
    run.model.unlink()
    # The run says that it is finished after the step that its last checkpoint is of.
    run.config.write_text(json.dumps({**text, "steps": STEPS[1]}))
    run.checksums.unlink()
    monkeypatch.setattr("fwl_keras.runs.train._fit", lambda *arguments: pytest.fail("trained"))
    resume_run(run.path)
    assert config.steps > STEPS[1]
    kernel = load_run_model(run.path).block.expand.kernel
    np.testing.assert_array_equal(kernel, np.full(kernel.shape, STEPS[1]))
    # The lock is gone with the training.
    with run.locked():
        pass
    assert {path.stat().st_mode & 0o777 for path in run.path.iterdir() if path.is_file()} == {
        run.config.stat().st_mode & 0o777
    }


@pytest.mark.parametrize("damage", [cut, emptied, another_kind, another_content, removed])
def test_figures_of_an_evaluation_may_be_damaged(run, damage):
    damage(run.evaluation)
    if damage is removed:
        assert "evaluation" not in describe_run(run.path)
    else:
        with pytest.raises(ValueError) as error:
            describe_run(run.path)
        one_line(error, "evaluation.json", f"fwl-keras evaluate {run.path}")
    tried(f"evaluation.json {damage.__name__}", "nothing: measured again")


def test_a_file_in_the_place_of_the_logs(run, monkeypatch):
    run.model.unlink()
    run.tensorboard.write_text("something")
    monkeypatch.setattr("fwl_keras.runs.train.build_model", lambda *arguments: pytest.fail("built"))
    with pytest.raises(ValueError) as error:
        resume_run(run.path)
    one_line(error, "tensorboard is not a directory")
    tried("tensorboard another_kind")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 20}, ["steps=20 (it was 12)"]),
        ({"learning_rate": 0.5, "seed": 3}, ["learning_rate=0.5 (it was 0.004)", "seed=3"]),
        ({"steps": "20"}, ["steps must be of type int", "'20'"]),
        ({"steps": True}, ["steps must be of type int"]),
        ({"learning_rate": float("nan")}, ["learning_rate must be"]),
        ({"weight_decay": float("inf")}, ["weight_decay must be finite"]),
        ({"from_the_future": 1}, ["from_the_future"]),
    ],
)
def test_an_edited_configuration_is_refused(run, changes, words):
    values = json.loads(run.config.read_text())
    run.config.write_text(json.dumps({**values, **changes}))
    for use in (resume_run, evaluating.evaluate_run, describe_run):
        with pytest.raises(ValueError) as error:
            use(run.path)
        one_line(error, "config.json", *words)
    tried("config.json edited")


def test_a_text_may_move(run, book, tmp_path):
    """Its fingerprint says whether it is the same."""
    values = json.loads(run.config.read_text())
    moved = tmp_path / "moved.txt"
    moved.write_bytes(book.read_bytes())
    run.config.write_text(json.dumps({**values, "corpus": str(moved)}))
    assert run.read_config().corpus == str(moved)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "\x00"])
def test_a_configuration_is_an_object(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json` cannot be read"):
        RunConfig.load(path)


def test_a_checksum_is_there_before_its_file(run, lm):
    """A kill at any place of a checkpoint's writing leaves one that is whole, and known."""
    digests = {sha256(run.checkpoint): STEPS[1], sha256(run.previous_checkpoint): STEPS[0]}
    assert set(digests) <= set(Checksums.load(run.checksums).files[run.checkpoint.name])

    class Kill(BaseException):
        pass

    for place in range(1, 4):  # the checksums' move, the old checkpoint's, the new one's
        moves = []

        def move(*paths, place=place, moves=moves, replace=os.replace):
            moves.append(paths)
            if len(moves) == place:
                raise Kill
            replace(*paths)

        mark(lm, 15)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fwl_keras.runs.directory.os.replace", move)
            with pytest.raises(Kill):
                run.keep_checkpoint(lm)
        mark(lm, 0)
        assert restore(run, lm, pytest.fail) == STEPS[1]
        if not run.checkpoint.exists():
            run.previous_checkpoint.rename(run.checkpoint)
    tried("killed between the moves of a checkpoint")


@pytest.mark.parametrize(("mask", "modes"), [(0o022, (0o755, 0o644)), (0o027, (0o750, 0o640))])
def test_all_files_have_the_permissions_that_the_user_wants(prepared, lm, tmp_path, mask, modes):
    config, text = prepared
    before = os.umask(mask)
    try:
        run = RunDirectory.create(tmp_path / "run", config, text.tokenizer, text.description())
        run.append_metrics({"step": 1})
        run.keep_checkpoint(lm)
        run.keep_model(lm)
        run.rewind_metrics(1)
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in run.path.iterdir()}
    assert len(found) == 7
    assert (run.path.stat().st_mode & 0o777, *set(found.values())) == modes


# Two processes.

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "rb+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(run):
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, str(run.config)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused(run, holder):
    run.model.unlink()
    before = files(run)
    result = CliRunner().invoke(app, ["train", "--resume", str(run.path)])
    assert result.exit_code == 2
    assert "is being trained by another process" in " ".join(result.stderr.split())
    assert files(run) == before
    tried("two processes on one run")
    holder.kill()
    holder.wait()
    with run.locked():  # what a dead process leaves behind does not block
        pass
    tried("a process that died with the lock")


# The disk.


@contextlib.contextmanager
def small_disk(path, *options):
    """A file system of two megabytes, where mounting is allowed."""
    path.mkdir()
    words = ["-o", ",".join(["size=2m", *options]), "tmpfs", str(path)]
    done = subprocess.run(["mount", "-t", "tmpfs", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def disk(tmp_path):
    try:
        with small_disk(tmp_path / "disk") as path:
            yield path
    except FileNotFoundError:
        pytest.skip("there is no command to mount with")


def fill(disk, free):
    """Leaves so many bytes, in whole pages."""
    block = b"\0" * 4096
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while file.write(block) == len(block):
            pass
    size = (disk / "ballast").stat().st_size
    with (disk / "ballast").open("rb+") as file:
        file.truncate(max(0, size - free))


@pytest.mark.parametrize("free", [0, 40_000])
def test_a_full_disk_leaves_everything_as_it_was(whole, lm, disk, free):
    run = RunDirectory(fault_helpers.copy(whole.path, disk / "run"))
    before = files(run)
    mark(lm, 15)
    writes = [
        lambda: run.keep_checkpoint(lm),
        lambda: run.keep_model(lm),
    ]
    for write in writes:
        fill(disk, free)
        with pytest.raises(OSError) as error:
            write()
        assert error.value.errno == errno.ENOSPC
        assert str(run.path) in error.value.filename
        assert files(run) == before
        (disk / "ballast").unlink()
        tried("full disk, writing a checkpoint or a model")
    run.keep_checkpoint(lm)
    mark(lm, 0)
    assert restore(run, lm) == 15
    fill(disk, 0)
    with pytest.raises(OSError, match="No space"):
        for step in range(1000):
            run.append_metrics({"step": 20, "value": "x" * 500 * step})
    (disk / "ballast").unlink()
    assert restore(run, lm, pytest.fail) == 15
    assert [line["step"] for line in run.read_metrics()] == [5, 10]
    tried("full disk, writing metrics")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="writes with TensorFlow")
def test_a_full_disk_at_the_logs(disk):
    import tensorflow as tf

    fill(disk, 0)
    with pytest.raises(OSError, match="No space") as error, disk_errors(disk / "tensorboard"):
        tf.summary.create_file_writer(str(disk / "logs")).init()
    assert error.value.filename == str(disk / "tensorboard")
    # Another file's error keeps its name.
    with pytest.raises(OSError) as error, disk_errors(disk / "tensorboard"):
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoint.weights.h5")
    assert error.value.filename == "checkpoint.weights.h5"
    tried("full disk, writing logs")


def test_a_full_disk_is_one_line_of_the_command(run, monkeypatch):
    run.model.unlink()

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(run.checkpoint))

    monkeypatch.setattr("fwl_keras.runs.train.build_model", fail)
    monkeypatch.setenv("COLUMNS", "500")
    result = CliRunner().invoke(app, ["train", "--resume", str(run.path)])
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: `{run.checkpoint}`: No space left on device; make room on the disk, then continue "
        f"with `fwl-keras train --resume {run.path}`.\n"
    )


def test_a_run_that_cannot_be_written_is_evaluated_all_the_same(whole, disk, monkeypatch):
    run = RunDirectory(fault_helpers.copy(whole.path, disk / "run"))
    figures = {"documents": 1, "tokens": 2, "window_tokens": 3, "perplexity_per_token": 4.25}
    gains = {"adaptation_gain": 0.0, "total_gain": 0.0}
    monkeypatch.setattr(evaluating, "measure", lambda *a, **o: {**figures, **gains})
    monkeypatch.setenv("COLUMNS", "200")
    before = files(run)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    result = CliRunner().invoke(app, ["evaluate", str(run.path)])
    assert result.exit_code == 0, result.output
    assert "4.25" in result.stdout
    line = f"`{run.evaluation}` is not written: Read-only file system."
    assert line in " ".join(result.stderr.split())
    refused = CliRunner().invoke(app, ["train", "--from", str(run.path), "--to", f"{disk}/new"])
    assert refused.exit_code == 2 and "Read-only file system" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert files(run) == before
    tried("read-only, evaluate")


# Kills.


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="kills TensorFlow's training")
@pytest.mark.parametrize(
    ("seed", "changes"),
    [(1, {}), (2, {"carry_state": True, "carry_groups": 2})],
    ids=["windows", "carried"],
)
def test_killed_at_any_moment_the_result_is_the_same_bit_for_bit(book, tmp_path, seed, changes):
    sizes = {"width": 8, "length": 16, "segment_length": 8, "validation_windows": 0}
    config = tiny_config(book, **sizes, steps=14, interval=1, seed=seed, **changes)
    whole, run = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "run")
    reference, _ = begin(whole, config)
    reference.join()
    assert reference.exitcode == 0
    random = np.random.default_rng(seed)
    start = np.inf
    for number in range(6):
        if number % 2 == 0:
            # In training, or while what it has learned is written.
            fault = "training"
            process, seconds = begin(run, config)
            start = min(start, seconds)
            fault_helpers.kill(process, random.uniform(0, start / 2))
        else:
            # Anywhere from the process's beginning to its first step.
            fault = "a resume"
            event = fault_helpers.PROCESSES.Event()
            process = fault_helpers.train_in_process(run.path, config, event)
            fault_helpers.kill(process, random.uniform(0, start))
        assert process.exitcode == -signal.SIGKILL
        assert not run.finished
        tried(f"kill -9 in {fault}, {'state carried' if changes else 'windows'}")
    process, _ = begin(run, config)
    process.join()
    assert process.exitcode == 0
    assert run.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert run.previous_checkpoint.read_bytes() == whole.previous_checkpoint.read_bytes()
    ours, theirs = (load_run_model(one.path).get_weights() for one in (run, whole))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    lines, others = (one.read_metrics() for one in (run, whole))
    timed = {"tokens_per_second"}
    assert [{k: v for k, v in line.items() if k not in timed} for line in lines] == [
        {k: v for k, v in line.items() if k not in timed} for line in others
    ]
    assert sorted(path.name for path in run.path.iterdir()) == sorted(
        path.name for path in whole.path.iterdir()
    )


def begin(run, config):
    """A process that has done a step, and the seconds that it took to come so far."""
    began = time.monotonic()
    event = fault_helpers.PROCESSES.Event()
    process = fault_helpers.train_in_process(run.path, config, event)
    while not event.wait(0.05):
        assert process.is_alive(), f"ended with {process.exitcode}"
    return process, time.monotonic() - began
