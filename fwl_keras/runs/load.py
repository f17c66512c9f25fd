"""A finished run's model, ready for text."""

import zipfile
from pathlib import Path

import keras

from fwl_keras.models import FWLCausalLM
from fwl_keras.runs.build_model import text_preprocessor
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.reason import reason
from fwl_keras.saving import check_model_file


def load_run_model(path: str | Path) -> FWLCausalLM:
    """Open a finished run.

    Args:
        path: the run's directory.

    Returns:
        The model, not compiled, with the run's tokeniser as its preprocessor and its windows'
        length as its `context_length`: `read`, `score` and `generate` take texts.

    Raises:
        ValueError: if there is no run, or it is not finished, or its model cannot be read, or is
            not one of this package, or names what `fwl_keras.saving.check_config` refuses.

    Example:
        >>> lm = load_run_model("runs/my_book")
        >>> lm.generate("Once upon", max_length=100)
    """
    run = RunDirectory.open(path)
    run.require_finished()
    problem = run.damage(run.model)
    if problem is not None:
        raise ValueError(
            f"`{run.model}` {problem}; remove it, and `{run.resume_command}` writes it again from "
            f"the last checkpoint (or remove {run.checksums.name} if it is to be so)."
        )
    try:
        check_model_file(run.model)
        lm = keras.saving.load_model(run.model, compile=False)
    except (TypeError, ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`{run.model}` cannot be read: {reason(error)}; use the version of fwl_keras that "
            f"wrote it, or remove it, and `{run.resume_command}` writes it again."
        ) from error
    if lm.preprocessor is None:
        # Runs did not keep their tokeniser in the model from the beginning.
        lm.preprocessor = text_preprocessor(run.read_tokenizer())
    if lm.context_length is None:
        lm.context_length = run.read_config().length
    return lm
