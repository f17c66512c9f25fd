"""Writing a model for TensorFlow Serving."""

import datetime
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from fwl_keras._version import __version__
from fwl_keras.files import new_directory
from fwl_keras.serving.options import ServingOptions
from fwl_keras.serving.signatures import Signature, Signatures
from fwl_keras.serving.warmup import sample_requests, write_requests

if TYPE_CHECKING:
    from rich.progress import Progress

DEFAULT = "score"
ABOUT = "fwl_keras.json"
# The server that exports are made for.
SERVER_IMAGE = "tensorflow/serving:2.20.0"


def export_model(
    lm,
    path: str | Path,
    options: ServingOptions | None = None,
    *,
    about: dict | None = None,
    progress: bool = False,
) -> Path:
    """Write a version directory: a SavedModel with all signatures, whole or not at all.

    Args:
        lm: FWLCausalLM with a SentencePiece preprocessor.
        path: the version directory, its name a number, as `models/my_lm/1`.
        options: caps and dtype.
        about: more entries for `fwl_keras.json`, e.g. the corpus.
        progress: whether to draw a progress bar.

    Returns:
        The directory.

    Raises:
        ValueError: if the directory exists or is not named by a number, or the model cannot take
            text, or the backend is not TensorFlow.

    Example:
        >>> export_model(lm, "models/my_lm/1")
    """
    options = options or ServingOptions()
    path = check_version_path(path)
    # Meanwhile its name is no number: a server that polls sees nothing of it.
    with new_directory(path) as beside:
        wrap = {}
        if options.dtype == "bfloat16":
            wrap = {"wrap": _StoredWeights(lm).using}
        signatures = Signatures(lm, options, **wrap)
        with _progress(progress) as bar:
            graphs = _write_saved_model(lm, signatures, beside, bar)
        _write_json(beside / "signatures.json", _describe(signatures.all(), graphs))
        requests = sample_requests(lm, signatures.all())
        requests["serving_default"] = requests[DEFAULT]
        warm = write_requests(beside, requests, path.absolute().parent.name)
        about = {**(about or {}), "warmup_requests": len(requests) if warm else 0}
        _write_json(beside / ABOUT, _about(lm, options, beside, about))
    return path


def _describe(signatures: dict[str, Signature], graphs: dict) -> dict:
    """Return names, dtypes and shapes of all inputs and outputs, -1 for any number."""
    described: dict[str, dict] = {"serving_default": {"same_as": DEFAULT}}
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


def serve_command(path: str | Path) -> str:
    """Return the command that serves a version directory on this machine, REST on port 8501."""
    model = Path(path).absolute().parent
    volume = shlex.quote(f"{model}:/models/{model.name}:ro")
    name = shlex.quote(f"MODEL_NAME={model.name}")
    return f"docker run --rm -p 8501:8501 -v {volume} -e {name} {SERVER_IMAGE}"


def check_version_path(path: str | Path) -> Path:
    """Return the path of a version if it can be written.

    Args:
        path: the version directory.

    Raises:
        ValueError: if `export_model` would refuse the path or the backend.
    """
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


def _progress(shown) -> "Progress":
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, transient=True, disable=not shown)


def _write_saved_model(lm, signatures, path, bar) -> dict:
    if lm.body.keeps_context:
        # What a body makes on its first use, variables too, must not be made inside a graph.
        lm.body.initial_context(1, 1)
    archive = keras.export.ExportArchive()
    # Its model file would otherwise be left out. Variables that the graphs use are found by
    # themselves; tracking the model would write every weight a second time.
    archive.track(signatures.tokenizer)
    graphs = {}
    # Tracing is what takes time here.
    for name, signature in bar.track(signatures.all().items(), description="Tracing"):
        graphs[name] = signature.compiled()
        archive.add_endpoint(name, graphs[name])
    archive.add_endpoint("serving_default", graphs[DEFAULT])
    bar.add_task("Writing", total=None)
    # Nobody trains a served model.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    archive.write_out(str(path), options=options, verbose=False)
    return graphs


class _StoredWeights(tf.Module):
    """A model's weights in half as many bytes, turned back where they are used."""

    def __init__(self, lm):
        super().__init__()
        self._floats = [v for v in lm.variables if keras.backend.is_float_dtype(v.dtype)]
        self.halves = [
            tf.Variable(tf.cast(v.value, tf.bfloat16), trainable=False) for v in self._floats
        ]

    def using(self, function):
        """Return the function, computed with the stored weights."""

        def wrapped(*inputs):
            values = [
                (variable, tf.cast(half, variable.dtype))
                for variable, half in zip(self._floats, self.halves, strict=True)
            ]
            with keras.StatelessScope(state_mapping=values):
                return function(*inputs)

        return wrapped


def _about(lm, options, path, about) -> dict:
    state = lm.initial_state(1)
    sizes = {"weights": 0, "graph": 0, "assets": 0}
    for file in (file for file in path.rglob("*") if file.is_file()):
        place = {"variables": "weights", "saved_model.pb": "graph"}
        sizes[place.get(file.relative_to(path).parts[0], "assets")] += file.stat().st_size
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "fwl_keras": __version__,
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
        "bytes": {**sizes, "total": sum(sizes.values())},
    }


def _write_json(path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
