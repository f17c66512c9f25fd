"""Runs: a language model trained on a corpus, everything about it in one directory.

Importing this package imports no deep-learning framework; the functions that need one do.
"""

from fwl_keras.runs.config import PRESETS, RunConfig
from fwl_keras.runs.directory import RunDirectory

__all__ = ["PRESETS", "RunConfig", "RunDirectory"]
