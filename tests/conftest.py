"""Settings shared by all tests; plain helpers live in modules beside the tests that use them."""

import gc
import os
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the oracle's; keeps it off a device TensorFlow uses
# What runs once need not be optimised: compiling is most of the time. Child processes, too.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax
import keras
import pytest
import raises
from hypothesis import HealthCheck, settings

# Before the package is imported; nothing, unless the environment asks for it.
raises.record()

# The default finds the same examples every time; `--hypothesis-profile=explore` looks for new ones.
settings.register_profile(
    "fixed",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "explore",
    settings.get_profile("fixed"),
    derandomize=False,
    max_examples=100,
    print_blob=True,
)
settings.load_profile("fixed")

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.framework import ops as tf_ops

    # A float32 test is about float32: on recent devices products would be rounded to 10 bits.
    tf.config.experimental.enable_tensor_float_32_execution(False)


def optimise_graphs(yes):
    """Whether TensorFlow rewrites graphs before it runs them, which takes longer than they run."""
    if keras.backend.backend() == "tensorflow":
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not yes})


optimise_graphs(False)


# With this hook and not with marks: `xdist_group` has no effect with pytest 9.2 and xdist 3.8.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One worker for a file's tests, and for all that share an export: they share much work."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.partition("::")[0]
            if "serving/" not in path:
                return path
            return "serving, gemma" if "gemma" in nodeid else "serving"

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _seed(monkeypatch):
    """Everything that Keras draws from; TensorFlow would prepare every graph and kernel again."""
    with monkeypatch.context() as patch:
        patch.setattr("keras.src.utils.rng_utils.tf", SimpleNamespace(available=False))
        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _as_marked(request):
    """How TensorFlow runs a test's graphs.

    `optimised`: as they are run outside of tests. `eager`, on a file or a test: not as graphs at
    all, where what a graph computes is not what is tested; `graph`: as graphs, in such a file.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    names = {mark.name for mark in request.node.iter_markers()}
    eager = "eager" in names and not names & {"graph", "optimised"}
    optimise_graphs("optimised" in names)
    tf.config.run_functions_eagerly(eager)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(autouse=True, scope="module")
def _forget():
    """Graphs that a module's tests have compiled are not needed by the next one's."""
    yield
    if keras.backend.backend() == "jax":  # else only the oracle is compiled, for all modules
        jax.clear_caches()
    else:
        # TensorFlow keeps, for ever, every custom gradient, and with it the graph it is part of.
        gradients = tf_ops.gradient_registry._registry
        for name in [n for n in gradients if n.startswith("CustomGradient-")]:
            del gradients[name]
    keras.utils.clear_session()  # collects the garbage


def pytest_collection_finish(session):
    """Libraries stay: what they are made of need not be looked through for garbage."""
    gc.freeze()
