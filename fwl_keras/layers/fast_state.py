"""The rule of fast weights: what is kept of each of them, and what becomes of it."""

from typing import Any

import keras
from keras import ops

from fwl_keras.ops._types import Tensor
from fwl_keras.ops.reset_rows import select_rows

# A fast weight's name in states and reports, and where it lives: layer of the block, weight of it.
FAST_WEIGHTS = {
    "expand_kernel": ("expand", "kernel"),
    "expand_bias": ("expand", "bias"),
    "project_kernel": ("project", "kernel"),
    "project_bias": ("project", "bias"),
    "gamma": ("normalization", "gamma"),
    "beta": ("normalization", "beta"),
}


class FastState:
    """What a row keeps of its fast weights: a tensor of every kind for each of them, and a place.

    In a state, a flat dict, these are `KIND_T` for every kind and fast weight T, float32
    [B, *shape of T], and `position` [B], int32, the number of tokens in the row's open segment; a
    fresh row is zero. Inside the block they are *sums*: a dict by kind of dicts by fast weight.

    Every rule has the kinds `anchor` and `running`, sums of gradients that are not multiplied by
    step sizes yet: a segment's gradients are taken at the weights less the steps in `anchor`, and
    its tokens add theirs to `running`. A further kind is an entry of `kinds` in a subclass, whose
    `end_segment` says what it becomes; a block takes it as its attribute `fast_state`.

    Attributes:
        kinds: names of the kinds.
        open_kinds: those that are zero where a segment begins.

    Reference:
        docs/mathematics.md, (16) to (19).
    """

    kinds = ("anchor", "running")
    open_kinds = ("running",)

    def end_segment(self, sums: dict[str, Tensor], decay: Tensor) -> dict[str, Tensor]:
        """Return what a fast weight's tensors become where a segment ends, (18).

        Args:
            sums: one tensor [B, *shape] of every kind.
            decay: the weight's learned decay, shape () or (units,).
        """
        running = sums["running"]
        return {"anchor": decay * (sums["anchor"] + running), "running": ops.zeros_like(running)}

    def spec(self, shapes: dict[str, tuple], batch_size: int | None) -> dict[str, Tensor]:
        """Return shapes and dtypes of a state's tensors, as Keras tensors.

        Args:
            shapes: of the fast weights, by name.
            batch_size: B, or None where it is not known.
        """
        spec = {
            f"{kind}_{name}": keras.KerasTensor((batch_size, *shapes[name]), "float32")
            for kind in self.kinds
            for name in FAST_WEIGHTS
        }
        return {**spec, "position": keras.KerasTensor((batch_size,), "int32")}

    def zeros(self, shapes: dict[str, tuple], batch_size: int | Tensor) -> dict[str, Tensor]:
        """Return a fresh state; arguments as for `spec`, the batch size may be a tensor."""
        return {
            name: ops.zeros((batch_size, *tensor.shape[1:]), tensor.dtype)
            for name, tensor in self.spec(shapes, None).items()
        }

    def split(self, state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return the sums of a state, float32."""
        return {
            kind: {name: ops.cast(state[f"{kind}_{name}"], "float32") for name in FAST_WEIGHTS}
            for kind in self.kinds
        }

    def join(self, sums: dict[str, dict[str, Tensor]], position: Tensor) -> dict[str, Tensor]:
        """Return the state of these sums: the inverse of `split`."""
        state = {f"{kind}_{t}": sums[kind][t] for kind in self.kinds for t in FAST_WEIGHTS}
        return {**state, "position": position}

    def consolidate(
        self,
        sums: dict[str, dict[str, Tensor]],
        full: Tensor | None,
        decays: dict[str, Tensor],
    ) -> dict[str, dict[str, Tensor]]:
        """End the segment of every row that is full.

        Args:
            sums: by kind and fast weight; kinds that are missing are zero.
            full: bool tensor [B], or None where segments do not end.
            decays: learned decays by fast weight.

        Returns:
            Sums of every kind.
        """
        sums = {
            kind: sums.get(kind) or {t: ops.zeros_like(r) for t, r in sums["running"].items()}
            for kind in self.kinds
        }
        if full is None:
            return sums
        ended = {
            t: self.end_segment({kind: sums[kind][t] for kind in self.kinds}, decays[t])
            for t in FAST_WEIGHTS
        }
        return {
            kind: select_rows(full, {t: ended[t][kind] for t in FAST_WEIGHTS}, sums[kind])
            for kind in self.kinds
        }


class CorrectedState(FastState):
    """A rule whose segments end with something added that its own tokens have not read, (29).

    The kind `missing` is the sum of it.
    """

    kinds = ("anchor", "running", "missing")
    open_kinds = ("running", "missing")

    def end_segment(self, sums: dict[str, Tensor], decay: Tensor) -> dict[str, Tensor]:
        zeros = ops.zeros_like(sums["running"])
        read = sums["anchor"] + sums["running"] + sums["missing"]
        return {"anchor": decay * read, "running": zeros, "missing": zeros}


def of_layers(sums: dict[str, Tensor] | None) -> dict[str, Any]:
    """Return a dict by fast weight as one for each layer, by the layer's own names; or Nones."""
    layers = dict.fromkeys(layer for layer, _ in FAST_WEIGHTS.values())
    if sums is None:
        return layers
    return {
        layer: {name: sums[t] for t, (owner, name) in FAST_WEIGHTS.items() if owner == layer}
        for layer in layers
    }


def of_block(sums: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return dicts for each layer as one dict by fast weight: the inverse of `of_layers`."""
    return {t: sums[layer][name] for t, (layer, name) in FAST_WEIGHTS.items()}
