"""Results that an earlier sitting has published, on this machine or another."""

import json
from pathlib import Path

from benchmarks.rivals.report import common_config
from benchmarks.rivals.workspace import Workspace
from fwl_keras.runs.config import RunConfig


def adopt(workspace: Workspace, path: Path) -> dict:
    """Take over published figures, searches and costs, so that they are not measured again.

    What the workspace has measured itself stays. Models and single tokens' losses are not among
    what is published: what needs them is made again.

    Args:
        workspace: the benchmark.
        path: JSON file of `report.write`; nothing is taken over if there is none.

    Returns:
        What the file holds; empty if there is none.

    Raises:
        ValueError: if the file cannot be read, or holds results of another corpus or configuration.
    """
    if not path.exists():
        return {}
    try:
        published = json.loads(path.read_text("utf-8"))
        rows, searches = published["rows"], published["searches"]
        # Older results do not know of what was added since, and had its default.
        config = {**common_config(RunConfig()), **published["config"]}
        other = {
            name: value
            for name, value in common_config(workspace.config).items()
            if config.get(name) != value
        }
        if published["corpus"] != workspace.text.corpus.name:
            other = {"corpus": workspace.text.corpus.name, **other}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a benchmark's results ({error}); give another "
            "directory to `--results`."
        ) from error
    if other:
        raise ValueError(
            f"{str(path)!r} holds results of a benchmark with another {', '.join(other)}; give "
            "another directory to `--results`."
        )
    for row in rows:
        for i, seed in enumerate(row["seeds"]):
            splits = {split: {"perplexity": one[i]} for split, one in row["perplexity"].items()}
            cell = {
                "row": row["name"],
                "seed": seed,
                "settings": row["settings"],
                "splits": splits,
            }
            _keep(workspace, "cells", f"{row['name']}-{seed}", cell)
        if row["cost"]:
            _keep(workspace, "costs", row["name"], row["cost"])
    for name, search in searches.items():
        _keep(workspace, "searches", name, search)
    return published


def _keep(workspace, kind, name, values):
    if workspace.read_json(kind, name) is None:
        workspace.write_json(kind, name, values)
