"""A file of weights, checked for what reaches out of it."""

import math
import os
from typing import BinaryIO

import h5py

# As in Keras: genuine weights, compressed or not, are not stored in so much less than they take.
_BOMB_BYTES = 1 << 32
_BOMB_EXPANSION = 1000


def check_weights_file(file: str | os.PathLike | BinaryIO) -> None:
    """Refuse a file of weights with links, with data outside of it, or with sizes that are lies.

    Keras refuses these as well, but reports another error, about the layer that is left without
    weights.

    Args:
        file: path of an HDF5 file, or the file, open.

    Raises:
        ValueError: if there is something else than groups and datasets of its own in it.
        OSError: if it is no HDF5 file.

    Example:
        >>> check_weights_file("lm.weights.h5")
    """
    with h5py.File(file, "r") as root:
        pending, seen = [root], set()
        while pending:
            group = pending.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:  # a group can hold itself
                continue
            seen.add(address)
            for name in group:
                link = group.get(name, getlink=True)
                path = f"{group.name.rstrip('/')}/{name}"
                if not isinstance(link, h5py.HardLink):
                    raise ValueError(
                        f"The weights have the {type(link).__name__} {path!r} to {link.path!r} "
                        f"(file {getattr(link, 'filename', 'itself')!r}); do not load them."
                    )
                if isinstance(group[name], h5py.Group):
                    pending.append(group[name])
                elif isinstance(group[name], h5py.Dataset):
                    _check_dataset(path, group[name])


def _check_dataset(path, dataset):
    kind = None
    if dataset.external:
        kind = f"an external dataset, in {dataset.external[0][0]!r}"
    elif dataset.is_virtual:
        kind = "a virtual dataset, a view of others"
    else:
        declared = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
        stored = dataset.id.get_storage_size()
        if declared > _BOMB_BYTES and declared > _BOMB_EXPANSION * stored:
            kind = f"said to have {declared:,} bytes, of which {stored:,} are stored"
    if kind is not None:
        raise ValueError(f"The weights' {path!r} is {kind}; do not load them.")
