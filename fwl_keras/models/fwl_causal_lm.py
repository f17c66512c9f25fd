"""A causal language model that adapts to the text it is reading."""

import keras
from keras import ops

from fwl_keras._arguments import require_count, require_int
from fwl_keras.backend.compiled import CompiledFunctions
from fwl_keras.inference.bodies import context_length_of, find_body, vocabulary_size_of
from fwl_keras.inference.padding import pad_token_id_of
from fwl_keras.inference.state import join_context, split_context
from fwl_keras.inference.writing import Writer
from fwl_keras.layers.fwl_block import DEFAULT_CHUNK_LENGTH, FWLBlock
from fwl_keras.models.label_weights import drop_label, label_weights
from fwl_keras.models.learner import Learner
from fwl_keras.ops import next_token_targets
from fwl_keras.ops.divergence import diverged_rows, looked_at
from fwl_keras.ops.targets import IGNORE
from fwl_keras.saving import check_config


@keras.saving.register_keras_serializable(package="fwl_keras")
class FWLCausalLM(Learner, Writer):
    """Any Keras backbone from token ids to features, with a fast weight block on top.

    Trains with `fit` on batches of token ids alone: labels are the ids shifted by one, and the
    loss is computed from the features in blocks of tokens, so that logits [B, T, V] never exist.
    Batches may also have KerasHub's form `(x, y, sample_weight)`; `sample_weight` weighs the
    training loss only, while the steps of the fast weights are weighted by the padding mask.

    `loss` is the mean negative log-likelihood in nats per token plus the layers' own losses,
    `perplexity` its exponential without them. `adaptation_gain` is what the fast weights gain, in
    nats per token, over the weights their segment began with (with a coarse inner loss: over that
    loss, which is one of fewer classes); `evaluate` also reports `total_gain`, over the trained
    weights. Both are diagnostics: an improvement over a model
    without fast weights is measured against one trained with `use_fast_weights=False`.

    Args:
        backbone: layer or model from int ids [B, T] to features [B, T, D], causal; or a KerasHub
            backbone, which takes a dict of `token_ids` and `padding_mask`.
        block: FWLBlock. With `unembedding=` an embedding layer of the backbone the two are tied.
        preprocessor: TextPreprocessor or KerasHub preprocessor, with which `read`, `score` and
            `generate` take texts; or None, for token ids only.
        pad_token_id: id that marks padding in batches of ids without a mask: such tokens are
            neither read, learned from nor counted, and no token is to predict them. None: the
            preprocessor's (see `pad_token_id_of`), else no id does.
        context_length: tokens that the backbone reads at once; `read`, `score` and `generate` go
            through longer texts in windows of so many. None: the backbone's
            `max_sequence_length`, else the preprocessor's `sequence_length`, else there is no
            limit, and a text of any length is one window.
        **kwargs: keyword arguments of `keras.Model`.

    Call arguments:
        inputs: int tensor [B, T], or dict of `token_ids` [B, T] and `padding_mask` [B, T].
        labels: int tensor [B, T]; None: the ids shifted by one.
        weights: float tensor [B, T] of the block's losses; None: from the padding mask.
        state: state of the block, or None; with entries `context_...` (see `Body.initial_context`,
            and `carry_state`) the backbone goes on, too. With a state the labels must be
            given: the last token's is not among the ids.
        return_state: whether to return the state too.
        output: `"logits"`, `"features"`, `"loss"` (see FWLBlock, with `weights` added), or
            `"evaluation"` (with `trained_loss` added, that of the trained weights), or
            `"watched"` (with `diverged` added, see the method of this name).

    Raises:
        ValueError: if an argument does not fit.

    Example:
        >>> backbone = keras.Sequential([keras.layers.Embedding(50, 16),
        ...                              keras.layers.GRU(16, return_sequences=True)])
        >>> lm = FWLCausalLM(backbone, FWLBlock(size=16, vocab_size=50))
        >>> lm.compile("adam")
        >>> lm.fit(np.random.randint(50, size=(8, 32)))
    """

    def __init__(
        self,
        backbone: keras.layers.Layer,
        block: FWLBlock,
        preprocessor=None,
        pad_token_id: int | None = None,
        context_length: int | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if not isinstance(block, FWLBlock):
            raise ValueError(f"`block` must be an FWLBlock; received {block!r}.")
        if not isinstance(backbone, keras.layers.Layer):
            raise ValueError(
                f"`backbone` must be a Keras layer or model from token ids to features; received "
                f"{backbone!r}."
            )
        self.backbone = backbone
        self.block = block
        self.preprocessor = preprocessor
        self.pad_token_id = pad_token_id
        if context_length is None:
            context_length = context_length_of(backbone, preprocessor)
        else:
            require_count("context_length", context_length)
        vocabulary_size = vocabulary_size_of(backbone)
        if vocabulary_size is not None and block.vocab_size < vocabulary_size:
            raise ValueError(
                f"`block` has `vocab_size`={block.vocab_size}, fewer ids than the "
                f"{vocabulary_size} that `backbone` reads: it could not predict the others. Use "
                f"FWLBlock(size, {vocabulary_size})."
            )
        self.context_length = context_length
        self.sampler = None
        self.body = find_body(backbone)
        self.functions = CompiledFunctions(self)
        self._make_trackers()
        self._build_parts()

    @property
    def pad_token_id(self) -> int | None:
        """Id that marks padding in batches of ids without a mask, or None for no id."""
        if self._pad_token_id is not None:
            return self._pad_token_id
        return pad_token_id_of(self.preprocessor)

    @pad_token_id.setter
    def pad_token_id(self, value: int | None):
        if value is not None:
            require_int("pad_token_id", value, 0, self.block.vocab_size)
        self._pad_token_id = None if value is None else int(value)

    def _build_parts(self):
        """Create all weights now, so that a model is complete as soon as it exists."""
        token_ids = keras.KerasTensor((None, None), "int32")
        padding_mask = keras.KerasTensor((None, None), "bool")
        features = self.body.features(token_ids, padding_mask)
        if len(features.shape) != 3 or features.shape[-1] is None:
            raise ValueError(
                "`backbone` must map token ids [batch, length] to features [batch, length, width]; "
                f"its output has shape {tuple(features.shape)}."
            )
        if not self.block.built:
            self.block.build(features.shape)
        self.built = True

    def build(self, *args, **kwargs):
        """Do nothing: the constructor built everything."""

    def _symbolic_build(self, iterator=None, data_batch=None):
        if keras.backend.backend() != "tensorflow":
            return super()._symbolic_build(iterator, data_batch)
        # With replicas Keras would try the model on the mean of their ids, which are no ids.
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return self._post_build()

    def call(
        self,
        inputs,
        labels=None,
        weights=None,
        state=None,
        return_state=False,
        output="logits",
        training=None,
    ):
        token_ids, padding_mask = self._split_inputs(inputs)
        state, context = (None, {}) if state is None else split_context(state)
        if context:
            if padding_mask is None:
                padding_mask = ops.ones_like(token_ids, "bool")
            advance = self.body.advance  # pyright: ignore[reportAttributeAccessIssue]
            x, context = advance(token_ids, padding_mask, context, training)
        else:
            x = self.body.features(token_ids, padding_mask, training)
        if padding_mask is None:
            padding_mask = getattr(x, "_keras_mask", None)
        if labels is None:
            if state is not None or return_state:
                raise ValueError(
                    "`labels` must be given with a state: the label of the last token is not "
                    "among `inputs`."
                )
            labels, derived = next_token_targets(token_ids, padding_mask)
        else:
            derived = label_weights(labels, padding_mask)
            if not _has_mask(inputs) and self.pad_token_id is not None:
                # The mask knows the inputs; that a row's last label is padding only the id tells.
                derived = drop_label(derived, labels, self.pad_token_id)
        weights = drop_label(derived if weights is None else weights, labels, IGNORE)

        evaluation, watched = output == "evaluation", output == "watched"
        result = self.block(
            x,
            labels,
            weights,
            state=state,
            x_mask=padding_mask,
            return_state=return_state,
            output="loss" if evaluation or watched else output,
        )
        result, state = result if return_state else (result, {})
        if output in ("loss", "evaluation", "watched"):
            result = {**result, "weights": weights}
        if evaluation:
            result["trained_loss"] = self.trained_loss(x, labels, padding_mask)
        if watched:
            counted = ops.not_equal(weights, 0)
            result["diverged"] = self.diverged(x, labels, counted, result["loss"])
        return (result, join_context(state, context)) if return_state else result

    def trained_loss(self, x, labels, padding_mask):
        """Return losses with the trained weights: one more, read-only pass of the block.

        Args:
            x: float tensor [B, T, D], features.
            labels: int tensor [B, T], ids in [0, V); any other makes its loss NaN.
            padding_mask: bool tensor [B, T], positions that exist, or None for all.

        Returns:
            float32 tensor [B, T] in nats; anything where a position does not exist.
        """
        features = self.block(x, x_mask=padding_mask, output="features")
        return self.block.unembedding.cross_entropy(features, labels)

    def diverged(self, x, labels, counted, losses):
        """Return rows whose fast weights predict worse than the trained ones; see `diverged_rows`.

        Args:
            x: float tensor [B, T, D], features.
            labels: int tensor [B, T].
            counted: bool tensor [B, T], where there is a loss.
            losses: float32 tensor [B, T] in nats, with the fast weights.

        Returns:
            bool tensor [B]; of every fourth token one more product with the vocabulary.
        """
        x, labels, counted, losses = (looked_at(a) for a in (x, labels, counted, losses))
        trained = self.trained_loss(x, labels, counted)
        length = self.block.segment_length or DEFAULT_CHUNK_LENGTH
        return diverged_rows(losses, trained, counted, length)

    def _split_inputs(self, inputs):
        """Return token ids [B, T], and the bool padding mask [B, T] or None."""
        if isinstance(inputs, dict) and "token_ids" not in inputs:
            raise ValueError(
                "`inputs` given as a dict must hold `token_ids` (and `padding_mask`); received "
                f"{sorted(inputs)}."
            )
        token_ids = inputs["token_ids"] if isinstance(inputs, dict) else inputs
        if _has_mask(inputs):
            return token_ids, ops.cast(inputs["padding_mask"], "bool")
        pad = self.pad_token_id
        return token_ids, None if pad is None else ops.not_equal(token_ids, pad)

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """Do as `keras.Model.save`; the state that training carries is not part of a model.

        Raises:
            ValueError: if the file is to be HDF5, from which such a model cannot be loaded.
        """
        if zipped is not False and str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"`filepath`={str(filepath)!r} would be a file that cannot be loaded: HDF5 holds "
                "layers in a row, and no language model with fast weights. Use a name that ends "
                "in .keras, or `save_weights` and one that ends in .weights.h5."
            )
        carried = self.carried_state
        self._set_carried_state(None)
        try:
            return super().save(filepath, overwrite, zipped, **kwargs)
        finally:
            self._set_carried_state(carried)

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        *,
        max_tokens: int = 4096,
        max_new_tokens: int = 512,
        dtype: str = "float32",
        **kwargs,
    ):
        """Write the model for TensorFlow Serving: signatures that take text, tokeniser included.

        See `export/README.md` for the signatures. Formats other than `"tf_saved_model"` are those
        of `keras.Model.export`: token ids to logits.

        Args:
            filepath: the version directory, its name a number, as `models/my_lm/1`.
            format: as for `keras.Model.export`.
            verbose: False for no progress bar and no closing sentence.
            input_signature: for other formats.
            max_tokens: tokens of a row's text in one request.
            max_new_tokens: tokens that a row may have written in one request.
            dtype: of the weights on disk, `"float32"` or `"bfloat16"`.
            **kwargs: for other formats.

        Raises:
            ValueError: if an argument does not fit, the directory exists, the model has no
                preprocessor with a SentencePiece tokeniser, or the backend is not TensorFlow.

        Example:
            >>> lm.export("models/my_lm/1")
        """
        if format != "tf_saved_model":
            return super().export(filepath, format, verbose, input_signature, **kwargs)
        given = ["input_signature"] * (input_signature is not None) + sorted(kwargs)
        if given:
            raise ValueError(
                f"`{given[0]}` cannot be given with `format`={format!r}: the signatures are those "
                "of fwl_keras.serving. Leave it out."
            )
        # TensorFlow alone can do this, and it need not be installed.
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"`format`={format!r} needs the TensorFlow backend; Keras uses "
                f"{keras.backend.backend()!r}. Save the model, and load and export it with "
                "KERAS_BACKEND=tensorflow."
            )
        from fwl_keras.serving.export import export_model, serve_command
        from fwl_keras.serving.options import ServingOptions

        options = ServingOptions(max_tokens, max_new_tokens, dtype)
        shown = verbose is not False
        path = export_model(self, filepath, options, progress=shown)
        if shown:
            print(f"{path} is written. Serve it with: {serve_command(path)}")

    def quantize(self, *args, **kwargs):
        """Refuse: the fast weights' steps need weights in floating point.

        Raises:
            ValueError: always, before anything is changed.
        """
        raise ValueError(
            "A model with fast weights cannot be quantized: its steps need weights in floating "
            'point. Quantize the backbone before the model is made, `backbone.quantize("int8")`, '
            'or export the model with `dtype="bfloat16"`.'
        )

    def get_compile_config(self) -> dict:
        config = super().get_compile_config()
        if not config:
            return config
        return {**config, "sampler": keras.saving.serialize_keras_object(self.sampler)}

    def compile_from_config(self, config) -> None:
        check_config(config)
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "block": keras.saving.serialize_keras_object(self.block),
            "preprocessor": (
                None
                if self.preprocessor is None
                else keras.saving.serialize_keras_object(self.preprocessor)
            ),
            "pad_token_id": self._pad_token_id,
            "context_length": self.context_length,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        check_config(config, custom_objects)
        config = dict(config)
        for name in ("backbone", "block", "preprocessor"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        block = config.get("block")
        if not isinstance(block, FWLBlock) or "backbone" not in config:
            raise ValueError(
                f"`config` must have a `backbone` and a `block`, an FWLBlock; it has {block!r} and "
                f"the entries {sorted(config)}."
            )
        if block.unembedding is None:
            block.set_unembedding(_find_layer(config["backbone"], block.tied_to))
        return cls(**config)


def _has_mask(inputs):
    return isinstance(inputs, dict) and inputs.get("padding_mask") is not None


def _find_layer(backbone, name):
    for layer in backbone._flatten_layers():
        if layer.name == name:
            return layer
    raise ValueError(
        f"The block is tied to an embedding called {name!r}, which is not a layer of the backbone "
        f"{backbone.name!r}."
    )
