"""A run small enough to be trained many times."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import keras

from fwl_keras.runs import RunConfig


def write_book(directory: Path, characters: int = 30_000) -> Path:
    path = directory / "book.txt"
    path.write_text(Path(argparse.__file__).read_text("utf-8")[:characters], "utf-8")
    return path


def tiny_config(corpus: Path, **changes) -> RunConfig:
    values = {
        "vocab_size": 300,
        "layers": 1,
        "width": 16,
        "heads": 2,
        "length": 32,
        "segment_length": 16,
        "batch_size": 2,
        "steps": 12,
        "interval": 5,
        "validation_every": 1,
        "validation_windows": 4,
    }
    return RunConfig(corpus=str(corpus), **{**values, **changes})


@contextlib.contextmanager
def eagerly(yes: bool = True) -> Iterator[None]:
    """Trace no graphs on TensorFlow: one takes longer than the few steps of a test's run.

    Args:
        yes: False for what takes many steps within what takes few.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(yes)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def as_options(config: RunConfig) -> list[str]:
    names = [
        "vocab_size",
        "layers",
        "width",
        "heads",
        "length",
        "segment_length",
        "batch_size",
        "steps",
        "interval",
    ]
    return [word for n in names for word in (f"--{n.replace('_', '-')}", str(getattr(config, n)))]
