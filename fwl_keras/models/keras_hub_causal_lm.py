"""A KerasHub language model with fast weights, which is a KerasHub task itself."""

import json
import os
from pathlib import Path

import keras
import keras_hub
from keras_hub.src.utils.preset_utils import check_file_exists, get_file, load_json

from fwl_keras.models.fwl_causal_lm import FWLCausalLM
from fwl_keras.models.raw_texts import holds_text, tokenized
from fwl_keras.runs.directory import new_directory

TASK, TASK_WEIGHTS = "task.json", "task.weights.h5"
BACKBONE, PREPROCESSOR = "config.json", "preprocessor.json"

# KerasHub looks for a class of this name before it takes backbone and tokeniser out of a preset to
# make a model of its own of them, which would silently lose the block; and tells it when it finds
# none.
_REGISTERED = "KerasHubFWLCausalLM (use `fwl_keras.models.from_preset`)"


class _NeverFunctional(type):
    """Keeps Keras' functional model, the child of `keras.Function`, out of a class's ancestors.

    Creating any functional task makes Keras put it among the ancestors of all tasks.
    """

    def mro(cls):
        function = keras.Function
        return [
            one for one in super().mro() if one is not function and function not in one.__bases__
        ]


class _PlainTask(keras_hub.models.Task, metaclass=_NeverFunctional):
    """A task that is no functional model."""

    def __init__(self, **kwargs):
        # Task's own would take Keras' functional model out of the ancestors of all tasks that
        # exist, which no longer work then.
        keras.Model.__init__(self, **kwargs)


