"""A `.keras` file with a language model, checked before Keras opens it."""

import json
import zipfile
from pathlib import Path, PurePosixPath

from fwl_keras.saving.check_config import check_config
from fwl_keras.saving.check_weights_file import check_weights_file
from fwl_keras.saving.saved_classes import registered_name

_MODELS = tuple(registered_name(name) for name in ("FWLCausalLM", "KerasHubFWLCausalLM"))

_WEIGHTS = "model.weights.h5"
# A tokeniser is in it, some megabytes at most.
_LONGEST_CONFIG = 1 << 28


def check_model_file(path: str | Path) -> None:
    """Refuse a `.keras` file that is not a language model of this package, or not a safe one.

    Args:
        path: a `.keras` file.

    Raises:
        ValueError: if it is another model, names what `check_config` refuses, has weights that
            `check_weights_file` refuses, or a file in it that would be unpacked elsewhere.
        OSError: if it cannot be read.
        zipfile.BadZipFile: if it is not a whole archive.

    Example:
        >>> check_model_file("runs/my_book/model.keras")
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts:
                raise ValueError(
                    f"The file {name!r} in it would be unpacked elsewhere; do not load it."
                )
        if "config.json" not in archive.namelist():
            raise ValueError("The archive has no `config.json`; give one that Keras has saved.")
        if archive.getinfo("config.json").file_size > _LONGEST_CONFIG:
            raise ValueError(f"The `config.json` in it is longer than {_LONGEST_CONFIG:,} bytes.")
        try:
            config = json.loads(archive.read("config.json"))
        except RecursionError as error:
            raise ValueError("The `config.json` in it is nested too deeply to be read.") from error
        if _WEIGHTS in archive.namelist():
            with archive.open(_WEIGHTS) as file:
                check_weights_file(file)
    registered = config.get("registered_name") if isinstance(config, dict) else None
    if registered not in _MODELS:
        raise ValueError(f"The archive has a {registered!r}, not one of {', '.join(_MODELS)}.")
    check_config(config)
