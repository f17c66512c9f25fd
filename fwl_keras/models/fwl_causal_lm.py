"""A causal language model that adapts to the text it is reading."""

import keras
import numpy as np
from keras import ops

from fwl_keras._arguments import require_bools, require_count, require_int
from fwl_keras.backend.compiled import CompiledFunctions
from fwl_keras.backend.dispatch import module_of_backend
from fwl_keras.inference.bodies import context_length_of, find_body, vocabulary_size_of
from fwl_keras.inference.divergence import warn_of_lost_tokens
from fwl_keras.inference.padding import pad_token_id_of
from fwl_keras.inference.samplers import CustomSampling
from fwl_keras.inference.state import join_context, split_context
from fwl_keras.inference.writing import Writer
from fwl_keras.layers.fwl_block import DEFAULT_CHUNK_LENGTH, FWLBlock
from fwl_keras.models.carried_state import CarriedState
from fwl_keras.models.directions import set_directions
from fwl_keras.models.perplexity import Perplexity
from fwl_keras.ops import next_token_targets
from fwl_keras.ops.divergence import diverged_rows, looked_at
from fwl_keras.ops.targets import IGNORE
from fwl_keras.saving import check_config


@keras.saving.register_keras_serializable(package="fwl_keras")
class FWLCausalLM(Writer, keras.Model):
    """Any Keras body that maps token ids to features, with a fast weight block on top.

    Trains with `fit` on batches of token ids alone: labels are the ids shifted by one, and the
    loss is computed from the features in blocks of tokens, so that logits [B, T, V] never exist.
    Batches may also have KerasHub's form `(x, y, sample_weight)`; `sample_weight` weighs the
    training loss only, while the steps of the fast weights are weighted by the padding mask.

    `loss` is the mean negative log-likelihood in nats per token plus the layers' own losses,
    `perplexity` its exponential without them. `adaptation_gain` is what the fast weights gain, in
    nats per token, over the weights their segment began with; `evaluate` also reports
    `total_gain`, over the trained weights. Both are diagnostics: an improvement over a model
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
        state: state of the block, or None; with entries `context_...` (see `initial_context` of
            the body, and `carry_state`) the backbone goes on, too. With a state the labels must be
            given: the last token's is not among the ids.
        return_state: whether to return the state too.
        output: `"logits"`, `"features"`, `"loss"` (see FWLBlock, with `weights` added), or
            `"evaluation"` (with `trained_loss` added, that of the trained weights), or
            `"watched"` (with `diverged` added, see the method of this name).

    Raises:
        ValueError: if an argument does not fit.

    Example:
        >>> body = keras.Sequential([keras.layers.Embedding(50, 16),
        ...                          keras.layers.GRU(16, return_sequences=True)])
        >>> lm = FWLCausalLM(body, FWLBlock(size=16, vocab_size=50))
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
        self._trainable_at_compile = frozenset()
        self.carried_state = None
        self.perplexity_tracker = Perplexity()
        self.adaptation_gain_tracker = keras.metrics.Mean(name="adaptation_gain")
        self.total_gain_tracker = keras.metrics.Mean(name="total_gain")
        self.non_finite_tracker = keras.metrics.Sum(name="non_finite_tokens")
        for tracker in (self.adaptation_gain_tracker, self.total_gain_tracker):
            tracker._direction = "up"
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
        """Nothing is left to build: the constructor did."""

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
        state, context = split_context(state)
        if context:
            if padding_mask is None:
                padding_mask = ops.ones_like(token_ids, "bool")
            x, context = self.body.advance(token_ids, padding_mask, context, training)
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
            derived = _label_weights(labels, padding_mask)
            if not _has_mask(inputs) and self.pad_token_id is not None:
                # The mask knows the inputs; that a row's last label is padding only the id tells.
                derived = _drop(derived, labels, self.pad_token_id)
        weights = _drop(derived if weights is None else weights, labels, IGNORE)

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
        result, state = result if return_state else (result, None)
        if output in ("loss", "evaluation", "watched"):
            result = {**result, "weights": weights}
        if evaluation:
            result["trained_loss"] = self.trained_loss(x, labels, padding_mask)
        if watched:
            counted = ops.not_equal(weights, 0)
            result["diverged"] = self.diverged(x, labels, counted, result["loss"])
        return (result, join_context(state, context)) if return_state else result

    def trained_loss(self, x, labels, padding_mask):
        """Losses with the trained weights: one more, read-only pass of the block.

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
        """Rows whose fast weights predict worse than the trained ones; see `diverged_rows`.

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
        """Token ids [B, T], and the bool padding mask [B, T] or None."""
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

    def compute_loss_and_counts(self, inputs, labels=None, sample_weight=None, training=True):
        """The training loss, and what the trackers add up; the same on every backend.

        Args:
            inputs: as for `call`; or with `starts`, bool tensor [B], to go on from the state that
                the last batch ended with (see `carry_state`).
            labels: int tensor [B, T], or None to shift the ids.
            sample_weight: tensor [B, T] or [B], or None for the block's weights. A position that
                has no label has no weight either, whatever is given.
            training: True for a step of `fit`, False for one of `evaluate`.

        Returns:
            The loss, a float32 scalar: sum(w * nll) / sum(w) + sum(self.losses); and a dict of
            float32 scalars: `tokens` = sum(w), and means in nats per token, `nll`,
            `adaptation_gain` and, with `training=False`, `total_gain`, and `non_finite`, the
            number of tokens whose loss is not finite. Such a loss counts as infinite there.

        Raises:
            ValueError: if `sample_weight` has another shape.
        """
        carried = self._carried_arguments(inputs, training)
        losses = self(
            inputs,
            labels=labels,
            training=training,
            output="loss" if training else "evaluation",
            **carried,
        )
        if carried:
            losses, state = losses
            self.carried_state.assign(state)
        w = losses["weights"]
        if sample_weight is not None:
            w = _weighted(w, sample_weight)
        tokens = ops.sum(w)
        counted = ops.not_equal(w, 0)

        def mean(loss):
            # A weight of 0 drops a loss that is not finite, which a product would not.
            total = ops.sum(ops.where(counted, w * loss, 0.0))
            return ops.divide_no_nan(total, tokens)

        loss = losses["loss"]
        if not training:
            is_finite = ops.isfinite(loss)
            loss = ops.where(is_finite, loss, np.inf)
        nll = mean(loss)
        counts = {
            "tokens": tokens,
            "nll": nll,
            "adaptation_gain": mean(losses["slow_loss"]) - nll,
        }
        if not training:
            counts["total_gain"] = mean(losses["trained_loss"]) - nll
            lost = ops.logical_and(counted, ops.logical_not(is_finite))
            counts["non_finite"] = ops.sum(ops.cast(lost, "float32"))
        return nll + sum(ops.cast(loss, "float32") for loss in self.losses), counts

    def carry_state(
        self, batch_size: int | None, *, carry_context: bool = False, groups: int = 1
    ) -> None:
        """Let `fit` read texts longer than a batch is wide: truncated backpropagation through time.

        From then on batches may hold `starts` beside `token_ids` and `padding_mask`, a bool tensor
        [B] that marks the rows in which a text begins (see fwl_keras.data.DocumentBatches). All
        other rows go on with the state that their row of the batch before (of the same group)
        ended with; gradients end there. In such a batch `padding_mask` marks the positions that
        have a label. Batches without `starts`, as validation data, neither use nor change what is
        carried; `evaluate` refuses batches with it.

        The state is part of `save_weights`, so that an interrupted training goes on exactly, and
        not of `save`.

        Args:
            batch_size: rows of every batch (of a replica); None to carry no longer.
            carry_context: whether the backbone goes on from batch to batch too, with its memory or
                recurrent state, for backbones whose rows do so one by one (`RecurrentBackbone`,
                `TransformerXLBackbone`).
            groups: number of groups of rows that take turns: batch i goes on where batch
                i - groups ended. As many states are kept. Give `DocumentBatches` the same.

        Raises:
            ValueError: if a number is not a positive int, or the backbone keeps no such context.

        Example:
            >>> lm.carry_state(8, groups=4)
            >>> marks = {"eos_id": 1, "pad_id": 0}
            >>> batches = DocumentBatches(ids, 256, 8, steps=100, seed=0, groups=4, **marks)
            >>> lm.fit(batches.for_fit())
        """
        if batch_size is not None:
            require_count("batch_size", batch_size)
            require_count("groups", groups)
            state = self.document_state(batch_size, carry_context)
            carried = CarriedState(state, groups, name="carried_state")
        self._set_carried_state(None if batch_size is None else carried)
        # A step that is compiled already holds the old variables.
        self.train_function = None

    def document_state(self, batch_size: int, carry_context: bool) -> dict:
        """What rows begin with that read whole documents in windows.

        Args:
            batch_size: number of rows B.
            carry_context: whether the backbone's context goes on too.

        Returns:
            The block's fresh state, and `context_...`.

        Raises:
            ValueError: if the backbone keeps no context, or only one for all rows together.
        """
        if not ops.is_tensor(batch_size):
            require_count("batch_size", batch_size)
        require_bools(carry_context=carry_context)
        context = {}
        if carry_context:
            if self.body.rows_together:
                raise ValueError(
                    "`carry_context=True` needs a backbone whose rows go on one by one, as those "
                    "of RecurrentBackbone and TransformerXLBackbone; the cache of "
                    f"{type(self.backbone).__name__} is one for all rows."
                )
            context = self.body.initial_context(batch_size, None)
        return join_context(self.block.initial_state(batch_size), context)

    def _set_carried_state(self, layer):
        locked = self._tracker.locked
        self._tracker.unlock()
        if self.carried_state is not None:
            self._tracker.untrack(self.carried_state)
        self.carried_state = layer
        if locked:
            self._tracker.lock()

    def _carried_arguments(self, inputs, training):
        """Arguments of `call` that make a batch with `starts` go on where the last one ended."""
        if not isinstance(inputs, dict) or "starts" not in inputs:
            return {}
        if not training:
            raise ValueError(
                "`starts` is for training: `evaluate` would overwrite the state that `fit` "
                "carries. Use fwl_keras.evaluation.document_losses."
            )
        if self.carried_state is None:
            raise ValueError(
                "`starts` needs a state to go on from: call `carry_state(batch_size)` before `fit`."
            )
        mask = inputs.get("padding_mask")
        return {
            "state": self.carried_state(inputs["starts"]),
            "return_state": True,
            # The label of a window's last position is not among its inputs.
            "weights": None if mask is None else ops.cast(mask, "float32"),
        }

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """As `keras.Model.save`; the state that training carries is not part of a model.

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

    def update_trackers(self, loss, counts) -> dict:
        """Add one batch to the trackers, each weighted by its tokens; return their results."""
        tokens = counts["tokens"]
        trackers = [
            (self._loss_tracker, loss),
            (self.perplexity_tracker, counts["nll"]),
            (self.adaptation_gain_tracker, counts["adaptation_gain"]),
        ]
        if "total_gain" in counts:
            trackers.append((self.total_gain_tracker, counts["total_gain"]))
            # Not among the results: `evaluate` tells of it in words.
            self.non_finite_tracker.update_state(counts["non_finite"])
        for tracker, value in trackers:
            tracker.update_state(value, sample_weight=tokens)
        return {tracker.name: tracker.result() for tracker, _ in trackers}

    # Keras leaves out weights that come without labels. The labels are the ids, shifted.

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        **kwargs,
    ):
        """As `keras.Model.fit`.

        `sample_weight` needs no `y`, and callbacks that watch the model's own metrics no `mode`.

        Raises:
            ValueError: for `class_weight`; if weights do not fit; if there is nothing to train, or
                other weights are trainable than when the model was compiled.
        """
        self._begin_fit(callbacks)
        _refuse_class_weight(class_weight)
        x, y, sample_weight = self._with_labels(x, y, sample_weight)
        if isinstance(validation_data, tuple) and len(validation_data) == 3:
            validation_data = self._with_labels(*validation_data)
        return keras.Model.fit(
            self,
            x,
            y,
            batch_size,
            epochs,
            verbose,
            callbacks,
            validation_split,
            validation_data,
            shuffle,
            sample_weight=sample_weight,
            **kwargs,
        )

    def evaluate(
        self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **kwargs
    ):
        """As `keras.Model.evaluate`; `sample_weight` needs no `y`.

        Warns:
            RuntimeWarning: with the number of tokens whose loss is not finite. They count as
                infinitely improbable, so that the perplexity is infinite.

        Raises:
            ValueError: if weights do not fit.
        """
        x, y, sample_weight = self._with_labels(x, y, sample_weight)
        result = keras.Model.evaluate(self, x, y, batch_size, verbose, sample_weight, **kwargs)
        lost = int(ops.convert_to_numpy(self.non_finite_tracker.total))
        if lost:
            warn_of_lost_tokens(lost)
        return result

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, **kwargs):
        """As `keras.Model.train_on_batch`; errors as for `fit`."""
        self._check_trainable()
        _refuse_class_weight(class_weight)
        return keras.Model.train_on_batch(self, x, y, sample_weight, **kwargs)

    def _with_labels(self, x, y, sample_weight):
        """The labels themselves, where there are weights without them."""
        # Keras itself refuses weights beside datasets and generators.
        is_array = isinstance(x, dict) or hasattr(x, "shape")
        if y is not None or sample_weight is None or not is_array:
            return x, y, sample_weight
        token_ids, padding_mask = self._split_inputs(x)
        labels, weights = next_token_targets(token_ids, padding_mask)
        labels = ops.where(ops.equal(weights, 0), IGNORE, labels)
        weights = _weighted(weights, sample_weight)
        if not ops.convert_to_numpy(ops.all(ops.isfinite(weights))):
            raise ValueError(
                "`sample_weight` must be finite; received NaN or infinity. Use 0 for tokens that "
                "are not to count."
            )
        return x, ops.convert_to_numpy(labels), ops.convert_to_numpy(weights)

    def _begin_fit(self, callbacks):
        """What comes before any other part of `fit`."""
        self._check_trainable()
        trackers = (self.perplexity_tracker, self.adaptation_gain_tracker, self.total_gain_tracker)
        set_directions(callbacks, trackers)

    def _check_trainable(self):
        """Raise a ValueError where training would do nothing, or change what is frozen."""
        if not self.compiled:
            return  # Keras says so.
        variables = self.trainable_variables
        if not variables:
            raise ValueError(
                "There is nothing to train: no weight is trainable. Set `lm.trainable = True`, or "
                "that of some layers, and compile again."
            )
        # The optimizer and the compiled step go on with the variables that they were made for.
        compiled = self._trainable_at_compile
        if set(map(id, variables)) != compiled:
            raise ValueError(
                f"{len(variables)} weights are trainable, and not the {len(compiled)} that were "
                "when the model was compiled: `trainable` has been changed, or LoRA enabled. Call "
                "`lm.compile(...)` again, with a new optimizer."
            )

    def quantize(self, *args, **kwargs):
        """Refused: the fast weights' steps need weights in floating point.

        Raises:
            ValueError: always, before anything is changed.
        """
        raise ValueError(
            "A model with fast weights cannot be quantized: its steps need weights in floating "
            'point. Quantize the backbone before the model is made, `backbone.quantize("int8")`, '
            'or export the model with `dtype="bfloat16"`.'
        )

    def train_step(self, *args, **kwargs):
        return module_of_backend("steps").train_step(self, *args, **kwargs)

    def test_step(self, *args, **kwargs):
        return module_of_backend("steps").test_step(self, *args, **kwargs)

    def compile(self, optimizer="adam", *, sampler="top_k", **kwargs) -> None:
        """Prepare the model for `fit`; the loss is its own.

        Args:
            optimizer: a Keras optimizer or its name.
            sampler: a KerasHub sampler or its name, kept for generation.
            **kwargs: other keyword arguments of `keras.Model.compile`.

        Raises:
            ValueError: for `loss`, `loss_weights`, `metrics` or `weighted_metrics`, which would
                be ignored.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"`{name}`={kwargs[name]!r} would be ignored: the model computes its loss and "
                    "metrics itself, without ever holding the logits. Leave it out."
                )
        super().compile(optimizer=optimizer, **kwargs)
        self.sampler = sampler
        # What a sampler of the user's own does is compiled in.
        self.functions.forget(CustomSampling)
        # Ids: Keras would take the variables themselves for the model's own.
        self._trainable_at_compile = frozenset(map(id, self.trainable_variables))

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


def _refuse_class_weight(class_weight):
    if class_weight is not None:
        raise ValueError(
            "`class_weight` is for classes of rows; a language model predicts tokens. Give "
            "`sample_weight` [batch, length] with a weight for each of them."
        )


def _has_mask(inputs):
    return isinstance(inputs, dict) and inputs.get("padding_mask") is not None


def _drop(weights, labels, label):
    """Weights [B, T], 0 where integer labels are `label`."""
    if len(labels.shape) != 2:
        return weights
    weights = ops.cast(weights, "float32")
    return ops.where(ops.equal(labels, label), ops.zeros_like(weights), weights)


def _weighted(weights, sample_weight):
    """Weights [B, T] of the loss: the sample weights [B, T] or [B], 0 where there is no label."""
    sample_weight = ops.cast(sample_weight, "float32")
    shape, expected = tuple(sample_weight.shape), tuple(weights.shape)
    fits = len(shape) in (1, 2) and all(
        None in (a, b) or a == b for a, b in zip(shape, expected, strict=False)
    )
    if not fits:
        raise ValueError(
            f"`sample_weight` must have shape {list(expected)}, or {list(expected[:1])} for one "
            f"weight a row; received shape {list(shape)}."
        )
    if len(shape) == 1:
        sample_weight = sample_weight[:, None] * weights
    return ops.where(ops.equal(weights, 0), 0.0, sample_weight)


def _label_weights(labels, padding_mask):
    """Weights [B, T] of given labels: 0 where the token or the next one does not exist."""
    if padding_mask is None:
        return ops.ones(ops.shape(labels)[:2], "float32")
    mask = ops.cast(padding_mask, "float32")
    return mask * ops.concatenate([mask[:, 1:], ops.ones_like(mask[:, :1])], axis=1)


def _find_layer(backbone, name):
    for layer in backbone._flatten_layers():
        if layer.name == name:
            return layer
    raise ValueError(
        f"The block is tied to an embedding called {name!r}, which is not a layer of the backbone "
        f"{backbone.name!r}."
    )
