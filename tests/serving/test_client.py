"""The client against TensorFlow Serving's interfaces: a stub, and the server if there is one."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest
from stub_servers import Servable, grpc_stub, rest_stub

from fwl_keras.serving.client import Client

BINARY = shutil.which("tensorflow_model_server")
SERVER = pytest.mark.skipif(BINARY is None, reason="no tensorflow_model_server on PATH")
KINDS = ("rest", "grpc")

# The export is made in the process that has it already.


@pytest.fixture(scope="module")
def version(exported):
    return exported()


@contextlib.contextmanager
def real_server(directory):
    ports = []
    for _ in range(2):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    name = directory.parent.name
    process = subprocess.Popen(
        [
            BINARY,
            f"--port={ports[0]}",
            f"--rest_api_port={ports[1]}",
            f"--model_name={name}",
            f"--model_base_path={directory.parent}",
        ]
    )
    try:
        for _ in range(240):
            assert process.poll() is None, "the server ended"
            with contextlib.suppress(OSError):
                url = f"http://127.0.0.1:{ports[1]}/v1/models/{name}"
                if b"AVAILABLE" in urllib.request.urlopen(url).read():
                    break
            time.sleep(0.5)
        yield {"grpc": f"127.0.0.1:{ports[0]}", "rest": f"http://127.0.0.1:{ports[1]}"}
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module", params=["stub", pytest.param("server", marks=SERVER)])
def addresses(request, version, served):
    if request.param == "server":
        with real_server(version) as found:
            yield found
        return
    servable = Servable(version, served()._model)
    with contextlib.ExitStack() as stack:
        found = {"rest": stack.enter_context(rest_stub(servable))}
        with contextlib.suppress(ImportError):
            found["grpc"] = stack.enter_context(grpc_stub(servable))
        yield found


@pytest.fixture(params=KINDS)
def client(request, addresses, version):
    if request.param not in addresses:
        pytest.skip("gRPC needs tensorflow-serving-api")
    return getattr(Client, request.param)(addresses[request.param], version.parent.name)


def test_a_text_and_a_list_of_texts_get_the_same_scores(client):
    texts = ["def first(x):", "Zwölf\x00 Boxkämpfer"]
    one, (first, second) = client.score(texts[0]), client.score(texts)
    assert first.log_probabilities == pytest.approx(one.log_probabilities, abs=1e-5)
    assert one.total_log_probability == pytest.approx(one.log_probabilities.sum(), rel=1e-5)
    assert one.perplexity == pytest.approx(
        np.exp(-one.total_log_probability / one.token_count), rel=1e-4
    )
    for score, text in ((one, texts[0]), (second, texts[1])):
        assert score.log_probabilities.dtype == np.float32
        assert len(client.tokenize(text)) == len(score.log_probabilities)
        assert (score.log_probabilities < 0).any()


def test_what_is_written_follows_from_the_seed(client):
    settings = {"max_new_tokens": 8, "temperature": 1.5, "top_p": 1.0}
    both = client.generate(["def ", "def "], seed=3, **settings)
    assert client.generate("def ", seed=4, **settings) == both[1]
    assert both[0].text != both[1].text
    assert both == client.generate(["def ", "def "], seed=[3, 4], **settings)
    assert all(one.token_count == 8 or one.finish_reason == "stop" for one in both)


def test_a_session_goes_on_and_can_be_kept(client, tmp_path):
    text = "the quick brown fox jumps over the lazy dog\n" * 2
    session = client.session()
    assert session.read(text) == len(client.tokenize(text))
    session.save(tmp_path / "state.npz")
    # As confidential as the text that was read.
    assert os.name == "nt" or (tmp_path / "state.npz").stat().st_mode & 0o077 == 0
    again = client.session(tmp_path / "state.npz")
    first, second, fresh = (one.score(text) for one in (session, again, client.session()))
    assert first.total_log_probability == second.total_log_probability
    assert first.perplexity != pytest.approx(fresh.perplexity, rel=1e-3)
    settings = {"max_new_tokens": 6, "seed": 1}
    written = session.generate(**settings)
    assert written == again.generate(**settings)
    for name, value in session.state.items():
        np.testing.assert_array_equal(value, again.state[name])
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_a_session_is_the_same_by_rest_and_grpc(addresses, version):
    if len(addresses) < 2:
        pytest.skip("gRPC needs tensorflow-serving-api")
    states = []
    for kind in KINDS:
        session = getattr(Client, kind)(addresses[kind], version.parent.name).session()
        session.read("for one in range(10):")
        session.generate(" print", max_new_tokens=4, seed=0)
        states.append(session.state)
    for name, value in states[0].items():
        assert value.dtype == states[1][name].dtype
        np.testing.assert_array_equal(value, states[1][name])


def test_refused_texts(client, addresses):
    with pytest.raises(ValueError, match="row 1: empty"):
        client.score(["fine", ""])
    with pytest.raises(ValueError, match="row 0: not UTF-8"):
        client.score([b"\xff\xfe", "fine"])
    with pytest.raises(ValueError, match="refused row 0: max_new_tokens"):
        client.generate("x", max_new_tokens=10_000)
    client = Client(client._transport, strict=False)
    fine, empty = client.score(["fine", ""])
    assert (fine.status, fine.message) == (0, "")
    assert empty.status > 0 and empty.message.startswith("empty")
    session = client.session()
    before = session.state
    with pytest.raises(ValueError, match=r"refused: empty.*\(status 1\)"):
        session.read("")
    assert session.state is before


def test_wrong_use_is_said_in_a_line(client, version, tmp_path):
    with pytest.raises(ValueError, match="a text or a list of texts"):
        client.score([])
    with pytest.raises(ValueError, match="`seed` must"):
        client.generate("x", seed=-1)
    with pytest.raises(ValueError, match="takes one text"):
        client.session().read(["a", "b"])
    with pytest.raises(RuntimeError, match="no_such"):
        client.call("no_such", {"text": "x"})
    np.savez(tmp_path / "other.npz", position=np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="another model"):
        client.session(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match="no file of a session"):
        client.session(tmp_path / "text.npz")


@pytest.mark.parametrize("kind", KINDS)
def test_no_server(kind):
    if kind == "grpc":
        pytest.importorskip("tensorflow_serving")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    client = getattr(Client, kind)(f"http://{address}" if kind == "rest" else address, "lm")
    with pytest.raises(ConnectionError, match="check the address"):
        client.score("x")


def test_the_row_format_with_many_inputs(addresses, version):
    rows = [
        {
            "text": {"b64": base64.b64encode(text.encode()).decode()},
            "max_new_tokens": count,
            "temperature": 1.5,
            "top_k": 0,
            "top_p": 1,
            "seed": 7,
        }
        for text, count in (("def ", 3), ("for ", 2))
    ]
    body = json.dumps({"signature_name": "generate", "instances": rows}).encode()
    url = f"{addresses['rest']}/v1/models/{version.parent.name}:predict"
    answer = json.load(urllib.request.urlopen(urllib.request.Request(url, body)))
    assert [row["status"] for row in answer["predictions"]] == [0, 0]
    for row, (prompt, count) in zip(answer["predictions"], (("def ", 3), ("for ", 2)), strict=True):
        written = Client.rest(addresses["rest"], version.parent.name).generate(
            prompt, count, temperature=1.5, top_p=1.0, seed=7
        )
        assert (row["text"], row["token_count"]) == (written.text, written.token_count)
