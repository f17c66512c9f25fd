"""Multiply-adds of matrix products, counted from the shapes of what is computed."""

import math
from dataclasses import dataclass

import keras

from fwl_keras._arguments import require_count


@dataclass(frozen=True)
class Operations:
    """Multiply-adds per token of reading a text once; element by element work is not counted.

    Attributes:
        kernels: products with the body's kernels.
        attention: the body's attention in windows of the text.
        expand: the block's first layer in the slow pass, 4SD.
        project: its second layer, 4SS.
        unembedding: SV.
        fast_weights: what fast weights cost on top: the slow pass's logits and the step back
            through the unembedding (2SV), through the block, and linear attention.
        running_sums: what reading the sums of an open segment costs, where a state is carried.
    """

    kernels: float
    attention: float
    expand: float
    project: float
    unembedding: float
    fast_weights: float
    running_sums: float

    @property
    def body(self) -> float:
        """Reading windows with the body."""
        return self.kernels + self.attention

    @property
    def block(self) -> float:
        """The block's slow pass without the unembedding."""
        return self.expand + self.project

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
        """Plain reading and its gradients for activations and weights: the least it can be."""
        return 3 * self.plain

    def dynamic_evaluation_in(self, pieces: int) -> float:
        """Count dynamic evaluation as `DynamicEvaluation` does it.

        After a step the body reads the window's earlier pieces again, and the logits are computed
        once more on the way back.

        Args:
            pieces: pieces of a window, after each of which a step is taken.
        """
        return 3 * (self._body_in(pieces) + self.block + self.unembedding) + self.unembedding

    def dynamic_evaluation_of_block_in(self, pieces: int) -> float:
        """Count the same with gradients of the block and the unembedding only.

        Args:
            pieces: pieces of a window.
        """
        # Nothing goes back into the features.
        back = self.expand + 2 * self.project + 3 * self.unembedding
        return self._body_in(pieces) + self.block + self.unembedding + back

    def adapting_and_dynamic_evaluation_in(self, pieces: int) -> float:
        """Count dynamic evaluation of a model with fast weights, carried, as thrice reading.

        Args:
            pieces: pieces of a window.
        """
        return 3 * (self._body_in(pieces) + self.carrying - self.body)

    @property
    def hidden_state_optimisation(self) -> float:
        """Plain reading and its gradients for activations."""
        return 2 * self.plain

    def _body_in(self, pieces):
        """Count reading a window's first piece, its first two, ..., all of it; per token."""
        kernels = self.kernels * (pieces + 1) / 2
        return kernels + self.attention * (pieces + 1) * (2 * pieces + 1) / (6 * pieces)


def count_operations(lm: keras.Model, length: int) -> Operations:
    """Count what a model computes per token of a text read in windows.

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
    require_count("length", length)
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
        kernels=kernels,
        attention=attention,
        expand=expand,
        project=project,
        unembedding=size * vocab_size,
        fast_weights=2 * size * vocab_size + through + within + across,
        running_sums=expand + project if chunk == segment else 0,
    )
