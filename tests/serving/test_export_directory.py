"""What an operator gets in `export/`: configuration the server can read, and scripts that run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from stub_servers import Servable, grpc_stub, rest_stub

from fwl_keras.serving.export import SERVER_IMAGE

DIRECTORY = Path(__file__).parents[2] / "export"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(DIRECTORY)
    monkeypatch.setenv("COLUMNS", "200")
    return __import__


@pytest.fixture
def servable(exported, served):
    return Servable(exported(), served()._model)


def test_compose_mounts_what_is_there():
    (service,) = yaml.safe_load((DIRECTORY / "compose.yaml").read_text())["services"].values()
    assert service["image"] == SERVER_IMAGE
    inside = {}
    for volume in service["volumes"]:
        here, there, mode = volume.split(":")
        inside[there] = DIRECTORY / here
        assert mode == "ro"
    for flag in service["command"]:
        name, _, value = flag.removeprefix("--").partition("=")
        if name.endswith("_file"):
            assert inside[value].is_file()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_model_configuration_is_one():
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    text = (DIRECTORY / "models.config").read_text()
    (model,) = text_format.Parse(text, config.ModelServerConfig()).model_config_list.config
    assert model.base_path == f"/models/{model.name}"
    (policy,) = re.findall(r"^#\s+(model_version_policy.*)$", text, flags=re.MULTILINE)
    text_format.Parse(policy, config.ModelConfig())


def test_the_readme_names_every_file_and_signature(served):
    text = (DIRECTORY / "README.md").read_text("utf-8")
    for path in DIRECTORY.iterdir():
        assert path.is_dir() or path.name == "README.md" or f"`{path.name}`" in text, path.name
    for name in served()._model.signatures:
        assert f"`{name}`" in text, name
    assert SERVER_IMAGE in text


@pytest.mark.slow
def test_the_rest_client_needs_nothing_but_python(servable, tmp_path):
    (tmp_path / "read.txt").write_text("the quick brown fox")
    with rest_stub(servable) as address:
        words = ["def ", "--server", address, "--model", servable.name, "--tokens", "4"]
        words += ["--read", str(tmp_path / "read.txt")]
        # -I -S: no package of this environment can be imported.
        command = [sys.executable, "-I", "-S", str(DIRECTORY / "client_rest.py"), *words]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert re.search(r"score: \d+ tokens, perplexity [\d.]+\n", result.stdout)
        assert "generate: def " in result.stdout
        assert re.search(r"after \d+ tokens read: def ", result.stdout)
        command[4] = ""
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 1 and "Row 0 was refused: empty" in result.stderr


def test_the_grpc_client_goes_on(script, servable, tmp_path, capsys):
    pytest.importorskip("tensorflow_serving")
    main = script("client_grpc").main
    with grpc_stub(servable) as address:
        words = ["def ", "--server", address, "--model", servable.name, "--tokens", "4"]
        for _ in range(2):
            main([*words, "--keep", str(tmp_path / "kept.npz")])
        assert capsys.readouterr().out.count("generate: def ") == 2
    with pytest.raises(SystemExit, match="check the address"):
        main(words)


def test_load_reports_all_kinds(script, servable, monkeypatch, tmp_path, capsys):
    load = script("load")
    monkeypatch.setattr(tf.saved_model, "load", lambda path: servable.model)
    texts = tmp_path / "texts.txt"
    texts.write_text("def first(x):\n\nthe quick brown fox\n")
    words = ["--in-process", "1", "--requests", "12", "--concurrency", "3", "--tokens", "2"]
    words += ["--texts", str(texts), "--json", str(tmp_path / "found.json")]
    assert load.main([*words, "--mix", "score=1,generate=1,session=1"]) == 0
    out = capsys.readouterr().out
    for word in ("p50", "p90", "p99", "score", "generate", "session", "gave 12 answers", "Memory"):
        assert word in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert sum(map(len, found["milliseconds"].values())) == 12 and not found["errors"]
    assert load.main([*words, "--mix", "generate=1", "--tokens", "99"]) == 1
    assert "12 times: generate: max_new_tokens outside [1, 40]" in capsys.readouterr().out


@pytest.mark.parametrize("mix", ["score", "score=x", "talk=1", "score=0"])
def test_load_refuses_a_mix_it_does_not_know(script, mix, capsys):
    with pytest.raises(SystemExit):
        script("load").main(["--mix", mix])
    assert "must be like score=8,generate=1" in capsys.readouterr().err
