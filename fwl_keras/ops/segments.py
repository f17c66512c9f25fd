"""Which tokens of a call belong to which piece of which row's segments.

Rows of a batch may stand at different places of their segments, and tokens may be missing
anywhere. A call is therefore read in pieces: piece k takes from every row those of its existing
tokens that fall into the k-th segment it touches. Pieces have one width whatever the places, so
that a row's arithmetic does not depend on its neighbours: docs/mathematics.md, section 6.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from fwl_keras.ops._shapes import ceil_div, minimum
from fwl_keras.ops._types import Tensor

MAX_UNROLLED = 8


class Pieces(NamedTuple):
    """How a call is cut.

    Attributes:
        count: number of pieces at most, int or integer tensor.
        needed: int or int32 tensor, no less than the pieces in which some row has a token.
        width: tokens a piece, int or integer tensor.
        order: int32 tensor [B, T], row by row the places of existing tokens, then the others.
        existing: int32 tensor [B], number of existing tokens.
        position: int32 tensor [B], tokens already in the row's open segment.
        length: int or None, tokens a segment.
    """

    count: int | Tensor
    needed: int | Tensor
    width: int | Tensor
    order: Tensor
    existing: Tensor
    position: Tensor
    length: int | None


def cut_pieces(exists: Tensor, position: Tensor | None, length: int | None) -> Pieces:
    """Lay the existing tokens of a call out over segments.

    Args:
        exists: bool tensor [B, T].
        position: int32 tensor [B], in [0, length); None for rows at the start of a segment.
        length: tokens a segment, or None for one segment without end.

    Returns:
        The cut, for `take_piece`.
    """
    total = ops.shape(exists)[1]
    order, existing = _order(exists)
    count, width = 1, total
    if length is not None:
        # The furthest a row can reach: one token short of a boundary, and every token exists.
        before = 0 if position is None else length - 1
        count, width = ceil_div(before + total, length), minimum(total, length)
    needed = count
    if position is None:
        position = ops.zeros_like(existing)
    elif length is not None:
        needed = ceil_div(ops.max(position + existing), length)
    return Pieces(count, needed, width, order, existing, position, length)


def close_holes(exists: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find where the existing tokens of each row go that they may stand first, in their order.

    Args:
        exists: bool tensor [B, T].

    Returns:
        Int32 tensors: `order` [B, T], so that `gather_rows(x, order)` has the existing tokens
        first; `back` [B, T], with which `gather_rows` of that brings each to its place again; and
        the number of existing tokens [B].
    """
    order, existing = _order(exists)
    back = ops.cumsum(ops.cast(exists, "int32"), axis=1) - 1
    return order, ops.maximum(back, 0), existing


def _order(exists):
    """Return, by row, the places of existing tokens, then the others; and how many exist."""
    total = ops.shape(exists)[1]
    steps = ops.arange(total, dtype="int32")
    order = ops.argsort(ops.where(exists, steps, steps + total), axis=1)
    return ops.cast(order, "int32"), ops.sum(ops.cast(exists, "int32"), axis=1)


def take_piece(pieces: Pieces, k: int | Tensor) -> tuple[Tensor, Tensor]:
    """Find where piece k's tokens stand in the call.

    Args:
        pieces: the cut.
        k: index of the piece, int or integer tensor.

    Returns:
        An int32 tensor [B, width] of indices into T, and a bool tensor [B, width], which of them
        belong to the piece.
    """
    start, stop = ops.zeros_like(pieces.position), pieces.existing
    if pieces.length is not None:
        start = ops.maximum(start, k * pieces.length - pieces.position)
        stop = ops.minimum(stop, (k + 1) * pieces.length - pieces.position)
    index = start[:, None] + ops.arange(pieces.width, dtype="int32")
    valid = index < stop[:, None]
    last = ops.shape(pieces.order)[1] - 1
    return gather_rows(pieces.order, ops.minimum(index, last)), valid


def gather_rows(x: Tensor, places: Tensor) -> Tensor:
    """Return x[b, places[b, i]] for x [B, T, ...] and places [B, P]: [B, P, ...]."""
    batch, total = ops.shape(x)[0], ops.shape(x)[1]
    flat = ops.reshape(x, (batch * total, *x.shape[2:]))
    return ops.take(flat, places + _row_starts(batch, total), axis=0)


def scatter_rows(
    buffer: Tensor, places: Tensor, valid: Tensor, values: Tensor, total: int | Tensor
) -> Tensor:
    """Write values [B, P, ...] where they belong.

    Args:
        buffer: tensor [B * T + 1, ...]; the last row takes what does not exist.
        places: int32 tensor [B, P] of indices into T.
        valid: bool tensor [B, P], which of them exist.
        values: tensor [B, P, ...].
        total: T.

    Returns:
        The buffer with the values written.
    """
    batch = ops.shape(places)[0]
    index = ops.where(valid, places + _row_starts(batch, total), batch * total)
    return ops.scatter_update(
        buffer, ops.reshape(index, (-1, 1)), ops.reshape(values, (-1, *buffer.shape[1:]))
    )


def _row_starts(batch, total):
    return ops.arange(batch, dtype="int32")[:, None] * total


def can_unroll(count: int | Tensor) -> bool:
    """Return whether `count` loops are unrolled: few, or on JAX, which has no reverse mode."""
    known = isinstance(count, int)
    return known and (count <= MAX_UNROLLED or keras.backend.backend() == "jax")


def repeat(body: Callable, carry: tuple, count: int | Tensor, needed: int | Tensor) -> tuple:
    """Do `carry = body(k, carry)` for k in range(needed), differentiable.

    Args:
        body: what is done; where it is done although k >= needed, it leaves the carry as it is.
        carry: nested tensors.
        count: int or integer tensor, the most that `needed` can be.
        needed: int or integer tensor.

    Returns:
        The last carry.
    """
    if can_unroll(count):
        *first, last = range(count)
        for k in first:
            carry = body(k, carry)
        # JAX cannot trace the cross-entropy's own gradient inside a branch.
        if last == 0 or isinstance(needed, int) or keras.backend.backend() == "jax":
            return body(last, carry)
        # Where the rows' segments end decides about the last one, and often none comes to it.
        return ops.cond(needed > last, lambda: body(last, carry), lambda: carry)
    # XLA needs a bound on the number of iterations for gradients.
    return ops.while_loop(
        lambda k, _: k < needed,
        lambda k, carry: (k + 1, body(k, carry)),
        (0, carry),
        maximum_iterations=count,
    )[1]
