"""What is counted of a benchmark's models, once for each."""

import dataclasses
from collections.abc import Callable

import keras

from benchmarks.rivals.methods import METHODS
from benchmarks.rivals.models import Row
from benchmarks.rivals.operations import Operations, count_operations
from benchmarks.rivals.workspace import Workspace
from fwl_keras.runs.build_model import build_model


def model_parameters(workspace: Workspace, model: str) -> int:
    """Count the parameters of a model, trained or not."""
    return _counted(
        workspace, f"parameters-{model}", model, lambda lm: {"parameters": lm.count_params()}
    )["parameters"]


def model_operations(workspace: Workspace, model: str) -> Operations | None:
    """Count the multiply-adds of a model, trained or not.

    Returns:
        The counts, or None for a body whose operations are not counted.
    """

    def count(lm):
        try:
            return dataclasses.asdict(count_operations(lm, workspace.config.length))
        except ValueError:
            return {}

    known = _counted(workspace, f"operations-{model}", model, count)
    return Operations(**known) if known else None


def row_operations(workspace: Workspace, row: Row, settings: dict) -> float | None:
    """Count the multiply-adds per token of a row with some settings.

    Returns:
        The number, or None for a body whose operations are not counted.
    """
    count = model_operations(workspace, row.model)
    if count is None:
        return None
    length = workspace.config.length
    pieces = length // int(settings.get("length", length))
    return METHODS[row.method].operations(count, pieces)


def _counted(workspace: Workspace, name: str, model: str, count: Callable[..., dict]) -> dict:
    known = workspace.read_json("costs", name)
    if known is None:
        known = count(build_model(workspace.model_config(model, 0)))
        keras.backend.clear_session()
        workspace.write_json("costs", name, known)
    return known
