"""KerasHub's language models: their bodies, with the key/value cache of their generation."""

import functools
import inspect

import keras
import keras_hub
from keras import ops

from fwl_keras.models.body import Body

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

    def advance(self, token_ids, padding_mask, context):
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
