"""The fast weight layer block: the head of a language model that adapts while it reads."""

from functools import reduce
from operator import add

import keras
from keras import ops

from fwl_keras._arguments import require_bools, require_count
from fwl_keras.backend.dispatch import require_backend
from fwl_keras.layers._checks import (
    check_features,
    check_matches,
    check_state,
    clean_targets,
    integer_labels,
)
from fwl_keras.layers.codebook import Codebook, default_codebook_size
from fwl_keras.layers.fast_dense import FastDense
from fwl_keras.layers.fast_layer import require_decays, require_step_sizes
from fwl_keras.layers.fast_layer_normalization import FastLayerNormalization
from fwl_keras.layers.fast_state import (
    FAST_WEIGHTS,
    CorrectedState,
    FastState,
    of_block,
    of_layers,
)
from fwl_keras.layers.squared_relu import SquaredReLU
from fwl_keras.layers.unembedding import Unembedding
from fwl_keras.ops._recompute import recomputed
from fwl_keras.ops._shapes import ceil_div, minimum
from fwl_keras.ops.every import places_of_every
from fwl_keras.ops.reset_rows import select_rows
from fwl_keras.ops.segments import (
    can_unroll,
    close_holes,
    cut_pieces,
    gather_rows,
    repeat,
    scatter_rows,
    take_piece,
)
from fwl_keras.saving import check_config

DEFAULT_CHUNK_LENGTH = 128
# Numbers in a row's own weights from which on they are not kept for the backward pass.
WORTH_RECOMPUTING = 2**16


