"""How a language model runs its backbone: on a whole text, or going on from a context."""

import functools
import inspect
import sys

import keras
from keras import ops

from fwl_keras.ops._types import Tensor
from fwl_keras.ops.reset_rows import reset_rows

_CALL_WITH_CACHE = ("self", "token_ids", "cache", "cache_update_index")


class Body:
    """A backbone of which nothing is known but that it is causal.

    Args:
        backbone: layer or model from int ids [B, T], or from a dict of `token_ids` and
            `padding_mask`, to features [B, T, D].

    Attributes:
        keeps_context: whether `initial_context` works, and `advance`, `restart`,
            `place` and `room` exist.
        rows_together: whether all rows of a context must have read equally many tokens.
    """

    keeps_context = False
    rows_together = False

    def __init__(self, backbone: keras.layers.Layer):
        self.backbone = backbone
        self.takes_dict = isinstance(getattr(backbone, "input", None), dict)

    def features(self, token_ids: Tensor, padding_mask: Tensor | None, training=None) -> Tensor:
        """Return features [B, T, D] of a text on its own.

        Args:
            token_ids: int tensor [B, T].
            padding_mask: bool tensor [B, T], or None where all tokens exist.
            training: as for Keras layers.
        """
        inputs = token_ids
        if self.takes_dict:
            if padding_mask is None:
                padding_mask = ops.ones_like(token_ids, "bool")
            inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        return self.backbone(inputs, training=training)

    def initial_context(self, batch_size: int, length: int | None) -> dict:
        """Return the context before the first token: a dict of tensors [B, ...].

        Args:
            batch_size: number of rows B.
            length: tokens that the context must be able to hold; None: as many as the backbone's
                own setting says, for those that have one.

        Raises:
            ValueError: if the backbone keeps none.
        """
        raise ValueError(
            f"The backbone {self.backbone.name!r} ({type(self.backbone).__name__}) keeps no "
            "context from call to call; use a KerasHub backbone or a RecurrentBackbone for that."
        )


class ContextBody(Body):
    """A backbone that takes and returns its context itself, as `RecurrentBackbone` does."""

    keeps_context = True

    def __init__(self, backbone: keras.layers.Layer):
        super().__init__(backbone)
        self.rows_together = getattr(backbone, "rows_together", False)

    def features(self, token_ids, padding_mask, training=None):
        inputs = token_ids
        if padding_mask is not None:
            inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        return self.backbone(inputs, training=training)

    def initial_context(self, batch_size, length):
        return self.backbone.initial_context(batch_size, length)

    def advance(
        self, token_ids: Tensor, padding_mask: Tensor, context: dict, training=False
    ) -> tuple:
        """Return features of a text that follows on a context.

        Args:
            token_ids: int tensor [B, T].
            padding_mask: bool tensor [B, T], True up to a row's length, False behind it.
            context: dict from `initial_context` or an earlier call.
            training: as for Keras layers.

        Returns:
            Features [B, T, D], and the context after each row's last token.
        """
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        return self.backbone(inputs, context=context, training=training)

    def restart(self, context: dict, rows: Tensor) -> dict:
        """Return the context with a new one in the rows where `rows` (bool tensor [B]) is true."""
        return reset_rows(context, rows)

    def place(self, context: dict, position: Tensor) -> dict:
        """Return the context with every row at a position, where it is written by position.

        Args:
            context: dict of tensors [B, ...].
            position: int tensor [B] or scalar, tokens read; what was written later is forgotten.
        """
        return context

    def room(self, context: dict) -> int | None:
        """Return tokens that the context can still take, or None for no limit."""
        return None


class KerasHubBody(Body):
    """A KerasHub backbone, run through `call_with_cache` of its CausalLM where it goes on.

    The cache is written at one place for all rows of the batch, so rows advance together.

    Args:
        backbone: a KerasHub backbone.
        task_class: what `cached_task_class` finds for it.
    """

    keeps_context = True
    rows_together = True

    def __init__(self, backbone: keras.layers.Layer, task_class: type):
        super().__init__(backbone)
        self._task_class = task_class

    @functools.cached_property
    def _task(self):
        return self._task_class(backbone=self.backbone, preprocessor=None)

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
        """Do as `ContextBody.advance`; all rows are taken to be where the first one is."""
        _, features, cache = self._task.call_with_cache(
            token_ids, context["cache"], context["position"][0]
        )
        lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=1)
        return features, {"cache": cache, "position": context["position"] + lengths}

    def restart(self, context, rows):
        """Do as `ContextBody.restart`: whatever is behind a cache's position is not attended to."""
        return {**context, "position": ops.where(rows, 0, context["position"])}

    def place(self, context, position):
        """Do as `ContextBody.place`."""
        position = ops.cast(position, "int32") + ops.zeros_like(context["position"])
        return {**context, "position": position}

    def room(self, context):
        """Do as `ContextBody.room`."""
        position = ops.convert_to_numpy(context["position"])
        return context["cache"].shape[3] - int(position.max())


def cached_task_class(backbone: keras.layers.Layer) -> type | None:
    """Return KerasHub's CausalLM with a key/value cache for a backbone, or None for none."""
    # Whoever has a KerasHub backbone has imported KerasHub.
    keras_hub = sys.modules.get("keras_hub")
    if keras_hub is None or not isinstance(backbone, keras_hub.models.Backbone):
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


def vocabulary_size_of(backbone: keras.layers.Layer) -> int | None:
    """Return number of ids that a backbone reads, where that can be told; None elsewhere.

    Known are KerasHub's `vocabulary_size`, and an embedding that is a backbone's first layer, or is
    called on its inputs.
    """
    size = getattr(backbone, "vocabulary_size", None)
    if isinstance(size, int):
        return size
    layers = getattr(backbone, "layers", None) or []
    inputs = [id(one) for one in keras.tree.flatten(getattr(backbone, "inputs", None) or [])]
    for i, layer in enumerate(layers):
        if isinstance(layer, keras.layers.Embedding):
            nodes = getattr(layer, "_inbound_nodes", [])
            reads = any(id(t) in inputs for node in nodes for t in node.arguments.keras_tensors)
            if reads or i == 0:
                return layer.input_dim
    return None


def context_length_of(backbone: keras.layers.Layer, preprocessor) -> int | None:
    """Return tokens that a model reads at once, from wherever that is known; None for nowhere.

    The backbone's own `max_sequence_length`; else, for backbones that do not go on from a context
    of constant size, the preprocessor's `sequence_length`.
    """
    length = getattr(backbone, "max_sequence_length", None)
    if length is None and not hasattr(backbone, "initial_context"):
        length = getattr(preprocessor, "sequence_length", None)
    return length


def find_body(backbone: keras.layers.Layer) -> Body:
    """Find the way to run a backbone that makes the most of what it can do."""
    if hasattr(backbone, "initial_context"):
        return ContextBody(backbone)
    task_class = cached_task_class(backbone)
    return Body(backbone) if task_class is None else KerasHubBody(backbone, task_class)
