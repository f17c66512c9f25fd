import pytest

from fwl_keras.data import SentencePieceTokenizer
from fwl_keras.files import replace_file
from fwl_keras.runs import RunConfig, RunDirectory


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(["def f(x):\n    return x\n"], 300)


def create(path, tokenizer):
    return RunDirectory.create(path, RunConfig(), tokenizer, {"fingerprint": "0"})


def test_create_and_open(tmp_path, tokenizer):
    run = create(tmp_path / "deep" / "run", tokenizer)
    assert RunConfig.load(RunDirectory.open(run.path).config) == RunConfig()
    assert SentencePieceTokenizer.load(run.tokenizer).vocab_size == tokenizer.vocab_size
    assert not run.finished
    assert [p.name for p in run.path.parent.iterdir()] == ["run"]


def test_an_empty_directory_will_do(tmp_path, tokenizer):
    assert create(tmp_path, tokenizer).config.exists()


def test_other_files_are_not_mixed_in(tmp_path, tokenizer):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match=r"not empty.*--resume"):
        create(tmp_path, tokenizer)
    with pytest.raises(ValueError, match="is a file"):
        create(tmp_path / "mine.txt", tokenizer)


def test_no_run(tmp_path):
    with pytest.raises(ValueError, match="is not a run"):
        RunDirectory.open(tmp_path)


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    run = RunDirectory(tmp_path)
    for step in (5, 10, 15):
        run.append_metrics({"step": step})
    with run.metrics.open("a") as file:
        file.write('{"step": 2')  # cut off by a kill
    run.rewind_metrics(10)
    run.append_metrics({"step": 15})
    assert [line["step"] for line in run.read_metrics()] == [5, 10, 15]
    assert run.metrics.read_text().count("\n") == 3


def test_a_file_is_old_or_new(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(beside):
        beside.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, fail)
    assert path.read_text() == "old"
    replace_file(path, lambda beside: beside.write_text("new"))
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "new"