@keras.saving.register_keras_serializable(package="fwl_keras")
class FWLBlock(keras.layers.Layer):
    """Fast Weight Layers between a language model's body and its logits.

    Dense (4 * size), squared ReLU, dense (size), layer normalisation, unembedding. While it reads,
    the block takes one gradient step of the language-modelling loss per token on its own weights,
    written as causal linear attention, so that every prediction uses weights adapted to the text
    so far. Text is read in segments: inside one, all gradients are taken at the weights it began
    with; at its end the steps are kept, pulled back by a learned decay. The first segment is the
    published algorithm.

    Args:
        size: positive int S, width of the block.
        vocab_size: positive int V.
        attn_chunks: number of chunks of the linear attention (the published argument).
        chunk_length: tokens a chunk, instead of `attn_chunks`. Neither: 128.
        segment_length: tokens a segment; None for one segment without end.
        unembedding: None to create one, or a `keras.layers.Dense` or (tied)
            `keras.layers.ReversibleEmbedding` that takes features of width `size`.
        use_bias: whether the unembedding has a bias. None: one that is created has, a tied
            embedding has not. A given dense layer decides for itself.
        use_fast_weights: False makes the block its own baseline: the same parameters, no steps.
        residual: whether to add the features `x` to what the normalisation gives, whose gamma is
            then 0 at the start: the slow pass begins as the unembedding of `x` alone, as a
            trained model has it. Needs `size` equal to the width of `x`.
        loss_reduction: `"sum"`, or `"mean_with_sample_weight"` to divide every step by the sum of
            `weights` over the batch as the published code does (for comparison only: it lets
            tokens see the future and rows each other).
        epsilon: added to the layer normalisation's variance; published: 0.
        initial_step_size: step size at the start, per token.
        step_size_gain: factor k in step_size = initial * exp(k * theta).
        step_size_per_unit: one step size per output unit instead of per weight.
        initial_decay: decay at the start, in (0, 1).
        train_step_sizes: whether step sizes and decays are learned.
        kernel_initializer: initializer of the kernels.
        inner_loss: what the steps follow: `"full"`, the loss of what is predicted, or `"coarse"`,
            that of the label among the learned classes of a `layers.Codebook`, which needs no
            product with the vocabulary.
        codebook_size: classes of the coarse loss. None: about four times the square root of V,
            1,024 at most.
        exact_every: with a coarse loss, what is kept of a segment at its end are exact gradients:
            those of every token (1), or of every so manieth, which costs less and gains less. None
            keeps the coarse ones: cheapest, but a state that is carried far drifts.
        **kwargs: keyword arguments of `keras.layers.Layer`.

    Call arguments:
        x: float tensor [B, T, D], the body's features; T >= 1.
        labels: int tensor [B, T] (or one-hot [B, T, V]): the token each position is to predict,
            or -100 where there is none: no step, and no loss. None reads without learning: with
            the state's weights, which stay as they are.
        weights: float tensor [B, T], weights of the losses the steps are taken on; 0 = no step.
            None: ones.
        state: dict from `initial_state` or an earlier call; None: a fresh one.
        x_mask: bool tensor [B, T], which positions exist; holes anywhere. None: all.
        return_state: whether to return the state after the last token too.
        output: `"logits"`, `"features"` (before the unembedding), or `"loss"` (never holds
            logits for more than a block of tokens).

    Returns:
        Logits [B, T, V] or features [B, T, S] in the compute dtype, 0 where a position does not
        exist; or a dict of float32 tensors [B, T] in nats, `loss` of the fast weights and
        `slow_loss` of those the segment began with (with a coarse loss: that one), 0 where there
        is no label to predict. With `return_state=True` a pair of that and the state.

    Raises:
        ValueError: if an argument does not fit, which it names, or the Keras backend is neither
            TensorFlow nor JAX. Labels outside [0, V) other than -100, and weights that are not
            finite, are seen eagerly; in a graph they make the loss NaN, and all that the row
            predicts afterwards.

    Example:
        >>> block = FWLBlock(size=64, vocab_size=1000)
        >>> x, labels = np.zeros((2, 10, 32), "float32"), np.zeros((2, 10), "int32")
        >>> block(x, labels).shape
        (2, 10, 1000)
        >>> logits, state = block(x, labels, state=block.initial_state(2), return_state=True)

    Reference:
        Clark et al. 2022, "Meta-Learning Fast Weight Language Models", arXiv 2212.02475; the
        equations are in docs/mathematics.md.
    """

    # The rule that the fast weights follow; a subclass may have another.
    fast_state = FastState()

    def __init__(
        self,
        size: int,
        vocab_size: int,
        attn_chunks: int | None = None,
        *,
        chunk_length: int | None = None,
        segment_length: int | None = 128,
        unembedding: keras.layers.Layer | None = None,
        use_bias: bool | None = None,
        use_fast_weights: bool = True,
        residual: bool = False,
        loss_reduction: str = "sum",
        epsilon: float = 1e-6,
        initial_step_size: float = 3e-3,
        step_size_gain: float = 10.0,
        step_size_per_unit: bool = False,
        initial_decay: float = 0.95,
        train_step_sizes: bool = True,
        kernel_initializer="glorot_uniform",
        inner_loss: str = "full",
        codebook_size: int | None = None,
        exact_every: int | None = 1,
        **kwargs,
    ):
        require_backend()
        super().__init__(autocast=False, **kwargs)
        lengths = {
            "attn_chunks": attn_chunks,
            "chunk_length": chunk_length,
            "segment_length": segment_length,
        }
        lengths |= {"codebook_size": codebook_size, "exact_every": exact_every}
        for name, value in {"size": size, "vocab_size": vocab_size, **lengths}.items():
            if value is not None or name not in lengths:
                require_count(name, value)
        require_bools(
            use_bias=False if use_bias is None else use_bias,
            use_fast_weights=use_fast_weights,
            residual=residual,
            train_step_sizes=train_step_sizes,
        )
        if attn_chunks is not None and chunk_length is not None:
            raise ValueError(
                f"Both `attn_chunks`={attn_chunks} and `chunk_length`={chunk_length} are given; "
                "give one of them."
            )
        if loss_reduction not in ("sum", "mean_with_sample_weight"):
            raise ValueError(
                '`loss_reduction` must be "sum" or "mean_with_sample_weight"; received '
                f"{loss_reduction!r}."
            )
        if inner_loss not in ("full", "coarse"):
            raise ValueError(f'`inner_loss` must be "full" or "coarse"; received {inner_loss!r}.')
        self.size = size
        self.vocab_size = vocab_size
        self.attn_chunks = attn_chunks
        self.chunk_length = chunk_length
        self.segment_length = segment_length
        self.use_bias = use_bias
        self.use_fast_weights = use_fast_weights
        self.residual = residual
        self.loss_reduction = loss_reduction
        self.epsilon = epsilon
        self.initial_step_size = initial_step_size
        self.step_size_gain = step_size_gain
        self.step_size_per_unit = step_size_per_unit
        self.initial_decay = initial_decay
        self.train_step_sizes = train_step_sizes
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.inner_loss = inner_loss
        self.codebook_size = codebook_size
        self.exact_every = exact_every
        self.supports_masking = True

        fast = {
            "initial_step_size": initial_step_size,
            "step_size_gain": step_size_gain,
            "step_size_per_unit": step_size_per_unit,
            "initial_decay": initial_decay,
            "train_step_sizes": train_step_sizes and use_fast_weights,
            "train_decays": segment_length is not None,
            "dtype": self.dtype_policy,
        }
        dense = {"kernel_initializer": self.kernel_initializer, **fast}
        self.expand = FastDense(4 * size, name="expand", **dense)
        self.activation = SquaredReLU(name="activation", dtype=self.dtype_policy)
        self.project = FastDense(size, name="project", **dense)
        gamma = "zeros" if residual else "ones"
        self.normalization = FastLayerNormalization(epsilon, gamma, name="normalization", **fast)
        self.codebook = None
        if inner_loss == "coarse":
            classes = default_codebook_size(vocab_size) if codebook_size is None else codebook_size
            self.codebook = Codebook(classes, name="codebook", dtype=self.dtype_policy)
            self.codebook.trainable = use_fast_weights
            if self._corrects():
                self.fast_state = CorrectedState()
        # None until `set_unembedding` only.
        self.unembedding: Unembedding = None  # pyright: ignore[reportAttributeAccessIssue]
        self.tied_to = None
        if isinstance(unembedding, str):
            self.tied_to = unembedding
        else:
            self.set_unembedding(unembedding)

    def set_unembedding(self, layer: keras.layers.Layer | None) -> None:
        """Give the block its unembedding, before it is built.

        A block that was tied to an embedding is saved without it, since the embedding is part of
        another layer; whoever loads the block calls this (FWLCausalLM does).

        Args:
            layer: as the constructor's `unembedding`.
        """
        use_bias = layer is None if self.use_bias is None else self.use_bias
        self.unembedding = Unembedding(
            self.vocab_size,
            use_bias=use_bias,
            layer=layer,
            kernel_initializer=self.kernel_initializer,
            name="unembedding",
            dtype=self.dtype_policy,
        )

    def build(
        self, x_shape, labels_shape=None, weights_shape=None, state_shape=None, x_mask_shape=None
    ):
        if len(x_shape) != 3 or x_shape[-1] is None:
            raise ValueError(
                "`x` must have shape [batch, length, width] with a known width; received shape "
                f"{tuple(x_shape)}."
            )
        if self.unembedding is None:
            raise ValueError(
                f"This block was tied to the embedding {self.tied_to!r}; call "
                "`set_unembedding(layer)` with that layer before using it."
            )
        if self.residual and x_shape[-1] != self.size:
            raise ValueError(
                f"`residual=True` adds features of width {x_shape[-1]} to outputs of "
                f"`size`={self.size}; use size={x_shape[-1]}."
            )
        self.expand.build(x_shape)
        self.project.build((*x_shape[:-1], 4 * self.size))
        self.normalization.build((*x_shape[:-1], self.size))
        self.unembedding.build((*x_shape[:-1], self.size))
        if self.codebook is not None:
            self.codebook.build((*x_shape[:-1], self.size), self.vocab_size)

    def call(
        self,
        x,
        labels=None,
        weights=None,
        state=None,
        x_mask=None,
        return_state=False,
        output="logits",
    ):
        self._check_call(x, labels, weights, state, x_mask, return_state, output)
        x = ops.cast(x, self.compute_dtype)
        exists = None
        if x_mask is not None:
            exists = ops.cast(x_mask, "bool")
            x = ops.where(exists[..., None], x, ops.zeros_like(x))
        has_loss = None
        if labels is not None:
            labels = integer_labels(labels, x, self.vocab_size)
            labels, weights, has_loss = clean_targets(labels, weights, exists, self.vocab_size)
            if self.loss_reduction == "mean_with_sample_weight":
                weights = weights / ops.maximum(ops.sum(weights), 1e-8)

        new_state, head, loss = state, None, None
        in_segments = output == "loss" and self._corrects()
        if not self.use_fast_weights or labels is None:
            features = self._read(x, state if self.use_fast_weights else None)
            slow_loss = None
        elif state is None and self._can_unroll(x.shape[1]):
            tokens, new_state, head = self._adapt_aligned(x, labels, weights, exists, in_segments)
            features, slow_loss, *loss = tokens
        else:
            arguments = x, labels, weights, exists, state, in_segments
            (features, slow_loss, *loss), new_state = self._adapt(*arguments)
        if return_state and new_state is None:
            new_state = self.fast_state.zeros(self._shapes(), ops.shape(x)[0])

        loss = loss[0] if loss else None
        result = self._output(output, features, labels, has_loss, exists, slow_loss, loss, head)
        return (result, new_state) if return_state else result

    def _check_call(self, x, labels, weights, state, x_mask, return_state, output):
        check_features(x)
        width = self.expand.kernel.shape[0]
        if x.shape[-1] != width:
            raise ValueError(
                f"`x` must have the width {width} that the block was built for; received shape "
                f"{tuple(x.shape)}."
            )
        if weights is not None:
            check_matches("weights", weights, x)
        if x_mask is not None:
            check_matches("x_mask", x_mask, x)
        if output not in ("logits", "features", "loss"):
            raise ValueError(
                f'`output` must be "logits", "features" or "loss"; received {output!r}.'
            )
        if output == "loss" and labels is None:
            raise ValueError('`output="loss"` needs `labels`; received None.')
        if self.loss_reduction != "sum" and (state is not None or return_state):
            raise ValueError(
                f"`state` cannot be used with loss_reduction={self.loss_reduction!r}, whose steps "
                'depend on the whole batch; use loss_reduction="sum".'
            )
        if state is not None:
            spec = self.fast_state.spec(self._shapes(), x.shape[0])
            check_state(state, spec, self.segment_length)

    def _output(self, output, features, labels, has_loss, exists, slow_loss, loss, head):
        """Return what the caller asked for, zero where it does not exist."""
        if output == "loss":
            if loss is None:
                features = ops.cast(features, self.compute_dtype)
                loss = self.unembedding.cross_entropy(features, labels, head)
            losses = {"loss": loss, "slow_loss": loss if slow_loss is None else slow_loss}
            return {
                name: ops.where(has_loss, value, ops.zeros_like(value))
                for name, value in losses.items()
            }
        result = ops.cast(features, self.compute_dtype)
        if output == "logits":
            result = self.unembedding(result)
        if exists is not None:
            result = ops.where(exists[..., None], result, ops.zeros_like(result))
        return result

    def _read(self, x, state):
        """Return features [B, T, S] with the weights of a state, no step taken, (19)."""
        sums = self.fast_state.split(state) if state else {}
        weights, unread = self._adapted(x, sums.get("anchor"), sums.get("running"))
        hidden = self.expand.slow(weights["expand"], x, *unread["expand"])
        hidden = self.activation.slow(hidden)
        projected = self.project.slow(weights["project"], hidden, *unread["project"])
        return self._skip(x, self.normalization.slow(weights["normalization"], projected)[0])

    def _skip(self, x, normalized):
        """Return the features after the normalisation, float32."""
        return normalized + ops.cast(x, "float32") if self.residual else normalized

    def _can_unroll(self, total):
        return total is not None and can_unroll(ceil_div(total, self.segment_length or total))

    def _adapt_aligned(self, x, labels, weights, exists, wants_loss):
        """Read rows that are all at the start of a segment: without holes segments are slices."""
        batch, total = ops.shape(x)[0], x.shape[1]
        length = self.segment_length or total
        chunk, decays = self._chunk_length(total), self._decays()
        tokens, order, back, existing = (x, labels, weights), None, None, None
        if exists is not None:
            order, back, existing = close_holes(exists)
            tokens = tuple(gather_rows(a, order) for a in tokens)
        tokens += self._looked_up(tokens[1])
        sums, state, results, head = {}, {}, [], self.unembedding.head(x)
        for start in range(0, total, length):
            piece = [a[:, start : start + length] for a in tokens]
            width = min(length, total - start)
            if existing is None:
                position = ops.full((batch,), width, "int32")
            else:
                position = ops.clip(existing - start, 0, width)
            # Of an open segment there is nothing to carry in, or to read.
            sums = {kind: s for kind, s in sums.items() if kind not in self.fast_state.open_kinds}
            result, sums, position, head = self._segment(
                piece, sums, position, chunk, decays, wants_loss, head=head
            )
            results.append(result)
            new_state = self.fast_state.join(sums, position)
            if state and existing is not None:
                # A row that ended before keeps the sums of the segment that it ended in.
                new_state = select_rows(existing > start, new_state, state)
            state = new_state
        results = [ops.concatenate(r, axis=1) for r in zip(*results, strict=True)]
        if exists is not None:
            results = [gather_rows(r, back) for r in results]
        return results, state, head

    def _adapt(self, x, labels, weights, exists, state, wants_loss):
        """Read rows at places of their own, or of unknown length: segments are gathered."""
        batch, total = ops.shape(x)[0], ops.shape(x)[1]
        position = None if state is None else ops.cast(state["position"], "int32")
        state = self.fast_state.zeros(self._shapes(), batch) if state is None else state
        exists = ops.ones_like(labels, "bool") if exists is None else exists
        pieces = cut_pieces(exists, position, self.segment_length)
        chunk, decays = self._chunk_length(total), self._decays()
        tokens = x, labels, weights, *self._looked_up(labels)

        def body(k, carry):
            sums, position, *buffers = carry
            places, valid = take_piece(pieces, k)
            piece = [gather_rows(a, places) for a in tokens]
            piece[2] = ops.where(valid, piece[2], ops.zeros_like(piece[2]))
            first, position = position, position + ops.sum(ops.cast(valid, "int32"), axis=1)
            result, sums, position, _ = self._segment(
                piece, sums, position, chunk, decays, wants_loss, first
            )
            buffers = [
                scatter_rows(buffer, places, valid, r, total)
                for buffer, r in zip(buffers, result, strict=True)
            ]
            return sums, position, *buffers

        shapes = [(self.size,), (), *[()] * wants_loss]
        buffers = [ops.zeros((batch * total + 1, *shape), "float32") for shape in shapes]
        carry = self.fast_state.split(state), pieces.position, *buffers
        sums, position, *buffers = repeat(body, carry, pieces.count, pieces.needed)
        results = [
            ops.reshape(buffer[:-1], (batch, total, *shape))
            for buffer, shape in zip(buffers, shapes, strict=True)
        ]
        return results, self.fast_state.join(sums, position)

    def _looked_up(self, labels):
        """Return what a coarse loss knows of labels, once for all segments; or nothing."""
        return () if self.codebook is None else self.unembedding.columns(labels)

    def _segment(
        self, tokens, sums, position, chunk, decays, wants_loss=False, first=None, head=None
    ):
        """Do the slow pass, its gradients, and the fast pass inside one segment, (1) to (18).

        Args:
            tokens: `x` [B, P, D], `labels` int32 [B, P], `weights` float32 [B, P], 0 where a token
                takes no step, and what is looked up for a coarse loss.
            sums: dict by kind of dicts of [B, ...]; where a kind is missing, zeros.
            position: int32 tensor [B], tokens in the segment, these included.
            chunk: tokens a chunk.
            decays: dict of decays by fast weight.
            wants_loss: whether to return the loss of the fast features too.
            first: int32 tensor [B], tokens in the segment without these; None for 0.
            head: kernel and bias that the segment before returned, or None.

        Returns:
            Features [B, P, S], the slow loss [B, P], and the loss if it is wanted; the sums with
            these tokens, consolidated where the segment ends; the position, 0 there; and the head.
        """
        x, labels, weights, *looked_up = tokens
        full = None if self.segment_length is None else ops.equal(position, self.segment_length)
        takes_step = ops.not_equal(weights, 0)[..., None]
        corrects, recomputes = self._corrects(), self._recomputes(x)
        adapted = None if recomputes else self._adapted(x, sums.get("anchor"))

        def slow_pass(x, sums):
            return self._slow_pass(x, adapted or self._adapted(x, sums.get("anchor")))

        def fast_pass(x, slow, gradient, sums, decays):
            weights = adapted or self._adapted(x, sums.get("anchor"))
            running = of_layers(sums.get("running"))
            arguments = x, slow, gradient, takes_step, weights, running, chunk
            features, running = self._fast_pass(*arguments)
            sums = {**sums, "running": running}
            return sums if corrects else end(sums, decays), features

        def end(sums, decays):
            return self.fast_state.consolidate(sums, full, decays)

        def run(function, *arguments):
            if not recomputes:
                return function(*arguments)
            layers = self.expand, self.project, self.normalization
            return recomputed(function, [v for a in layers for v in a.variables], *arguments)

        slow = run(slow_pass, x, sums)
        features = ops.cast(self._skip(x, slow[1]), self.compute_dtype)
        if self.codebook is None:
            gradient, slow_loss, head = self.inner_gradient(features, labels, weights, head)
        else:
            columns, bias, known = looked_up
            gradient, slow_loss = self.codebook.gradient(features, columns, bias, known, weights)
        before = sums
        sums, features = run(fast_pass, x, slow, gradient, sums, decays)
        results = features, slow_loss
        if corrects:
            told = x, slow, gradient, looked_up[0]
            read = ops.cast(features, self.compute_dtype), labels, weights
            missing, loss, head = self._missing(
                told, read, before, adapted, run, first, head, wants_loss
            )
            results = (features, slow_loss, loss) if wants_loss else results
            sums = run(end, {**sums, "missing": missing}, decays)
        position = ops.zeros_like(position) if full is None else ops.where(full, 0, position)
        return results, sums, position, head

    def _recomputes(self, x):
        """Return whether a row's own weights are more than its tokens leave in a segment."""
        length, width = self.segment_length, x.shape[-1] + self.size
        if length is None or x.shape[1] == 1 or 4 * self.size * width < WORTH_RECOMPUTING:
            return False
        return width > 4 * length

    def _slow_pass(self, x, adapted):
        """Return the expansion, the normalisation and what its gradient needs, (1) to (4)."""
        w, unread = adapted
        a1 = self.expand.slow(w["expand"], x, *unread["expand"])
        r = self.activation.slow(a1)
        a2 = self.project.slow(w["project"], r, *unread["project"])
        return a1, *self.normalization.slow(w["normalization"], a2)

    def _fast_pass(self, x, slow, gn, takes_step, adapted, running, chunk):
        """Return features with the steps of all earlier tokens, (8) to (15), and the sums."""
        (w, unread), new = adapted, {}
        keys, values = self._factors(x, slow, gn, takes_step, adapted)
        a1, new["expand"] = self.expand.fast(
            slow[0],
            ops.cast(x, "float32"),
            keys["expand"],
            values["expand"],
            running["expand"],
            chunk,
        )
        r = self.activation.fast(a1)
        a2 = self.project.slow(w["project"], r, *unread["project"])
        a2, new["project"] = self.project.fast(
            a2, r, keys["project"], values["project"], running["project"], chunk
        )
        n, new["normalization"] = self.normalization.fast(
            w["normalization"], a2, keys["normalization"], gn, running["normalization"], chunk
        )
        return self._skip(x, n), of_block(new)

    def inner_gradient(self, features, labels, weights, head=None):
        """Return the gradient that the steps follow, (7), and the loss that it is the gradient of.

        A subclass may follow another one. What is predicted does not depend on it other than by
        the steps; training learns it through them.

        Args:
            features: tensor [B, P, S] in the compute dtype, of the slow pass.
            labels: int32 tensor [B, P].
            weights: float32 tensor [B, P]; where it is 0 the gradient must be 0.
            head: kernel and bias of the unembedding, or None for those that it has.

        Returns:
            Float32 tensors: the weighted gradient with respect to the features [B, P, S], and the
            loss [B, P], which becomes `slow_loss`; and the head that what comes next is to use.
        """
        return self.unembedding.gradient(features, labels, weights, head)

    def _corrects(self):
        """Return whether segments end with exact gradients of some tokens."""
        coarse = self.inner_loss == "coarse"
        return coarse and self.exact_every is not None and self.segment_length is not None

    def _missing(self, told, read, sums, adapted, run, first, head, wants_loss):
        """Return the sums of what gradients are short of exact ones, (28), and the loss.

        Args:
            told: features before the block, the slow pass, its gradient, and labels' columns.
            read: features of the fast pass, labels and weights.
            sums: those that the tokens were read with.
            adapted: the weights of the slow pass, or None where they are to be formed again.
            run: applies a function to tensors, and computes it again for its gradient.
            first: tokens in the segment before these, or None.
            head: as in `_segment`.
            wants_loss: as in `_segment`; without it the loss is None.

        Returns:
            The sums, the loss, and the head.
        """
        x, slow, gradient, columns = told
        features, labels, weights = read
        period, old = self.exact_every or 1, sums.get("missing")
        position = ops.zeros((ops.shape(x)[0],), "int32") if first is None else first
        places, there = places_of_every(period, position, ops.shape(x)[1])
        there = ops.logical_and(there, ops.not_equal(gather_rows(weights, places), 0))

        def missing(exact):
            coarse, factor, column = (gather_rows(t, places) for t in (gradient, weights, columns))
            return run(add, x, slow, self._short(exact, coarse, factor, column, there), sums)

        def add(x, slow, short, sums):
            w = adapted or self._adapted(x, sums.get("anchor"))
            x, slow = keras.tree.map_structure(lambda t: gather_rows(t, places), (x, slow))
            new, old = self._sums(x, slow, short, there, w), sums.get("missing")
            return new if old is None else {t: old[t] + a for t, a in new.items()}

        if x.shape[1] == 1 and period > 1 and old is not None:
            # Most single tokens are not corrected.
            found = ops.cond(
                ops.any(there),
                lambda: missing(self.unembedding.fixed_gradient(features, labels)),
                lambda: old,
            )
            if wants_loss:
                return found, self.unembedding.cross_entropy(features, labels, head), head
            return found, None, head
        exact, loss, head = self._exact(features, labels, places, first, head, wants_loss)
        return missing(exact), loss, head

    def _exact(self, features, labels, places, first, head, wants_loss):
        """Return the exact gradients of tokens at places, the loss of all if wanted, and the head.

        Where it can be the logits of both are the same ones.
        """
        period, length, loss = self.exact_every or 1, features.shape[1], None
        both = self.unembedding.cross_entropy_and_gradient
        aligned = first is None and length is not None and length % period == 0
        if wants_loss and (period == 1 or aligned):
            loss, exact, head = both(features, labels, period, head)
        else:
            chosen, wanted = gather_rows(features, places), gather_rows(labels, places)
            exact = self.unembedding.fixed_gradient(chosen, wanted, head)
            if wants_loss:
                loss, _, head = both(features, labels, None, head)
        return exact, loss, head

    def _short(self, exact, gradient, weights, columns, there):
        """Return what tokens' gradients are short of exact ones at the fast features, (28).

        What the vocabulary is expected to say is a constant; training learns the labels' columns.
        """
        exact = ops.stop_gradient(exact + columns) - columns
        short = self.exact_every * (weights[..., None] * exact - gradient)
        return ops.where(there[..., None], short, 0.0)

    def _sums(self, x, slow, gn, takes_step, adapted):
        """Return the sums of the steps that follow a gradient, as in (10)."""
        keys, values = self._factors(x, slow, gn, takes_step[..., None], adapted)
        return of_block({t: getattr(self, t).step(keys[t], values[t]) for t in keys})

    def _factors(self, x, slow, gn, takes_step, adapted):
        """Return what steps are products of, (8) and (9), by layer: its inputs, and gradients."""
        w, unread = adapted
        a1, _, statistics = slow
        g2 = self.normalization.gradient(w["normalization"], gn, statistics)
        gr = self.project.gradient(w["project"], g2, *unread["project"])
        g1 = self.activation.gradient(a1, gr)

        # Where no step is taken neither factor of the step may be anything but a number.
        def safe(a):
            return ops.where(takes_step, ops.cast(a, "float32"), 0.0)

        r, normalized = self.activation.slow(a1), statistics[0]
        keys = {"expand": safe(x), "project": safe(r), "normalization": safe(normalized)}
        return keys, {"expand": safe(g1), "project": safe(g2), "normalization": gn}

    def _decays(self):
        """Return the decays by fast weight as they are now, computed once."""
        return {t: layer.decay(name) for t, (layer, name) in self._places().items()}

    def _adapted(self, x, *sums):
        """Return layers' weights after the steps in `sums`, and the sums that are not in them yet.

        A row's adapted weights are worth forming for a segment, never for a single token: there
        the dense layers read the sums as they are.
        """
        lazy = x.shape[1] == 1
        given = [of_layers(s) for s in sums if s is not None]
        weights, unread = {}, {}
        for layer in of_layers(None):
            parts = [g[layer] for g in given]
            unread[layer] = parts if lazy and layer != "normalization" else []
            formed = None
            if parts and not unread[layer]:
                formed = {name: reduce(add, (p[name] for p in parts)) for name in parts[0]}
            weights[layer] = getattr(self, layer).weights_at(formed)
        return weights, unread

    def _chunk_length(self, total):
        if self.attn_chunks is not None:
            length = ceil_div(total, self.attn_chunks)
        else:
            length = self.chunk_length or DEFAULT_CHUNK_LENGTH
        return length if self.segment_length is None else minimum(length, self.segment_length)

    def initialize_codebook(self, *, iterations: int = 10, seed: int = 0) -> None:
        """Let a coarse loss begin with clusters of the unembedding, which is trained already.

        Args:
            iterations: rounds of k-means, positive int.
            seed: of the columns that the first means are.

        Raises:
            ValueError: if the block has no coarse loss, or is not built yet.
        """
        if self.codebook is None or not self.built:
            raise ValueError(
                "`initialize_codebook` is for a block that is built and has "
                f'`inner_loss="coarse"`; received inner_loss={self.inner_loss!r}, '
                f"built={self.built}."
            )
        kernel, bias = self.unembedding.tensors()
        self.codebook.cluster(kernel, bias, iterations=iterations, seed=seed)

    def initial_state(self, batch_size: int) -> dict:
        """Return a fresh state: nothing read yet.

        Args:
            batch_size: number of rows B, int or integer tensor.

        Returns:
            Dict of float32 zeros `anchor_T` and `running_T`, each [B, *shape of weight T], for T
            in expand_kernel, expand_bias, project_kernel, project_bias, gamma, beta: sums of
            gradients, not yet multiplied by step sizes, of finished segments and of the open one;
            `missing_T` too where a coarse loss is corrected, what its tokens are short of; and
            `position`, int32 [B], the number of tokens in the open segment.

        Raises:
            ValueError: if the block is not built yet, or the number is not a positive int.
        """
        if not ops.is_tensor(batch_size):
            require_count("batch_size", batch_size)
        if not self.built:
            raise ValueError(
                "`initial_state` needs the weights' shapes: call the block on data, or "
                "`block.build((None, None, width))`, first."
            )
        return self.fast_state.zeros(self._shapes(), batch_size)

    def _places(self):
        """Return the layer that each fast weight is one of, and its name there."""
        return {t: (getattr(self, layer), name) for t, (layer, name) in FAST_WEIGHTS.items()}

    def _shapes(self):
        return {t: layer.fast_weights[name].shape for t, (layer, name) in self._places().items()}

    def step_sizes(self) -> dict:
        """Return every fast weight's step size as a NumPy array, by name ("expand_kernel", ...)."""
        return self._learned("step_size")

    def decays(self) -> dict:
        """Return every fast weight's decay as a NumPy array, by name ("expand_kernel", ...)."""
        return self._learned("decay")

    def step_size_variables(self) -> list:
        """Return the variables behind `step_sizes`."""
        return [layer.step_size_variables[name] for layer, name in self._places().values()]

    def decay_variables(self) -> list:
        """Return the variables behind `decays`; only texts longer than a segment train them."""
        return [layer.decay_variables[name] for layer, name in self._places().values()]

    def _learned(self, kind):
        return {
            t: ops.convert_to_numpy(getattr(layer, kind)(name))
            for t, (layer, name) in self._places().items()
        }

    def set_step_sizes(self, values: dict) -> None:
        """Assign positive step sizes by fast weight's name, e.g. {"expand_kernel": 1e-3}."""
        self._set_learned(values, require_step_sizes, "set_step_size")

    def set_decays(self, values: dict) -> None:
        """Assign decays in (0, 1) by fast weight's name, e.g. {"expand_kernel": 0.9}."""
        self._set_learned(values, require_decays, "set_decay")

    def _set_learned(self, values, require, setter):
        """Check all names and values before any is assigned."""
        places = self._places()
        for t, value in values.items():
            if t not in places:
                raise ValueError(f"No fast weight is called {t!r}; there are {list(places)}.")
            require(t, value)
        for t, value in values.items():
            layer, name = places[t]
            getattr(layer, setter)(name, value)

    def compute_output_spec(
        self,
        x,
        labels=None,
        weights=None,
        state=None,
        x_mask=None,
        return_state=False,
        output="logits",
    ):
        self._check_call(x, labels, weights, state, x_mask, return_state, output)
        batch, total = x.shape[:2]
        if output == "loss":
            result = {
                name: keras.KerasTensor((batch, total), "float32") for name in ("loss", "slow_loss")
            }
        else:
            width = self.size if output == "features" else self.vocab_size
            result = keras.KerasTensor((batch, total, width), self.compute_dtype)
        if not return_state:
            return result
        return result, self.fast_state.spec(self._shapes(), batch)

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("autocast", None)
        unembedding = self.tied_to
        if self.unembedding is not None and self.unembedding.layer is not None:
            layer = self.unembedding.layer
            unembedding = (
                layer.name if self.unembedding.tied else keras.saving.serialize_keras_object(layer)
            )
        config.update(
            size=self.size,
            vocab_size=self.vocab_size,
            attn_chunks=self.attn_chunks,
            chunk_length=self.chunk_length,
            segment_length=self.segment_length,
            unembedding=unembedding,
            use_bias=self.use_bias,
            use_fast_weights=self.use_fast_weights,
            residual=self.residual,
            loss_reduction=self.loss_reduction,
            epsilon=self.epsilon,
            initial_step_size=self.initial_step_size,
            step_size_gain=self.step_size_gain,
            step_size_per_unit=self.step_size_per_unit,
            initial_decay=self.initial_decay,
            train_step_sizes=self.train_step_sizes,
            kernel_initializer=keras.initializers.serialize(self.kernel_initializer),
            inner_loss=self.inner_loss,
            codebook_size=self.codebook_size,
            exact_every=self.exact_every,
        )
        return config

    def get_build_config(self):
        # A tied block is built once it has its embedding back.
        tied = self.unembedding is None or self.unembedding.tied
        return None if tied else super().get_build_config()

    @classmethod
    def from_config(cls, config):
        check_config(config)
        config = dict(config)
        if isinstance(config.get("unembedding"), dict):
            config["unembedding"] = keras.saving.deserialize_keras_object(config["unembedding"])
        return cls(**config)
