"""Training and evaluating: the methods of a model."""

import keras
import numpy as np
from keras import ops

from fwl_keras._arguments import require_bools, require_count
from fwl_keras.backend.compiled import CompiledFunctions
from fwl_keras.backend.dispatch import module_of_backend
from fwl_keras.inference.bodies import Body
from fwl_keras.inference.divergence import warn_of_lost_tokens
from fwl_keras.inference.samplers import CustomSampling
from fwl_keras.inference.state import join_context
from fwl_keras.layers.fwl_block import FWLBlock
from fwl_keras.models.carried_state import CarriedState
from fwl_keras.models.directions import set_directions
from fwl_keras.models.label_weights import times_sample_weight
from fwl_keras.models.perplexity import Perplexity
from fwl_keras.ops import next_token_targets
from fwl_keras.ops.targets import IGNORE


class Learner(keras.Model):
    """The part of FWLCausalLM that is trained with `fit`, and measured with `evaluate`.

    Attributes:
        carried_state: the state that goes on from batch to batch, or None.
    """

    backbone: keras.layers.Layer
    block: FWLBlock
    body: Body
    functions: CompiledFunctions
    carried_state: CarriedState | None

    def _make_trackers(self):
        """Create what `fit` and `evaluate` add up, before there is any batch."""
        self._trainable_at_compile = frozenset()
        self.carried_state = None
        self.perplexity_tracker = Perplexity()
        self.adaptation_gain_tracker = keras.metrics.Mean(name="adaptation_gain")
        self.total_gain_tracker = keras.metrics.Mean(name="total_gain")
        self.non_finite_tracker = keras.metrics.Sum(name="non_finite_tokens")
        for tracker in (self.adaptation_gain_tracker, self.total_gain_tracker):
            tracker._direction = "up"

    def compute_loss_and_counts(self, inputs, labels=None, sample_weight=None, training=True):
        """Return the training loss, and what the trackers add up; the same on every backend.

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
            self.carried_state.assign(state)  # pyright: ignore[reportOptionalMemberAccess]
        w = losses["weights"]
        if sample_weight is not None:
            w = times_sample_weight(w, sample_weight)
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
                recurrent state, for those whose rows do so one by one (`RecurrentBackbone`,
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
        """Return what rows begin with that read whole documents in windows.

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
        """Return arguments of `call` that let a batch with `starts` go on where the last ended."""
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
        """Do as `keras.Model.fit`.

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
        """Do as `keras.Model.evaluate`; `sample_weight` needs no `y`.

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
        """Do as `keras.Model.train_on_batch`; errors as for `fit`."""
        self._check_trainable()
        _refuse_class_weight(class_weight)
        return keras.Model.train_on_batch(self, x, y, sample_weight, **kwargs)

    def _with_labels(self, x, y, sample_weight):
        """Return the labels themselves, where there are weights without them."""
        # Keras itself refuses weights beside datasets and generators.
        is_array = isinstance(x, dict) or hasattr(x, "shape")
        if y is not None or sample_weight is None or not is_array:
            return x, y, sample_weight
        token_ids, padding_mask = self._split_inputs(x)
        labels, weights = next_token_targets(token_ids, padding_mask)
        labels = ops.where(ops.equal(weights, 0), IGNORE, labels)
        weights = times_sample_weight(weights, sample_weight)
        if not ops.convert_to_numpy(ops.all(ops.isfinite(weights))):
            raise ValueError(
                "`sample_weight` must be finite; received NaN or infinity. Use 0 for tokens that "
                "are not to count."
            )
        return x, ops.convert_to_numpy(labels), ops.convert_to_numpy(weights)

    def _begin_fit(self, callbacks):
        """Do what comes before any other part of `fit`."""
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

    def make_train_function(self, force=False):
        # An optimizer that makes its variables within the step has the step traced twice.
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

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


def _refuse_class_weight(class_weight):
    if class_weight is not None:
        raise ValueError(
            "`class_weight` is for classes of rows; a language model predicts tokens. Give "
            "`sample_weight` [batch, length] with a weight for each of them."
        )
