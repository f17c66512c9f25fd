"""JSON as the standard has it, which knows neither NaN nor infinity."""

import json
import math


def strict_json(values: object, indent: int | None = None) -> str:
    """Returns JSON that every reader takes: numbers that are not finite are null.

    Args:
        values: Dicts, lists, tuples, strings, numbers, booleans and None, in one another.
        indent: Spaces of indentation, or None for one line.

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
