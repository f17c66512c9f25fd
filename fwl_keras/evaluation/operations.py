"""Multiply-adds of matrix products, counted from the shapes of what is computed."""

import math
from dataclasses import dataclass

import keras


@dataclass(frozen=True)
class Operations:
    """Multiply-adds per token of reading a text once; element by element work is not counted.

    Attributes:
        body: products with the body's kernels, and of its attention in windows of the text.
        block: the block's slow pass without the unembedding, 4SD + 4SS.
        unembedding: SV.
        fast_weights: what fast weights cost on top: the slow pass's logits and the step back
            through the unembedding (2SV), through the block, and linear attention.
        running_sums: what reading the sums of an open segment costs, where a state is carried.
    """

    body: float
    block: float
    unembedding: float
    fast_weights: float
    running_sums: float

    @property
    def plain(self) -> float:
        """Reading without fast weights."""
        return self.body + self.block + self.unembedding

    @property
    def adapting(self) -> float:
        """Reading with fast weights, every window with a fresh state."""
        return self.plain + self.fast_weights

    @property
    def carrying(self) -> float:
        """Reading with fast weights, the state carried from window to window."""
        return self.adapting + self.running_sums

    @property
    def dynamic_evaluation(self) -> float:
        """Plain reading and its gradients for activations and weights: the least it can be.

        Whatever is read once more after a step, to have the same context, comes on top.
        """
        return 3 * self.plain

    @property
    def dynamic_evaluation_of_block(self) -> float:
        """Plain reading, and gradients of the block and the unembedding only."""
        return self.plain + 2 * (self.block + self.unembedding)

    @property
    def hidden_state_optimisation(self) -> float:
        """Plain reading and its gradients for activations."""
        return 2 * self.plain

    @property
    def adapting_and_dynamic_evaluation(self) -> float:
        """Reading with fast weights, and gradients through all of it."""
        return 3 * self.carrying


def count_operations(lm: keras.Model, length: int) -> Operations:
    """Counts what a model computes per token of a text read in windows.

    Args:
        lm: FWLCausalLM whose body is a KerasHub decoder of dense attention (every token with every
            other of its window, the masked ones too).
        length: tokens of a window, a multiple of the block's segment length.

    Returns:
        The counts.

    Raises:
        ValueError: if the body is another, or the length does not fit.

    Example:
        >>> count = count_operations(lm, 512)
        >>> count.adapting / count.dynamic_evaluation
    """
    backbone, block = lm.backbone, lm.block
    sizes = [getattr(backbone, name, None) for name in ("num_layers", "num_query_heads")]
    if None in sizes:
        raise ValueError(
            "Operations are counted for KerasHub bodies with `num_layers` and `num_query_heads`; "
            f"received {type(backbone).__name__}."
        )
    segment = block.segment_length or length
    if length % segment:
        raise ValueError(f"`length`={length} must be a multiple of `segment_length`={segment}.")
    layers, heads = sizes
    embedding = {id(v) for v in backbone.token_embedding.variables}
    kernels = sum(
        math.prod(v.shape)
        for v in backbone.variables
        if len(v.shape) > 1 and id(v) not in embedding
    )
    head_width = getattr(backbone, "head_dim", None) or backbone.hidden_dim // heads
    attention = 2 * layers * heads * head_width * length
    size, vocab_size = block.size, block.vocab_size
    width = block.expand.kernel.shape[0]
    expand, project = 4 * size * width, 4 * size * size
    chunk = min(segment, block.chunk_length or 128)
    if block.attn_chunks is not None:
        chunk = min(segment, -(-length // block.attn_chunks))
    # Scores and sums inside chunks: key width and value width of both dense layers.
    within = chunk * (width + 4 * size + 4 * size + size)
    # The sums of every chunk are taken; those of a segment's only one are not read within it.
    across = (expand + project) * (1 if chunk == segment else 2)
    # Back through `project`, and `project` once more on what the fast `expand` gave.
    through = 2 * project
    return Operations(
        body=kernels + attention,
        block=expand + project,
        unembedding=size * vocab_size,
        fast_weights=2 * size * vocab_size + through + within + across,
        running_sums=expand + project if chunk == segment else 0,
    )
