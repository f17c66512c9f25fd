"""What public functions ask of their arguments; needs no framework."""

import math
import numbers

import numpy as np


def is_int(value) -> bool:
    """Return whether `value` is a whole number, NumPy's included; True and False are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)


def is_number(value) -> bool:
    """Return whether `value` is a finite real number, NumPy's included; True and False are not."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
    return is_real and math.isfinite(value)


def require_positive(name: str, value) -> None:
    """Raise a ValueError unless `value` is a finite number above zero."""
    if not (is_number(value) and value > 0):
        raise ValueError(f"`{name}` must be a positive number; received {value!r}.")


def require_not_negative(name: str, value) -> None:
    """Raise a ValueError unless `value` is a finite number of at least zero."""
    if not (is_number(value) and value >= 0):
        raise ValueError(f"`{name}` must be a number that is not negative; received {value!r}.")


def require_count(name: str, value) -> None:
    """Raise a ValueError unless `value` is a whole number above zero."""
    if not is_int(value) or value < 1:
        raise ValueError(f"`{name}` must be a positive whole number; received {value!r}.")


def require_int(name: str, value, low: int, high: int | None = None) -> None:
    """Raise a ValueError unless `value` is a whole number in [low, high), or of at least `low`."""
    if not is_int(value) or value < low or (high is not None and value >= high):
        where = f"of at least {low}" if high is None else f"in [{low}, {high})"
        raise ValueError(f"`{name}` must be a whole number {where}; received {value!r}.")


def require_fraction(name: str, value) -> None:
    """Raise a ValueError unless 0 < value < 1."""
    if not (is_number(value) and 0 < value < 1):
        raise ValueError(f"`{name}` must lie strictly between 0 and 1; received {value!r}.")


def require_bool(name: str, value) -> None:
    """Raise a ValueError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False; received {value!r}.")


def require_bools(**arguments) -> None:
    """Raise a ValueError unless every argument is True or False."""
    for name, value in arguments.items():
        require_bool(name, value)
