"""Check an exported model without the package that wrote it, for test_loading.py.

    python tests/serving/verify.py models/my_lm/1

Needs only `tensorflow` and `tensorflow-text`. Every signature is asked the same in each way that
there is to load a SavedModel: `tf.saved_model.load`, a session of TensorFlow 1, the C runtime
that TensorFlow Serving is built on (in a process that imports no TensorFlow), and
`saved_model_cli`. Prints which of them ran which signatures, and the largest difference from the
first; ends with 1 if any failed or differs by more than 1e-4.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

# The operations of TensorFlow Text that TensorFlow Serving has built in and a model may use.
SERVED_OPERATIONS = {
    "SentencepieceOp",
    "SentencepieceTokenizeOp",
    "SentencepieceDetokenizeOp",
}
TEXTS = ["def main():\n    return", "The quick brown fox", "x"]
TOLERANCE = 1e-4


def main() -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, help="version directory, e.g. models/my_lm/1")
    parser.add_argument("--json", type=Path, help="write the results to a file, too")
    parser.add_argument("--c-runtime", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.c_runtime:
        return run_in_c(arguments.path, arguments.c_runtime)

    inside = [name for name in ("fwl_keras", "keras_hub") if _can_import(name)]
    print(f"can be imported here of the model's own packages: {', '.join(inside) or 'none'}")
    foreign = foreign_operations(arguments.path)
    print(f"operations that are not TensorFlow's own: {', '.join(sorted(foreign))}")

    asked, expected = load_and_ask(arguments.path)
    loaders = {
        "TensorFlow 1 session": session_answers,
        "C runtime": c_answers,
        "saved_model_cli": command_answers,
    }
    rows = [("tf.saved_model.load", len(expected), 0.0, "")]
    for name, ask in loaders.items():
        try:
            answers = ask(arguments.path, asked)
            rows.append((name, len(answers), largest_difference(expected, answers), ""))
        except Exception as error:
            rows.append((name, 0, float("nan"), f"{type(error).__name__}: {str(error)[:300]}"))
    print(f"\n{'loader':<22}{'signatures':>10}  {'largest difference':>18}")
    for name, count, difference, error in rows:
        print(f"{name:<22}{count:>10}  {difference:>18.2e}  {error}")
    fine = all(count and difference <= TOLERANCE for _, count, difference, _ in rows)
    fine = fine and foreign <= SERVED_OPERATIONS
    if arguments.json:
        keys = ("loader", "signatures", "largest_difference", "error")
        results = [dict(zip(keys, row, strict=True)) for row in rows]
        content = {"fine": fine, "foreign_operations": sorted(foreign), "loaders": results}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    print("\nfine" if fine else "\nNOT FINE")
    return 0 if fine else 1


def _can_import(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def meta_graph(path: Path):
    """The MetaGraphDef that a server loads."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString((path / "saved_model.pb").read_bytes())
    (found,) = (one for one in model.meta_graphs if "serve" in one.meta_info_def.tags)
    return found


def foreign_operations(path: Path) -> set[str]:
    """Operations of a SavedModel that TensorFlow has only if another library brings them."""
    code = (
        "import json, sys; from tensorflow.python.framework import op_def_registry as ops; "
        "print(json.dumps([n for n in json.load(sys.stdin) if ops.get(n) is None]))"
    )
    graph = meta_graph(path).graph_def
    used = {node.op for node in graph.node}
    functions = {function.signature.name for function in graph.library.function}
    used |= {node.op for function in graph.library.function for node in function.node_def}
    # In a process where nothing has loaded any.
    result = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(sorted(used - functions)),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def load_and_ask(path: Path) -> tuple[dict, dict]:
    """What each signature is asked, and what it answers by `tf.saved_model.load`."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    model = tf.saved_model.load(str(path))
    asked, expected = {}, {}

    def ask(name, inputs):
        specs = model.signatures[name].structured_input_signature[1]
        asked[name] = {
            key: np.array(inputs[key], object if spec.dtype == tf.string else spec.dtype.name)
            for key, spec in specs.items()
        }
        outputs = model.signatures[name](**{k: tf.constant(v) for k, v in asked[name].items()})
        expected[name] = {key: value.numpy() for key, value in outputs.items()}
        return expected[name]

    rows = len(TEXTS)
    texts = {"text": [text.encode() for text in TEXTS]}
    writing = {
        "max_new_tokens": range(4, 4 + rows),
        "temperature": [0.0] * rows,
        "top_k": [0] * rows,
        "top_p": [1.0] * rows,
        "seed": range(rows),
    }
    ids = ask("tokenize", texts)
    state = ask("initial_state", texts)
    for name in ("serving_default", "score", "score_tokens", "generate", "detokenize"):
        ask(name, {**texts, **writing, **ids})
    state = ask("read", {**texts, **state})
    ask("score_from", {**texts, **state})
    ask("generate_from", {**texts, **writing, **state})
    return asked, expected


def _tensors(path):
    """Tensor names of the signatures' inputs and outputs."""
    return {
        name: (
            {key: one.name for key, one in signature.inputs.items()},
            {key: one.name for key, one in signature.outputs.items()},
        )
        for name, signature in meta_graph(path).signature_def.items()
        if not name.startswith("__")
    }


