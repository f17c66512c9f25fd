"""From features to logits: the softmax's matrix, created or borrowed."""

from typing import Any

import keras
from keras import ops

from fwl_keras._arguments import require_bool, require_count
from fwl_keras.ops._head import Head, cut_head
from fwl_keras.ops._types import Tensor
from fwl_keras.ops.cross_entropy import (
    cross_entropy_gradient_of_head,
    cross_entropy_of_head,
    fixed_gradient_of_head,
)
from fwl_keras.saving import check_config


@keras.saving.register_keras_serializable(package="fwl_keras")
class Unembedding(keras.layers.Layer):
    """Logits from features, `features @ kernel + bias`; not a fast layer.

    Args:
        vocab_size: positive int V.
        use_bias: whether to create a bias [V]. A given dense layer brings its own or none.
        layer: None to create the kernel; a `keras.layers.Dense`, or a
            `keras.layers.ReversibleEmbedding` whose (tied) matrix is used.
        kernel_initializer: initializer of a created kernel.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        features: float tensor [..., S].

    Returns:
        Tensor [..., V] in the compute dtype.

    Raises:
        ValueError: if the given layer is of another kind, has another vocabulary, or takes
            features of another width.

    Example:
        >>> Unembedding(100)(np.zeros((2, 3, 8), "float32")).shape
        (2, 3, 100)
    """

    def __init__(
        self,
        vocab_size: int,
        use_bias: bool = True,
        layer=None,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        require_count("vocab_size", vocab_size)
        require_bool("use_bias", use_bias)
        self.vocab_size = vocab_size
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.layer: Any = layer
        if layer is not None:
            self._check(layer)

    @property
    def tied(self) -> bool:
        """Whether the matrix is an embedding's, which belongs to another part of the model."""
        return _is_embedding(self.layer)

    def _check(self, layer):
        _require_floats(layer)
        if _is_embedding(layer):
            size = layer.input_dim
        elif isinstance(layer, keras.layers.Dense):
            size = layer.units
            if layer.activation is not keras.activations.linear:
                raise ValueError("`unembedding` must be a Dense layer without an activation.")
        else:
            raise ValueError(
                "`unembedding` must be a keras.layers.Dense or keras.layers.ReversibleEmbedding; "
                f"received {layer!r}."
            )
        if size != self.vocab_size:
            raise ValueError(
                f"`unembedding` has {size} outputs but `vocab_size` is {self.vocab_size}; they "
                "must be equal."
            )

    def build(self, features_shape):
        size = features_shape[-1]
        self._bias = self._kernel = None
        if self.layer is None:
            self._kernel = self.add_weight(
                name="kernel",
                shape=(size, self.vocab_size),
                initializer=self.kernel_initializer,
                autocast=False,
            )
        elif not self.layer.built:
            self.layer.build((None, None) if self.tied else (None, size))
        if self.use_bias and not isinstance(self.layer, keras.layers.Dense):
            self._bias = self.add_weight(
                name="bias", shape=(self.vocab_size,), initializer="zeros", autocast=False
            )
        width = self.kernel.shape[0]
        if width != size:
            raise ValueError(
                f"`unembedding` takes features of width {width}, but `size` is {size}; with a "
                f"given unembedding use size={width}."
            )

    @property
    def kernel(self):
        """Matrix [S, V]: a variable, or a transposed embedding."""
        _require_floats(self.layer)
        if self._kernel is not None:
            return self._kernel
        if not self.tied:
            return self.layer.kernel
        if self.layer.tie_weights:
            return ops.transpose(self.layer.embeddings)
        return self.layer.reverse_embeddings

    @property
    def bias(self):
        """Bias [V], or None."""
        if isinstance(self.layer, keras.layers.Dense):
            return self.layer.bias if self.layer.use_bias else None
        return self._bias

    @property
    def soft_cap(self) -> float | None:
        """The logits' limit, a given embedding's `logit_soft_cap`, or None."""
        return getattr(self.layer, "logit_soft_cap", None)

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Return kernel [S, V] and bias [V] (or None) as plain tensors, for custom gradients."""
        bias = self.bias
        return ops.copy(self.kernel), None if bias is None else ops.copy(bias)

    def head(self, features: Tensor) -> Head:
        """Return kernel and bias, cut as so many tokens [...] of features [..., width] need it."""
        return cut_head(*self.tensors(), features)

    def cross_entropy(self, features, labels, head=None):
        """Return losses float32 [...] in nats of labels [...], without ever holding all logits.

        Args:
            features: tensor [..., S] in the compute dtype.
            labels: int tensor [...], ids in [0, V); any other makes its loss NaN.
            head: kernel and bias as `head` or `gradient` returns them, or None for the former.
        """
        settings = {"soft_cap": self.soft_cap, "train_kernel": self._trains()}
        return cross_entropy_of_head(features, head or self.head(features), labels, **settings)[0]

    def cross_entropy_and_gradient(self, features, labels, exact_every=None, head=None):
        """Return losses as `cross_entropy`, and the gradients of some as constants.

        Args:
            features: tensor [B, P, S] in the compute dtype.
            labels: int tensor [B, P], ids in [0, V); any other makes its loss NaN.
            exact_every: of every so manieth token of a row there is a gradient, which must divide
                P; None for no gradients.
            head: kernel and bias as `head` or `gradient` returns them, or None for the former.

        Returns:
            Float32 tensors [B, P] and [B, P / exact_every, S] or None, and the head for what reads
            next, as from `gradient`.
        """
        settings = {"soft_cap": self.soft_cap, "train_kernel": self._trains()}
        settings |= {"passing": head is not None, "exact_every": exact_every}
        arguments = features, head or self.head(features), labels
        loss, gradient, passed = cross_entropy_of_head(*arguments, **settings)
        if gradient is not None:
            shape = ops.shape(features)[0], ops.shape(features)[1] // exact_every
            gradient = ops.reshape(gradient, (*shape, features.shape[-1]))
        return loss, gradient, None if head is None else passed

    def gradient(self, features, labels, weights, head=None):
        """Return the gradient of the weighted losses with respect to `features`, and the losses.

        Args:
            features: tensor [..., S] in the compute dtype.
            labels: int tensor [...], ids in [0, V); any other makes its loss NaN.
            weights: float32 tensor [...]; where it is 0 the gradient is 0.
            head: kernel and bias as `head` or this method returns them, or None for the former.

        Returns:
            Float32 tensors [..., S] and [...], the latter in nats and unweighted; and the head for
            what reads next, or None where none was given. Calls that follow each other so share
            one sum of the kernel's gradients.
        """
        settings = {"soft_cap": self.soft_cap, "train_kernel": self._trains()}
        arguments = features, head or self.head(features), labels, weights
        gradient, loss, passed = cross_entropy_gradient_of_head(
            *arguments, **settings, passing=head is not None
        )
        return gradient, loss, None if head is None else passed

    def fixed_gradient(self, features, labels, head=None):
        """Return the gradient that `gradient` does for weights of 1, as a constant.

        Args:
            features: tensor [..., S] in the compute dtype.
            labels: int tensor [...], ids in [0, V).
            head: kernel and bias as `head` returns them, or None for those.
        """
        head = head or self.head(features)
        return fixed_gradient_of_head(features, head, labels, self.soft_cap)

    def columns(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look labels up in kernel and bias.

        Args:
            labels: int tensor [...].

        Returns:
            Float32 tensors [..., S] and [...], and a bool tensor [...]: whether the label is an id
            in [0, V); others are looked up as id 0.
        """
        known = ops.logical_and(labels >= 0, labels < self.vocab_size)
        labels = ops.where(known, labels, 0)
        # Rows of an embedding as they are: turned over it would be copied, and so its gradient.
        if self.tied and self.layer.tie_weights:
            columns = ops.take(self.layer.embeddings, labels, axis=0)
        else:
            rows = ops.take(self.kernel, ops.reshape(labels, (-1,)), axis=1)
            columns = ops.reshape(ops.transpose(rows), (*ops.shape(labels), rows.shape[0]))
        bias = (
            ops.zeros_like(labels, "float32") if self.bias is None else ops.take(self.bias, labels)
        )
        return ops.cast(columns, "float32"), ops.cast(bias, "float32"), known

    def _trains(self):
        """Return whether kernel or bias are trained: gradients of what is frozen cost as much."""
        variables = [*self.trainable_variables, *getattr(self.layer, "trainable_variables", ())]
        return bool(variables)

    def call(self, features):
        kernel, bias = (
            None if t is None else ops.cast(t, self.compute_dtype) for t in self.tensors()
        )
        logits = ops.matmul(ops.cast(features, self.compute_dtype), kernel)
        logits = logits if bias is None else logits + bias
        if self.soft_cap is None:
            return logits
        return self.soft_cap * ops.tanh(logits / self.soft_cap)

    def compute_output_shape(self, features_shape):
        return (*features_shape[:-1], self.vocab_size)

    def get_config(self) -> dict:
        if self.tied:
            raise ValueError(
                "An Unembedding tied to an embedding layer has no configuration of its own: the "
                "model that owns the embedding stores it (see FWLCausalLM)."
            )
        config = super().get_config()
        config.update(
            vocab_size=self.vocab_size,
            use_bias=self.use_bias,
            layer=keras.saving.serialize_keras_object(self.layer) if self.layer else None,
            kernel_initializer=keras.initializers.serialize(self.kernel_initializer),
        )
        return config

    @classmethod
    def from_config(cls, config):
        check_config(config)
        config = dict(config)
        config["layer"] = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**config)


def _require_floats(layer):
    """Raise a ValueError on a quantized matrix: it would be taken without its scale."""
    mode = getattr(layer, "quantization_mode", None)
    if mode is not None:
        raise ValueError(
            f"`unembedding` is quantized ({mode!r}); give one in floating point, and quantize the "
            "layers that it is not tied to."
        )


def _is_embedding(layer):
    # KerasHub's ReversibleEmbedding is Keras' from 0.24 on; its own before had the same attributes.
    return isinstance(layer, keras.layers.Embedding) and hasattr(layer, "tie_weights")
