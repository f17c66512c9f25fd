"""KerasHub's language models: fast weights on top of them, and the cache of their generation."""

import functools
import inspect
import os

import keras
import keras_hub
import numpy as np
from keras import ops

from fwl_keras.layers.fwl_block import FWLBlock
from fwl_keras.models.body import Body
from fwl_keras.models.keras_hub_causal_lm import (
    REGISTERED,
    KerasHubFWLCausalLM,
    is_preset_with_fast_weights,
)
from fwl_keras.saving.check_preset import check_preset

_CALL_WITH_CACHE = ("self", "token_ids", "cache", "cache_update_index")


class KerasHubBody(Body):
    """A KerasHub backbone, run through `call_with_cache` of its CausalLM where it goes on.

    The cache is written at one place for all rows of the batch, so rows advance together.

    Args:
        backbone: a KerasHub backbone for which `cached_task_class` finds a class.
    """

    keeps_context = True
    rows_together = True

    @functools.cached_property
    def _task(self):
        return cached_task_class(self.backbone)(backbone=self.backbone, preprocessor=None)

    @functools.cached_property
    def _cache_spec(self):
        """Shape [1, layers, 2, 2, ...] and dtype of a cache: only the task knows, by making one."""
        _, cache = self._task._build_cache(ops.zeros((1, 2), "int32"))
        return tuple(cache.shape), keras.backend.standardize_dtype(cache.dtype)

    def initial_context(self, batch_size, length):
        (_, layers, pair, _, *rest), dtype = self._cache_spec
        return {
            "cache": ops.zeros((batch_size, layers, pair, length, *rest), dtype),
            "position": ops.zeros((batch_size,), "int32"),
        }

    def advance(self, token_ids, padding_mask, context, training=False):
        """As `ContextBody.advance`; all rows are taken to be where the first one is."""
        _, features, cache = self._task.call_with_cache(
            token_ids, context["cache"], context["position"][0]
        )
        lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=1)
        return features, {"cache": cache, "position": context["position"] + lengths}

    def restart(self, context, rows):
        """As `ContextBody.restart`: whatever is behind a cache's position is not attended to."""
        return {**context, "position": ops.where(rows, 0, context["position"])}

    def place(self, context, position):
        """As `ContextBody.place`."""
        position = ops.cast(position, "int32") + ops.zeros_like(context["position"])
        return {**context, "position": position}

    def room(self, context):
        """As `ContextBody.room`."""
        position = ops.convert_to_numpy(context["position"])
        return context["cache"].shape[3] - int(position.max())


def cached_task_class(backbone: keras.layers.Layer) -> type | None:
    """KerasHub's CausalLM with a key/value cache for a backbone, or None if there is none."""
    if not isinstance(backbone, keras_hub.models.Backbone):
        return None
    classes = [
        one
        for one in vars(keras_hub.models).values()
        if isinstance(one, type)
        and issubclass(one, keras_hub.models.CausalLM)
        and tuple(inspect.signature(getattr(one, "call_with_cache", repr)).parameters)
        == _CALL_WITH_CACHE
    ]
    for ancestor in type(backbone).__mro__:
        for one in classes:
            if one.backbone_cls is ancestor:
                return one
    return None


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
    return KerasHubFWLCausalLM(
        backbone, block, preprocessor=causal_lm.preprocessor, dtype=backbone.dtype_policy
    )


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
    """The embedding whose reverse gives the model's logits."""
    name = type(causal_lm).__name__
    if not isinstance(causal_lm, keras_hub.models.CausalLM):
        raise ValueError(f"`causal_lm` must be a keras_hub.models.CausalLM; received {name}.")
    backbone = causal_lm.backbone
    inputs = sorted(backbone.input) if isinstance(backbone.input, dict) else None
    embedding = getattr(backbone, "token_embedding", None)
    if inputs != ["padding_mask", "token_ids"] or not hasattr(embedding, "tie_weights"):
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
