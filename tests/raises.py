"""Which `raise` statements of the package no test has reached.

    FWL_RAISES=/tmp/raised pytest            # records them, in workers and child processes too
    python tests/raises.py --check /tmp/raised
    python tests/raises.py --list            # all that are looked for

`tests/conftest.py` calls `record` before anything of the package is imported; child processes are
reached by a `sitecustomize` module that is put on their PYTHONPATH. Every process appends to a
file of its own. What is looked for is read from the code: every `raise` of an error with a message,
and every call of a check that many functions share (`require_...`), which must have failed there.
"""

import argparse
import ast
import atexit
import hashlib
import importlib.abc
import importlib.machinery
import marshal
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "fwl_keras"
VARIABLE = "FWL_RAISES"
# Called before a `raise`; a name that no module has.
MARK = "_fwl_raises_mark"
SITECUSTOMIZE = """\
import importlib.util

spec = importlib.util.spec_from_file_location("fwl_raises", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.record()
"""

# How the names of shared checks begin.
CHECKS = ("require_",)

# Part of a file's path, part of the statement: why no test of the default suite can reach it.
UNREACHED = {
    ("backbones/encoder_block_backbone.py", ""): "needs the Model Garden, which has an own suite",
    ("backbones/transformer_xl_backbone.py", ""): "needs the Model Garden, which has an own suite",
    ("backbones/model_garden_layers.py", ""): "only without the Model Garden's package",
    ("backbones/keras2.py", ""): "only without Keras 2, or on a backend other than TensorFlow",
    ("backbones/keras2_layer.py", ""): "needs the Model Garden, which has an own suite",
    ("backbones/keras2_config.py", ""): "needs the Model Garden, which has an own suite",
    ("models/keras_hub_stand_in.py", ""): "only with a KerasHub that cannot be imported",
    ("data/wikitext.py", ""): "needs the network, or a damaged download",
    ("data/python_stdlib.py", ""): "only where Python comes without its library's source",
    ("backend/dispatch.py", ""): "only on a backend that the block has refused before",
    ("serving/export.py", "on the TensorFlow backend"): "the model's own `export` refuses before",
    ("serving/transports.py", "ImportError"): "only without tensorflow-serving-api",
}


def is_raise(node: ast.AST) -> bool:
    """Whether a statement makes an error with a message."""
    return isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and bool(node.exc.args)


def is_check(node: ast.AST) -> bool:
    """Whether a statement is a call of a check that raises an error."""
    call = node.value if isinstance(node, ast.Expr) else None
    name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
    return name.startswith(CHECKS)


def raises(source: str) -> dict[int, str]:
    """What is looked for in a file, by line."""
    nodes = ast.walk(ast.parse(source))
    return {node.lineno: ast.unparse(node) for node in nodes if is_raise(node) or is_check(node)}


def record() -> None:
    """Note every such statement that this process executes, if the environment asks for it."""
    directory = os.environ.get(VARIABLE)
    if not directory or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    loaded = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    if loaded:
        raise RuntimeError(f"{loaded[0]} was imported before its statements could be marked.")
    directory = Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    hook = directory / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(SITECUSTOMIZE.format(path=str(Path(__file__).resolve())))
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(hook) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(hook), *filter(None, paths)])
    code = directory / "code"
    code.mkdir(exist_ok=True)
    sys.meta_path.insert(0, _Finder(_Log(directory), code))


class _Log:
    """Appends lines `path:line` to a file of this process, each once."""

    def __init__(self, directory: Path):
        self._directory, self._seen, self._process = directory, set(), os.getpid()
        self._file = None
        atexit.register(self._close)

    def __call__(self, place: str) -> None:
        if self._process != os.getpid():  # a fork
            self._seen, self._process, self._file = set(), os.getpid(), None
        if place in self._seen:
            return
        self._seen.add(place)
        if self._file is None:
            path = self._directory / f"{os.getpid()}.txt"
            self._file = path.open("a", buffering=1, encoding="utf-8")
        self._file.write(place + "\n")

    def _close(self):
        if self._file is not None:
            self._file.close()


class _Finder(importlib.abc.MetaPathFinder):
    """Loads the package's modules with a mark before each statement."""

    def __init__(self, log: _Log, code: Path):
        self._log, self._code = log, code

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] != PACKAGE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path, self._log, self._code)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module once for all processes, as what its source and this file say."""

    def __init__(self, name, path, log, code):
        super().__init__(name, path)
        self._log, self._code = log, code

    def get_code(self, fullname):
        # Never what Python has compiled and cached, nor into its cache.
        source = self.get_data(self.path)
        named = "\0".join([sys.implementation.cache_tag, str(sys.flags.optimize), self.path])
        digest = hashlib.sha256(b"\0".join([named.encode(), self.get_data(__file__), source]))
        cached = self._code / digest.hexdigest()
        if cached.exists():
            return marshal.loads(cached.read_bytes())
        code = self.source_to_code(source, self.path)
        beside = cached.with_suffix(f".{os.getpid()}")
        beside.write_bytes(marshal.dumps(code))
        beside.replace(cached)
        return code

    def source_to_code(self, data, path, *, _optimize=-1):
        tree = ast.parse(data, path)
        tree = ast.fix_missing_locations(_Marks(_relative(path)).visit(tree))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def exec_module(self, module):
        setattr(module, MARK, self._log)
        super().exec_module(module)


class _Marks(ast.NodeTransformer):
    def __init__(self, path):
        self._path = path

    def visit_Raise(self, node):
        return [self._mark(node), node] if is_raise(node) else node

    def visit_Expr(self, node):
        if not is_check(node):
            return node
        failed = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [self._mark(node)])
        failed.body.append(ast.Raise())
        return ast.copy_location(ast.Try([node], [failed], [], []), node)

    def _mark(self, node):
        place = ast.Constant(f"{self._path}:{node.lineno}")
        call = ast.Expr(ast.Call(ast.Name(MARK, ast.Load()), [place], []))
        return ast.copy_location(call, node)


def _relative(path) -> str:
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def wanted() -> Iterator[tuple[str, int, str]]:
    """File, line and statement of everything that is looked for."""
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        for line, text in sorted(raises(path.read_text("utf-8")).items()):
            yield _relative(path), line, text


def reason(path: str, text: str) -> str | None:
    """Why a statement need not be reached, or None."""
    for (place, part), why in UNREACHED.items():
        if place in path and part in text:
            return why
    return None


def missing(directory: Path) -> list[str]:
    """Lines `file:line: statement` of what no test has reached and has no reason not to be."""
    seen = {place for file in directory.glob("*.txt") for place in file.read_text().splitlines()}
    return [
        f"{path}:{line}: {text}"
        for path, line, text in wanted()
        if f"{path}:{line}" not in seen and reason(path, text) is None
    ]


def main() -> None:
    """List the statements, or check what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--check", type=Path, metavar="DIRECTORY", help="what FWL_RAISES named")
    group.add_argument("--list", action="store_true", help="list all statements")
    args = parser.parse_args()
    if args.list:
        for path, line, text in wanted():
            print(f"{path}:{line}: {text}" + (f"  # {why}" if (why := reason(path, text)) else ""))
        return
    if not any(args.check.glob("*.txt")):
        raise SystemExit(f"{args.check} holds no record: run pytest with {VARIABLE}={args.check}.")
    lines = missing(args.check)
    print(*lines, sep="\n")
    if lines:
        raise SystemExit(f"{len(lines)} errors that no test has seen; see above.")
    print("Every error that the package raises with a message was seen by a test.")


if __name__ == "__main__":
    main()
