import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from run_helpers import as_options, eagerly, tiny_config, write_book

from fwl_keras.runs import RunConfig, RunDirectory
from fwl_keras.runs.build_model import build_model, learning_rate_schedule
from fwl_keras.runs.evaluate import evaluate_run
from fwl_keras.runs.load import load_run_model
from fwl_keras.runs.train import begin_with, resume_run, start_run

pytestmark = pytest.mark.eager


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write_book(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def finished(book, tmp_path_factory):
    with eagerly():
        return start_run(tmp_path_factory.mktemp("whole"), tiny_config(book))


def same_result(run, other):
    """The same weights, up to the noise of float sums in threads, and the same metrics."""
    weights, other_weights = (
        [keras.ops.convert_to_numpy(v) for v in keras.saving.load_model(r.model).variables]
        for r in (run, other)
    )
    for ours, theirs in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    lines, other_lines = run.read_metrics(), other.read_metrics()
    assert [line["step"] for line in lines] == [line["step"] for line in other_lines]
    for line, other_line in zip(lines, other_lines, strict=True):
        assert line.keys() == other_line.keys()
        for name in ("loss", "val_loss", "learning_rate"):
            assert line.get(name, 0) == pytest.approx(other_line.get(name, 0), rel=1e-5)


def test_the_pair_starts_from_the_same_weights(book):
    fast, baseline = (build_model(tiny_config(book, fast_weights=f)) for f in (True, False))
    assert fast.count_params() == baseline.count_params()
    for ours, theirs in zip(fast.weights, baseline.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_weight_of_the_model_is_trained(book):
    lm = build_model(tiny_config(book))
    before = {v.path: keras.ops.convert_to_numpy(v) for v in lm.trainable_variables}
    lm.fit(np.random.default_rng(0).integers(300, size=(2, 32)), verbose=0)
    unused = [v.path for v in lm.trainable_variables if np.array_equal(v, before[v.path])]
    # Decays are used from the third segment on.
    assert [path for path in unused if "decay" not in path] == []


def test_learning_rate(book):
    config = tiny_config(book, steps=100)
    schedule = learning_rate_schedule(config)
    rates = np.array([float(schedule(step)) for step in range(100)])
    assert 0 < rates[0] < rates[5] < rates[10] == pytest.approx(config.learning_rate)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[99] == pytest.approx(config.final_learning_rate * config.learning_rate, rel=0.05)


def test_a_run_has_all_its_files(finished):
    lines = finished.read_metrics()
    assert [line["step"] for line in lines] == [5, 10, 12]
    for name in ("loss", "perplexity", "adaptation_gain", "val_loss", "step_sizes", "decays"):
        assert name in lines[-1]
    assert finished.curve.read_bytes().startswith(b"\x89PNG")
    assert list(finished.tensorboard.rglob("events*"))
    assert not list(finished.path.glob(".*"))


def test_a_finished_run_is_left_alone(finished):
    before = finished.model.stat().st_mtime_ns
    resume_run(finished.path)
    assert finished.model.stat().st_mtime_ns == before


@pytest.mark.graph
@pytest.mark.slow
def test_evaluate(finished):
    result = evaluate_run(finished.path, split="test")
    assert 1 < result["perplexity_per_token"] < 400
    assert 0 < result["bits_per_byte"] < 9
    assert "perplexity_per_word" not in result
    assert finished.evaluation.exists()


def test_evaluate_needs_a_finished_run(tmp_path):
    with pytest.raises(ValueError, match="is not a run"):
        evaluate_run(tmp_path)


def start_process(directory, config, *more):
    words = ["train", config.corpus, "--to", str(directory), *as_options(config), *more]
    return subprocess.Popen(
        [sys.executable, "-c", "from fwl_keras.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        # Tests in the background of a shell would hand it down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


# So many seconds only a process that hangs takes, however busy the machine.
PATIENCE = 600


def wait_for_lines(run, process, count):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if len(run.read_metrics()) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the run writes no metrics")


def interrupt(run, process, number):
    """Send a signal; once more if training goes on, since Python drops one within a finaliser."""
    lines = len(run.read_metrics())
    process.send_signal(number)
    while process.poll() is None and len(run.read_metrics()) < lines + 3:
        time.sleep(0.05)
    if process.poll() is None:
        process.send_signal(number)


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_another(book, tmp_path):
    """Fast weights on a model trained without, its body left alone."""
    config = tiny_config(book, fast_weights=False, steps=4, validation_windows=0)
    first = start_run(tmp_path / "first", config)
    config = tiny_config(book, initial_model=str(first.path), trained_part="block")
    config = config.replace(steps=4, validation_windows=0)
    tuned = start_run(tmp_path / "tuned", config, steps_given=True)
    assert tuned.tokenizer.read_bytes() == first.tokenizer.read_bytes()
    before, after = (load_run_model(run.path) for run in (first, tuned))
    for one, other in zip(before.backbone.weights, after.backbone.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert after.block.use_fast_weights
    kernels = [lm.block.expand.kernel for lm in (before, after)]
    assert np.abs(np.asarray(kernels[0]) - np.asarray(kernels[1])).max() > 0
    # Before any step it is the first run's model.
    fresh = build_model(config.replace(vocab_size=before.block.vocab_size))
    begin_with(fresh, first.path)
    ids = np.arange(1, 30, dtype="int32")[None]
    losses = [np.asarray(lm(ids, output="loss")["slow_loss"])[:, :16] for lm in (before, fresh)]
    np.testing.assert_allclose(*losses, atol=1e-6)
    with pytest.raises(ValueError, match="does not fit"):
        begin_with(build_model(tiny_config(book, width=32)), first.path)


@pytest.mark.slow
def test_a_run_begins_with_a_longer_memory(finished, tmp_path):
    start = {"longer_memory": 10.0, "smaller_steps": 2.0, "learning_rate": 1e-9}
    carried = {"carry_state": True, "carry_groups": 3, "validation_windows": 0}
    config = finished.next_config(**start, **carried, steps=4)
    tuned = start_run(tmp_path / "tuned", config, steps_given=True)
    before, after = (load_run_model(run.path).block for run in (finished, tuned))
    for name, decay in after.decays().items():
        # Ten segments later as much is left as was after one.
        assert decay**10 == pytest.approx(before.decays()[name], rel=1e-3)
        step_size = before.step_sizes()[name]
        assert after.step_sizes()[name] == pytest.approx(step_size / 2, rel=1e-3)


@pytest.fixture(scope="module")
def long_run(book, tmp_path_factory):
    """Long enough to be caught in the middle."""
    # What the command cannot set keeps its preset's value.
    preset = RunConfig.from_preset("tiny")
    config = tiny_config(
        book,
        steps=403,
        interval=10,
        validation_every=preset.validation_every,
        validation_windows=preset.validation_windows,
    )
    return start_run(tmp_path_factory.mktemp("long"), config, steps_given=True)


@pytest.mark.slow
@pytest.mark.graph
# Once with XLA, as the preset has it: to compile takes the time of all the rest.
@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGKILL, ()), (signal.SIGINT, ("--no-jit",))],
    ids=["kill", "ctrl-c"],
)
def test_an_interrupted_run_comes_to_the_same_result(number, options, long_run, tmp_path):
    config = RunConfig.load(long_run.config)
    run = RunDirectory(tmp_path / "run")
    process = start_process(run.path, config, *options)
    wait_for_lines(run, process, 2)
    interrupt(run, process, number)
    output, errors = process.communicate(timeout=60)
    assert not run.finished, errors
    if number == signal.SIGINT:
        assert process.returncode == 130, errors
        assert f"--resume {run.path}" in output
        assert "Traceback" not in errors
    assert run.checkpoint.exists()
    resume_run(run.path)
    same_result(run, long_run)


def kill_after_metrics(directory, config):
    """A kill after the line of metrics of step 10, before its checkpoint."""

    class Kill(BaseException):
        pass

    run = RunDirectory(directory)
    append = RunDirectory.append_metrics

    def append_and_stop(self, values):
        append(self, values)
        if values["step"] == 10:
            raise Kill

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", append_and_stop)
        with pytest.raises(Kill):
            start_run(directory, config)
    assert [line["step"] for line in run.read_metrics()] == [5, 10]
    return run


@pytest.mark.slow
def test_resuming_between_metrics_and_checkpoint(finished, book, tmp_path):
    run = kill_after_metrics(tmp_path / "run", tiny_config(book))
    resume_run(run.path)
    same_result(run, finished)


@pytest.mark.graph  # hundreds of steps of one shape
@pytest.mark.slow
def test_a_run_that_carries_its_state(book, tmp_path):
    config = tiny_config(book, carry_state=True, segment_length=32, validation_windows=0)
    whole = start_run(tmp_path / "whole", config)
    run = kill_after_metrics(tmp_path / "run", config)
    # The state is in the checkpoint, and what is left of the training goes on from it.
    resume_run(run.path)
    same_result(run, whole)
    model, untrained = keras.saving.load_model(run.model), build_model(RunConfig.load(run.config))
    assert model.count_params() == untrained.count_params()

    result = evaluate_run(run.path, split="test", stream=True)
    carried = result["carried"]
    assert json.loads(run.evaluation.read_text()) == result
    assert 1 < carried["perplexity_per_token"] != result["perplexity_per_token"]
    nats = carried["bits_per_byte"] / result["bits_per_byte"]
    assert nats == pytest.approx(carried["total_nll_nats"] / result["total_nll_nats"])