def session_answers(path: Path, asked: dict) -> dict:
    """Answers of a session of TensorFlow 1."""
    import tensorflow as tf

    answers = {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        for name, (inputs, outputs) in _tensors(path).items():
            feeds = {inputs[key]: value for key, value in asked[name].items()}
            answers[name] = session.run(outputs, feeds)
    return answers


def c_answers(path: Path, asked: dict) -> dict:
    """Answers of the C runtime, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "requests"
        tensors = _tensors(path)
        # Between two processes of this program, nothing else.
        place.write_bytes(pickle.dumps((asked, tensors)))
        result = subprocess.run(
            [sys.executable, __file__, str(path), "--c-runtime", str(place)],
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise RuntimeError(result.stderr.strip()[-300:] or f"ended with {result.returncode}")
        return pickle.loads(place.read_bytes())


def run_in_c(path: Path, place: Path, config: bytes = b"") -> int:
    """The other process of `c_answers`."""
    from c_runtime import CModel

    asked, tensors = pickle.loads(place.read_bytes())
    model = CModel(path, config)
    answers = {}
    for name, (inputs, outputs) in tensors.items():
        feeds = {inputs[key]: value for key, value in asked[name].items()}
        answers[name] = dict(zip(outputs, model(feeds, list(outputs.values())), strict=True))
    if "tensorflow" in sys.modules:
        raise RuntimeError("TensorFlow's Python has been imported.")
    place.write_bytes(pickle.dumps(answers))
    return 0


def command_answers(path: Path, asked: dict) -> dict:
    """Answers of `saved_model_cli`, which lists all signatures; one is run."""
    # The command itself does not know TensorFlow Text's operations.
    start = "import tensorflow_text; from tensorflow.python.tools import saved_model_cli as c; "
    command = [sys.executable, "-c", start + "c.main()"]
    shown = subprocess.run(
        [*command, "show", "--dir", path, "--all"], capture_output=True, text=True, check=True
    ).stdout
    missing = [name for name in asked if f"signature_def['{name}']" not in shown]
    if missing:
        raise RuntimeError(f"`saved_model_cli show` does not list {missing}.")
    answers = {}
    for name in ("score",):
        with tempfile.TemporaryDirectory() as folder:
            expression = f"text={[text.decode() for text in asked[name]['text']]!r}"
            options = ["--tag_set", "serve", "--signature_def", name, "--outdir", folder]
            subprocess.run(
                [*command, "run", "--dir", path, *options, "--input_exprs", expression],
                capture_output=True,
                text=True,
                check=True,
            )
            answers[name] = {
                file.stem: np.load(file, allow_pickle=True) for file in Path(folder).glob("*.npy")
            }
    return answers


def largest_difference(expected: dict, answers: dict) -> float:
    """Between numbers; infinite if anything else differs."""
    largest = 0.0
    for name, outputs in answers.items():
        if set(outputs) != set(expected[name]):
            return float("inf")
        for key, wanted in expected[name].items():
            found = outputs[key]
            if found.shape != wanted.shape:
                return float("inf")
            if wanted.dtype.kind == "f":
                largest = max(largest, float(np.max(np.abs(found - wanted), initial=0)))
            elif not np.array_equal(found, wanted):
                return float("inf")
    return largest


if __name__ == "__main__":
    sys.exit(main())
