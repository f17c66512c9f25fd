"""A canary: a file that exists if anything of a hostile file ran."""

import pytest
from attacks import HOSTILE_MODULE, functional_model, serialized, small_model

import fwl_keras


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """Path of the canary; the test fails if it is there in the end."""
    path = tmp_path / "canary"
    source = HOSTILE_MODULE.format(canary=str(path))
    (tmp_path / "hostile_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    # And a module of the package that no file may name.
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "hostile_inside.py").write_text(source)
    monkeypatch.setattr(fwl_keras, "__path__", [*fwl_keras.__path__, str(inside)])
    yield path
    assert not path.exists(), "something of the hostile file ran"


@pytest.fixture(scope="session")
def recurrent():
    """Configuration of a language model on a RecurrentBackbone."""
    return serialized(small_model())


@pytest.fixture(scope="session")
def functional():
    """Configuration of a language model on a functional model with a Lambda layer."""
    return serialized(functional_model())
