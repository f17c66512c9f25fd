"""A KerasHub language model with fast weights, which is a KerasHub task itself."""

import json
import os
from pathlib import Path

import keras
import keras_hub
import numpy as np
from keras import ops
from keras_hub.src.utils.preset_utils import check_file_exists, get_file, load_json

from fwl_keras.files import new_directory
from fwl_keras.layers.fwl_block import FWLBlock
from fwl_keras.models.fwl_causal_lm import FWLCausalLM
from fwl_keras.models.raw_texts import holds_text, tokenized
from fwl_keras.saving.check_preset import check_preset
from fwl_keras.saving.check_weights_file import check_weights_file

TASK, TASK_WEIGHTS = "task.json", "task.weights.h5"
BACKBONE, PREPROCESSOR = "config.json", "preprocessor.json"

# KerasHub looks for a class of this name before it takes backbone and tokeniser out of a preset to
# make a model of its own of them, which would silently lose the block; and tells it when it finds
# none.
REGISTERED = "KerasHubFWLCausalLM (use `fwl_keras.models.from_preset`)"


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
                save = self.preprocessor.save_to_preset  # pyright: ignore[reportAttributeAccessIssue]
                save(str(beside))
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
        check_preset(preset, REGISTERED)
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
            "registered_name": REGISTERED,
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

        Raises:
            ValueError: if it has other weights, or such as `check_weights_file` refuses.
        """
        check_weights_file(filepath)
        keras.saving.load_weights(self.block, filepath, objects_to_skip=self._shared_layers())

    def _shared_layers(self):
        return list(self.backbone._flatten_layers())

    # Texts

    def preprocess_samples(self, x, y=None, sample_weight=None):
        """Return token ids, labels and weights of texts; everything else as it is.

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
        return self.preprocessor(x)  # pyright: ignore[reportCallIssue]

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
        """Do as `keras.Model.fit`; `x` and `validation_data` may also be texts."""
        x, y, sample_weight = self._tokenized(x, y, sample_weight)
        if holds_text(validation_data):
            if isinstance(validation_data, tuple):
                validation_data = self._tokenized(*validation_data)
            else:
                validation_data, *targets = self._tokenized(validation_data)
                if targets[0] is not None:
                    validation_data = (validation_data, *targets)
        return FWLCausalLM.fit(
            self,
            x,
            y,
            batch_size,
            sample_weight=sample_weight,
            validation_data=validation_data,
            **kwargs,
        )

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """Do as `keras.Model.evaluate`; `x` may also be texts."""
        x, y, sample_weight = self._tokenized(x, y, sample_weight)
        return FWLCausalLM.evaluate(self, x, y, batch_size, sample_weight=sample_weight, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        """Do as `keras.Model.predict`: logits [N, T, V]; `x` may also be texts."""
        return keras.Model.predict(self, self._tokenized(x)[0], batch_size, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """Do as `keras.Model.train_on_batch`; `x` may also be texts."""
        return FWLCausalLM.train_on_batch(self, *self._tokenized(x, y, sample_weight), **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """Do as `keras.Model.test_on_batch`; `x` may also be texts."""
        return keras.Model.test_on_batch(self, *self._tokenized(x, y, sample_weight), **kwargs)

    def predict_on_batch(self, x):
        """Do as `keras.Model.predict_on_batch`; `x` may also be texts."""
        return keras.Model.predict_on_batch(self, self._tokenized(x)[0])

    def _tokenized(self, x, y=None, sample_weight=None):
        return tokenized(self.preprocess_samples, x, y, sample_weight)


def is_preset_with_fast_weights(preset: str) -> bool:
    """Return whether `KerasHubFWLCausalLM.save_to_preset` wrote a preset."""
    if not check_file_exists(preset, TASK):
        return False
    return load_json(preset, TASK).get("registered_name") == REGISTERED


def _load_backbone(preset, load_weights, dtype):
    saved = load_json(preset, BACKBONE)["config"].get("dtype")
    return keras_hub.models.Backbone.from_preset(
        preset, load_weights=load_weights, dtype=_resolve_dtype(saved, dtype)
    )


def _load_preprocessor(preset):
    if not check_file_exists(preset, PREPROCESSOR):
        return None
    name = load_json(preset, PREPROCESSOR).get("registered_name")
    preprocessor_class = keras.saving.get_registered_object(name)
    if preprocessor_class is None:
        raise ValueError(
            f"The preset {preset!r} has a preprocessor of the class {name!r}, which is not "
            "registered with Keras; import the module that defines it."
        )
    if not issubclass(preprocessor_class, keras_hub.models.Preprocessor):
        raise ValueError(
            f"The preset {preset!r} has a {PREPROCESSOR} of the class {name!r}, which is no "
            "keras_hub.models.Preprocessor."
        )
    return preprocessor_class.from_preset(preset)


def _resolve_dtype(saved, given):
    """Return the dtype policy to load with, by KerasHub's rules for presets."""
    if given is not None or saved is None:
        return given
    policy = keras.dtype_policies.get(saved)
    is_plain = policy.name == policy.compute_dtype == policy.variable_dtype
    return keras.config.dtype_policy() if is_plain else policy


def from_causal_lm(
    causal_lm: keras_hub.models.CausalLM,
    size: int | None = None,
    *,
    residual: bool = True,
    **block_args,
) -> KerasHubFWLCausalLM:
    """Put fast weights on a language model of KerasHub, trained or not.

    Backbone, preprocessor and the embedding that is also the unembedding are the model's own, and
    shared with it. With `residual=True` the slow pass begins exactly as the model.

    Args:
        causal_lm: a text-only `keras_hub.models.CausalLM`.
        size: the block's size, which with a given unembedding is the backbone's width; None: it.
        residual: see FWLBlock.
        **block_args: more arguments of FWLBlock.

    Returns:
        KerasHubFWLCausalLM, not compiled.

    Raises:
        ValueError: if the model takes more than text, or its logits are not its embedding's; or
            if `size` is not the backbone's width.

    Example:
        >>> gemma = keras_hub.models.GemmaCausalLM.from_preset("path/to/preset")
        >>> lm = from_causal_lm(gemma)
        >>> lm.backbone.trainable = False  # the block alone; or lm.backbone.enable_lora(4)
        >>> lm.compile("adam")
    """
    embedding = _unembedding_of(causal_lm)
    width = embedding.output_dim
    if size is not None and size != width:
        raise ValueError(
            f"`size` must be {width}, the width of {type(causal_lm).__name__}'s unembedding; "
            f"received {size!r}."
        )
    backbone = causal_lm.backbone
    block = FWLBlock(
        width,
        embedding.input_dim,
        unembedding=embedding,
        residual=residual,
        dtype=block_args.pop("dtype", backbone.dtype_policy),
        **block_args,
    )
    lm = KerasHubFWLCausalLM(
        backbone, block, preprocessor=causal_lm.preprocessor, dtype=backbone.dtype_policy
    )
    if block.codebook is not None:
        block.initialize_codebook()
    return lm


def from_preset(
    name_or_path: str | os.PathLike,
    size: int | None = None,
    *,
    load_weights: bool = True,
    dtype=None,
    **block_args,
) -> KerasHubFWLCausalLM:
    """Load a KerasHub preset with fast weights: those saved with it, or new ones.

    Args:
        name_or_path: directory that `KerasHubFWLCausalLM.save_to_preset` wrote, or whatever
            `keras_hub.models.CausalLM.from_preset` takes, to which `from_causal_lm` adds a block.
        size: as for `from_causal_lm`; None for a preset that has a block.
        load_weights: False for random weights of everything.
        dtype: dtype policy of everything; None: as KerasHub chooses it.
        **block_args: as for `from_causal_lm`; none for a preset that has a block.

    Returns:
        KerasHubFWLCausalLM, not compiled.

    Raises:
        ValueError: as `from_causal_lm`, or for arguments of a block that the preset has already,
            or a preset that names what `fwl_keras.saving.check_config` refuses.

    Example:
        >>> lm = from_preset("path/to/preset", segment_length=64)
        >>> lm.save_to_preset("path/to/preset_with_fast_weights")
        >>> lm = from_preset("path/to/preset_with_fast_weights")
    """
    preset = os.fspath(name_or_path)
    if is_preset_with_fast_weights(preset):
        given = ["size"] * (size is not None) + sorted(block_args)
        if given:
            raise ValueError(
                f"`{given[0]}` cannot be given for {preset!r}, which was saved with fast weights: "
                "its block is as it was saved. Leave it out."
            )
        return KerasHubFWLCausalLM.from_preset(preset, load_weights=load_weights, dtype=dtype)
    check_preset(preset, REGISTERED)
    kwargs = {} if dtype is None else {"dtype": dtype}
    causal_lm = keras_hub.models.CausalLM.from_preset(preset, load_weights=load_weights, **kwargs)
    return from_causal_lm(causal_lm, size, **block_args)


def _unembedding_of(causal_lm):
    """Return the embedding whose reverse gives the model's logits."""
    name = type(causal_lm).__name__
    if not isinstance(causal_lm, keras_hub.models.CausalLM):
        raise ValueError(f"`causal_lm` must be a keras_hub.models.CausalLM; received {name}.")
    backbone = causal_lm.backbone
    inputs = sorted(backbone.input) if isinstance(backbone.input, dict) else None
    embedding = getattr(backbone, "token_embedding", None)
    is_tied = hasattr(embedding, "tie_weights")
    if inputs != ["padding_mask", "token_ids"] or embedding is None or not is_tied:
        raise ValueError(
            f"`causal_lm` must read text alone and write with its own embedding; {name} takes "
            f"{inputs} and has the embedding {embedding!r}."
        )
    # The surest way to know what a class does with its features.
    ids = ops.convert_to_tensor([[0, 1]], "int32")
    text = {"token_ids": ids, "padding_mask": ops.ones_like(ids)}
    expected = ops.convert_to_numpy(ops.cast(causal_lm(text), "float32"))
    logits = embedding(backbone(text), reverse=True)
    logits = ops.convert_to_numpy(ops.cast(logits, "float32"))
    if expected.shape != logits.shape or not np.allclose(expected, logits, rtol=1e-2, atol=1e-2):
        raise ValueError(
            f"`causal_lm` must have `token_embedding(features, reverse=True)` for its logits; "
            f"those of {name} are something else."
        )
    return embedding
