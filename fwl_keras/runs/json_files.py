"""JSON files that hold an object, as the standard has it, which knows no NaN and no infinity."""

import json
import math
from pathlib import Path


def read_json_object(path: str | Path) -> dict:
    """Return what a file holds, by name.

    Args:
        path: the file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON, or holds something else than an object.
    """
    values = json.loads(Path(path).read_text("utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"It has {type(values).__name__} where an object is needed.")
    return values


def strict_json(values: object, indent: int | None = None) -> str:
    """Return JSON that every reader takes: numbers that are not finite are null.

    Args:
        values: dicts, lists, tuples, strings, numbers, booleans and None, in one another.
        indent: spaces of indentation, or None for one line.

    Returns:
        The text, without a line end.

    Example:
        >>> strict_json({"loss": float("nan"), "step": 3})
        '{"loss": null, "step": 3}'
    """
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(values):
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
