"""Callbacks for every `fit`, on both backends."""

import keras
import numpy as np
import pytest

from fwl_keras.callbacks import NotFiniteError, StopWhenNotFinite, names_not_finite

pytestmark = pytest.mark.jax

ROWS, BATCH = 12, 2


def model(eagerly=True, **options):
    inputs = keras.Input((1,))
    result = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="zeros")(inputs))
    result.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=eagerly, **options)
    return result


def data(bad_batch=None, value=np.nan):
    x = np.ones((ROWS, 1), "float32")
    y = np.ones((ROWS, 1), "float32")
    if bad_batch is not None:
        y[BATCH * bad_batch] = value
    return x, y


def fit(model, x, y, *callbacks, epochs=3):
    options = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(x, y, callbacks=list(callbacks), **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("bad_batch", [0, 3, 5])
def test_the_step_is_named(value, bad_batch):
    lm = model()
    fit(lm, *data(), StopWhenNotFinite(), epochs=1)  # steps go on counting
    # A callback that is not safe in threads makes Keras call all of them in order.
    with pytest.raises(NotFiniteError) as error:
        fit(lm, *data(bad_batch, value), StopWhenNotFinite(), InOrder())
    found = error.value
    assert (found.step, found.epoch, found.batch) == (6 + bad_batch + 1, 0, bad_batch)
    message = f"({value}) at step {found.step} (batch {bad_batch} of epoch 0, counted from 0)"
    assert message in str(found)
    for word in ("learning rate", "initial_step_size", "mixed"):
        assert word in str(found)
    assert "\n" not in str(found)


class InOrder(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.last = batch


def test_fit_does_not_wait_for_it():
    """Where Keras needs no loss before the next step (on JAX), it still needs none."""
    stop = StopWhenNotFinite()

    def waits(*callbacks):
        return not keras.callbacks.CallbackList(list(callbacks), model=model())._async_train

    assert waits(stop) == waits(keras.callbacks.Callback())
    assert waits(stop, InOrder())
    with pytest.raises(NotFiniteError) as error:
        fit(model(), *data(4), stop)
    assert error.value.epoch == 0 and error.value.batch >= 4


def test_several_steps_at_once():
    lm = model(eagerly=False, steps_per_execution=3)
    with pytest.raises(NotFiniteError) as error:
        fit(lm, *data(4), StopWhenNotFinite(), InOrder())
    assert "one of the steps 4 to 6 (batches 3 to 5 of epoch 0" in str(error.value)
    assert error.value.step == 6


def test_a_checkpoint_is_not_overwritten(tmp_path):
    """Neither by a loss that is not finite, nor by weights that the last step has spoiled."""
    lm = model()
    path = tmp_path / "lm.weights.h5"
    keep = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    fit(lm, *data(), StopWhenNotFinite(), keep, epochs=1)
    before = path.read_bytes()
    with pytest.raises(NotFiniteError, match="The loss"):
        fit(lm, *data(3), StopWhenNotFinite(), keep)
    assert path.read_bytes() == before

    lm.load_weights(path)
    x, y = data()
    # The loss is finite, its gradient times the learning rate is not.
    y[-BATCH:] = 1e18
    lm.optimizer.learning_rate = 1e30
    x[:-BATCH] = y[:-BATCH] = 0
    lm.set_weights([np.zeros((1, 1)), np.zeros(1)])
    with pytest.raises(NotFiniteError, match=r"Weights are not finite after step 12 \(batch 5"):
        fit(lm, x, y, StopWhenNotFinite(), keep, epochs=1)
    assert path.read_bytes() == before


def test_good_training_is_left_alone():
    plain, watched = model(), model()
    histories = [fit(plain, *data()), fit(watched, *data(), StopWhenNotFinite())]
    assert histories[0].history == histories[1].history


def test_names_of_weights():
    lm = model()
    assert names_not_finite(lm.variables) == []
    assert names_not_finite([]) == []
    kernel, bias = lm.variables
    bias.assign([np.inf])
    counter = keras.Variable(3, dtype="int32", trainable=False)
    assert names_not_finite([kernel, bias, counter]) == [bias.path]
