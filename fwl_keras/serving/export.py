"""Writing a model for TensorFlow Serving."""

import datetime
import json
import os
import shutil
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

import fwl_keras
from fwl_keras.serving.options import ServingOptions
from fwl_keras.serving.signatures import Signature, Signatures

DEFAULT = "score"


def export_model(
    lm, path: str | Path, options: ServingOptions | None = None, *, about: dict | None = None
) -> Path:
    """Write a version directory: a SavedModel with all signatures, whole or not at all.

    Args:
        lm: FWLCausalLM with a SentencePiece preprocessor.
        path: the version directory, its name a number, as `models/my_lm/1`.
        options: caps and dtype.
        about: more entries for `fwl_keras.json`, e.g. the corpus.

    Returns:
        The directory.

    Raises:
        ValueError: if the directory exists or is not named by a number, or the model cannot take
            text, or the backend is not TensorFlow.

    Example:
        >>> export_model(lm, "models/my_lm/1")
    """
    options = options or ServingOptions()
    path = _check_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that is no number, in the same file system: a server that polls sees nothing of it.
    beside = Path(tempfile.mkdtemp(prefix=f".writing-{path.name}-", dir=path.parent))
    try:
        signatures = Signatures(lm, options)
        graphs = _write_saved_model(lm, signatures, options, beside)
        _write_json(beside / "signatures.json", _describe(signatures.all(), graphs))
        _write_json(beside / "fwl_keras.json", _about(lm, options, beside, about or {}))
        beside.chmod(0o755)
        _sync(beside)
        os.rename(beside, path)
        _sync_directory(path.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return path


def _describe(signatures: dict[str, Signature], graphs: dict) -> dict:
    """Names, dtypes and shapes of all inputs and outputs, -1 for any number."""
    described = {"serving_default": {"same_as": DEFAULT}}
    for name, signature in signatures.items():
        outputs = graphs[name].get_concrete_function().structured_outputs
        described[name] = {
            "description": signature.description,
            "inputs": {key: _describe_tensor(spec) for key, spec in signature.inputs.items()},
            "outputs": {key: _describe_tensor(outputs[key]) for key in sorted(outputs)},
        }
    return described


def _describe_tensor(tensor) -> dict:
    shape = [-1 if size is None else size for size in tensor.shape]
    return {"dtype": tensor.dtype.name, "shape": shape}


def _check_path(path) -> Path:
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel is exported on the TensorFlow backend; KERAS_BACKEND is "
            f"{keras.backend.backend()!r}. Save the model, and load it with TensorFlow."
        )
    path = Path(path)
    if not path.name.isdecimal():
        raise ValueError(
            f"`path`={str(path)!r} must end in a version, a number: TensorFlow Serving takes "
            f"{str(path / '1')!r}."
        )
    if path.exists():
        raise ValueError(
            f"`path`={str(path)!r} exists already: versions are never changed. Write a new one, "
            f"e.g. {str(path.parent / str(int(path.name) + 1))!r}."
        )
    return path


def _write_saved_model(lm, signatures, options, path) -> dict:
    archive = keras.export.ExportArchive()
    archive.track(lm)
    # Its model file would otherwise be left out.
    archive.track(signatures.tokenizer)
    wrap = {}
    if options.dtype == "bfloat16":
        stored = _StoredWeights(lm)
        archive.track(stored)
        wrap = {"wrap": stored.using}
    # Traced once each, which is what takes time here.
    graphs = {name: one.compiled(**wrap) for name, one in signatures.all().items()}
    for name, graph in graphs.items():
        archive.add_endpoint(name, graph)
    archive.add_endpoint("serving_default", graphs[DEFAULT])
    archive.write_out(str(path), verbose=False)
    return graphs


class _StoredWeights(tf.Module):
    """A model's weights in half as many bytes, turned back where they are used."""

    def __init__(self, lm):
        super().__init__()
        self._variables = lm.variables
        self.halves = [
            tf.Variable(tf.cast(v.value, tf.bfloat16), trainable=False)
            for v in self._variables
            if keras.backend.is_float_dtype(v.dtype)
        ]

    def using(self, function):
        """The function, computed with the stored weights."""
        floats = [v for v in self._variables if keras.backend.is_float_dtype(v.dtype)]

        def wrapped(inputs):
            values = [
                (variable, tf.cast(half, variable.dtype))
                for variable, half in zip(floats, self.halves, strict=True)
            ]
            with keras.StatelessScope(state_mapping=values):
                return function(inputs)

        return wrapped


def _about(lm, options, path, about) -> dict:
    state = lm.initial_state(1)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "fwl_keras": fwl_keras.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
        **about,
        "parameters": int(lm.count_params()),
        "weights_dtype": options.dtype,
        "context_length": lm.context_length,
        "caps": {
            "max_tokens": options.max_tokens,
            "max_bytes": options.max_bytes,
            "max_new_tokens": options.max_new_tokens,
        },
        "state_bytes_per_row": sum(
            int(tf.size(value)) * value.dtype.size for value in state.values()
        ),
        "bytes": size,
    }


def _write_json(path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _sync(directory) -> None:
    """Wait until all of a directory is on disk."""
    for path in (*directory.rglob("*"), directory):
        if path.is_dir():
            _sync_directory(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _sync_directory(path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