@keras.saving.register_keras_serializable(package="fwl_keras")
class KerasHubFWLCausalLM(FWLCausalLM, _PlainTask):
    """FWLCausalLM around a KerasHub backbone: a `keras_hub.models.Task` with presets.

    Made by `fwl_keras.models.from_causal_lm` and `fwl_keras.models.from_preset`. What differs
    from FWLCausalLM is that `save_to_preset` and `from_preset` exist, and that `fit`, `evaluate`,
    `predict` and their `..._on_batch` take texts too, as lists, arrays or batched
    `tf.data.Dataset`s of strings, which the preprocessor turns into windows of its
    `sequence_length` tokens, start and end token included. Token ids are never preprocessed.

    Args:
        backbone: `keras_hub.models.Backbone`.
        block: FWLBlock; see FWLCausalLM, like all other arguments.
        preprocessor: `keras_hub.models.CausalLMPreprocessor`, TextPreprocessor, or None.
        pad_token_id: see FWLCausalLM. None: the preprocessor's, unless it also stands for a piece
            of text, as in GPT-2, where padding is known by the mask alone.
        context_length: see FWLCausalLM.
        **kwargs: keyword arguments of `keras.Model`.

    Raises:
        ValueError: if an argument does not fit.

    Example:
        >>> lm = from_causal_lm(keras_hub.models.CausalLM.from_preset("path/to/preset"))
        >>> lm.compile("adam")
        >>> lm.fit(["a text", "another one"])
        >>> lm.save_to_preset("path/to/preset_with_fast_weights")
    """

    def __init__(
        self,
        backbone,
        block,
        preprocessor=None,
        pad_token_id: int | None = None,
        context_length: int | None = None,
        **kwargs,
    ):
        if not isinstance(backbone, keras_hub.models.Backbone):
            raise ValueError(
                f"`backbone` must be a keras_hub.models.Backbone; received {backbone!r}. Use "
                "FWLCausalLM for any other layer or model."
            )
        super().__init__(
            backbone,
            block,
            preprocessor=preprocessor,
            pad_token_id=pad_token_id,
            context_length=context_length,
            **kwargs,
        )
        if pad_token_id is None and _pads_with_a_word(getattr(preprocessor, "tokenizer", None)):
            self.pad_token_id = None

    # Presets

    def save_to_preset(self, preset_dir: str | os.PathLike, max_shard_size: float | None = 10):
        """Write a KerasHub preset: backbone, preprocessor and block, whole or not at all.

        The backbone and the tokeniser can be loaded on their own by KerasHub. LoRA weights are
        merged into the kernels that they change: what is loaded computes the same without them.
        The embedding that is also the unembedding is stored once, with the backbone.

        Args:
            preset_dir: a directory that does not exist or is empty.
            max_shard_size: size in GB from which on the backbone's weights are split into
                several files; None for one file.

        Raises:
            ValueError: if there is something in the directory already.
        """
        path = Path(preset_dir)
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ValueError(
                f"`preset_dir`={str(path)!r} exists and is not an empty directory; give another "
                "one, or remove it."
            )
        with new_directory(path) as beside:
            self.backbone.save_to_preset(str(beside), max_shard_size=max_shard_size)
            if isinstance(self.preprocessor, keras_hub.models.Preprocessor):
                self.preprocessor.save_to_preset(str(beside))
            (beside / TASK).write_text(json.dumps(self._preset_config(), indent=4), "utf-8")
            self.save_task_weights(beside / TASK_WEIGHTS)

    @classmethod
    def from_preset(
        cls, preset: str | os.PathLike, load_weights: bool = True, dtype=None, **kwargs
    ) -> "KerasHubFWLCausalLM":
        """Load what `save_to_preset` wrote.

        Args:
            preset: its directory, or any other name that KerasHub has for one.
            load_weights: False for new random weights.
            dtype: dtype policy of all parts. None: as for all presets of KerasHub, Keras' default
                for weights that were saved in the dtype they were computed in, else the saved one.
            **kwargs: `name`, `pad_token_id`, `context_length` or `preprocessor`, to replace the
                saved one.

        Returns:
            KerasHubFWLCausalLM, not compiled.

        Raises:
            ValueError: if the preset has no fast weights, or an argument cannot be replaced.
        """
        preset = os.fspath(preset)
        if not is_preset_with_fast_weights(preset):
            raise ValueError(
                f"`preset`={preset!r} was saved without fast weights; "
                "`fwl_keras.models.from_preset` adds them."
            )
        unknown = sorted(set(kwargs) - {"name", "pad_token_id", "context_length", "preprocessor"})
        if unknown:
            raise ValueError(
                f"`{unknown[0]}` cannot be given for a preset with fast weights: its block is as "
                "it was saved. Leave it out."
            )
        config = load_json(preset, TASK)["config"]
        config["backbone"] = _load_backbone(preset, load_weights, dtype)
        if "preprocessor" not in kwargs and config["preprocessor"] is None:
            config["preprocessor"] = _load_preprocessor(preset)
        for part in (config, config["block"]["config"]):
            part["dtype"] = _resolve_dtype(part["dtype"], dtype)
        lm = cls.from_config({**config, **kwargs})
        if load_weights:
            lm.load_task_weights(get_file(preset, TASK_WEIGHTS))
        return lm

    def _preset_config(self):
        config = self.get_config()
        # They have files of their own.
        del config["backbone"]
        if isinstance(self.preprocessor, keras_hub.models.Preprocessor):
            config["preprocessor"] = None
        return {
            "module": type(self).__module__,
            "class_name": type(self).__name__,
            "config": config,
            "registered_name": _REGISTERED,
        }

    def save_task_weights(self, filepath: str | os.PathLike) -> None:
        """Write the weights that are not the backbone's: the block's, a tied embedding left out.

        Args:
            filepath: a path that ends in `.weights.h5`.
        """
        keras.saving.save_weights(self.block, filepath, objects_to_skip=self._shared_layers())

    def load_task_weights(self, filepath: str | os.PathLike) -> None:
        """Read what `save_task_weights` wrote.

        Args:
            filepath: its path.
        """
        keras.saving.load_weights(self.block, filepath, objects_to_skip=self._shared_layers())

    def _shared_layers(self):
        return list(self.backbone._flatten_layers())

    # Texts

    def preprocess_samples(self, x, y=None, sample_weight=None):
        """Token ids, labels and weights of texts; everything else as it is.

        Args:
            x: a batch of texts, or token ids in any form that `fit` takes.
            y: labels of token ids, or None.
            sample_weight: weights of token ids, or None.

        Returns:
            What `keras.utils.pack_x_y_sample_weight` gives.

        Raises:
            ValueError: if texts come with labels or weights, which their tokens have already, or
                there is no KerasHub preprocessor.
        """
        if not holds_text(x):
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        if not isinstance(self.preprocessor, keras_hub.models.Preprocessor):
            raise ValueError(
                "Texts can be trained on with a KerasHub preprocessor; the model has "
                f"{type(self.preprocessor).__name__}. Give token ids."
            )
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(
                    f"`{name}` cannot be given with texts: a text's labels are its own tokens. "
                    "Leave it out, or give token ids."
                )
        return self.preprocessor(x)

    # Task's own versions send everything through the preprocessor, token ids too, and take neither
    # generators nor `shuffle`: hence those of keras.Model, on token ids.

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        *,
        sample_weight=None,
        validation_data=None,
        **kwargs,
    ):
        """As `keras.Model.fit`; `x` and `validation_data` may also be texts."""
        self._begin_fit(kwargs.get("callbacks"))
        x, y, sample_weight = self._tokenized(x, y, sample_weight)
        if holds_text(validation_data):
            if isinstance(validation_data, tuple):
                validation_data = self._tokenized(*validation_data)
            else:
                validation_data, *targets = self._tokenized(validation_data)
                if targets[0] is not None:
                    validation_data = (validation_data, *targets)
        return keras.Model.fit(
            self,
            x,
            y,
            batch_size,
            sample_weight=sample_weight,
            validation_data=validation_data,
            **kwargs,
        )

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """As `keras.Model.evaluate`; `x` may also be texts."""
        x, y, sample_weight = self._tokenized(x, y, sample_weight)
        return keras.Model.evaluate(self, x, y, batch_size, sample_weight=sample_weight, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        """As `keras.Model.predict`: logits [N, T, V]; `x` may also be texts."""
        return keras.Model.predict(self, self._tokenized(x)[0], batch_size, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As `keras.Model.train_on_batch`; `x` may also be texts."""
        self._check_trainable()
        return keras.Model.train_on_batch(self, *self._tokenized(x, y, sample_weight), **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As `keras.Model.test_on_batch`; `x` may also be texts."""
        return keras.Model.test_on_batch(self, *self._tokenized(x, y, sample_weight), **kwargs)

    def predict_on_batch(self, x):
        """As `keras.Model.predict_on_batch`; `x` may also be texts."""
        return keras.Model.predict_on_batch(self, self._tokenized(x)[0])

    def _tokenized(self, x, y=None, sample_weight=None):
        return tokenized(self.preprocess_samples, x, y, sample_weight)


def is_preset_with_fast_weights(preset: str) -> bool:
    """Whether `KerasHubFWLCausalLM.save_to_preset` wrote a preset."""
    if not check_file_exists(preset, TASK):
        return False
    return load_json(preset, TASK).get("registered_name") == _REGISTERED


def _pads_with_a_word(tokenizer) -> bool:
    """Whether the pad token is an ordinary piece too (GPT-2's and Llama 3's is "!")."""
    # The id alone, without a special token of that name. Its own list of special ids cannot be
    # asked for while a file is loaded, when the vocabulary comes last.
    is_bytes = isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer)
    return is_bytes and getattr(tokenizer, "pad_token", None) is None


def _load_backbone(preset, load_weights, dtype):
    saved = load_json(preset, BACKBONE)["config"].get("dtype")
    return keras_hub.models.Backbone.from_preset(
        preset, load_weights=load_weights, dtype=_resolve_dtype(saved, dtype)
    )


def _load_preprocessor(preset):
    if not check_file_exists(preset, PREPROCESSOR):
        return None
    name = load_json(preset, PREPROCESSOR)["registered_name"]
    preprocessor_class = keras.saving.get_registered_object(name)
    if preprocessor_class is None:
        raise ValueError(
            f"The preset {preset!r} has a preprocessor of the class {name!r}, which is not "
            "registered with Keras; import the module that defines it."
        )
    return preprocessor_class.from_preset(preset)


def _resolve_dtype(saved, given):
    """The dtype policy to load with, by KerasHub's rules for presets."""
    if given is not None or saved is None:
        return given
    policy = keras.dtype_policies.get(saved)
    is_plain = policy.name == policy.compute_dtype == policy.variable_dtype
    return keras.config.dtype_policy() if is_plain else policy
