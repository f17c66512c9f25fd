"""Random numbers that depend on nothing but their key and their counter."""

from keras import ops

from fwl_keras.ops._checks import require_integers
from fwl_keras.ops._types import Tensor

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
# float32 holds 24 bits exactly.
_FLOAT_BITS = 24


def threefry_2x32(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> tuple:
    """Run the counter-based generator Threefry-2x32, 20 rounds, element by element.

    Args:
        key: two uint32 tensors that broadcast to the counter's.
        counter: two uint32 tensors.

    Returns:
        Two uint32 tensors of random bits.

    Reference:
        Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    keys = (*key, key[0] ^ key[1] ^ _uint32(_PARITY))
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x = x + y
            left = ops.bitwise_left_shift(y, _uint32(rotation))
            y = x ^ (left | ops.bitwise_right_shift(y, _uint32(32 - rotation)))
        x = x + keys[(i + 1) % 3]
        y = y + keys[(i + 2) % 3] + _uint32(i + 1)
    return x, y


def random_uniform(seed: Tensor, row: Tensor, step: Tensor) -> Tensor:
    """Return one number in [0, 1) for each row, the same in every batch, on every backend.

    Args:
        seed: int tensor [B], in [0, 2**32).
        row: int tensor [B], likewise.
        step: int tensor [B], number of the draw.

    Returns:
        A float32 tensor [B], multiples of 2**-24.

    Raises:
        ValueError: if a dtype is not an integer one.

    Example:
        >>> random_uniform(ops.array([0, 0]), ops.array([0, 1]), ops.array([0, 0]))
    """
    require_integers(seed=seed, row=row, step=step)
    key = ops.cast(seed, "uint32"), ops.cast(row, "uint32")
    step = ops.cast(step, "uint32")
    bits, _ = threefry_2x32(key, (step, ops.zeros_like(step)))
    bits = ops.bitwise_right_shift(bits, _uint32(32 - _FLOAT_BITS))
    return ops.cast(bits, "float32") * 2.0**-_FLOAT_BITS


def _uint32(value):
    return ops.convert_to_tensor(value, "uint32")
