"""One export of each small model, shared by all tests that need no other."""

import pytest
import tensorflow as tf
from served_models import OPTIONS, Served, served_model

from fwl_keras.serving.export import export_model


@pytest.fixture(autouse=True)
def _seed():
    """None: setting one makes TensorFlow prepare every graph again, seconds each."""


@pytest.fixture(autouse=True, scope="module")
def _forget():
    """Nothing, for the same reason: these modules share one loaded model."""


@pytest.fixture(autouse=True, scope="session")
def _as_traced():
    """Graphs run as they were traced: to optimise one takes longer than all that is asked of it."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(scope="session")
def models():
    """Models by kind of body, made once, run without compiling: few calls are alike."""
    made = {}

    def get(kind="recurrent"):
        if kind not in made:
            made[kind] = served_model(kind)
            made[kind].compile(sampler="random", run_eagerly=True)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def exported(models, tmp_path_factory):
    """Version directories by kind of body."""
    written = {}

    def get(kind="recurrent"):
        if kind not in written:
            path = tmp_path_factory.mktemp("served") / kind / "1"
            written[kind] = export_model(models(kind), path, OPTIONS, about={"corpus": "tests"})
        return written[kind]

    return get


@pytest.fixture(scope="session")
def served(exported):
    """Exports by kind of body, loaded."""
    loaded = {}

    def get(kind="recurrent"):
        if kind not in loaded:
            loaded[kind] = Served(tf.saved_model.load(str(exported(kind))))
        return loaded[kind]

    return get
