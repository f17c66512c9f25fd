"""The README's table of what works with which body: run the tests, and write what they found.

    python tests/support_table.py            # writes the table; about 8 minutes on 2 cores
    python tests/support_table.py --check    # only says whether the README's is still true

Needs the extras `test` and `model-garden`.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TESTS = ROOT / "tests" / "models" / "test_support.py"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX"}
BEGIN, END = "<!-- support: written by tests/support_table.py -->\n", "<!-- end of support -->"
HEADER = """\
| body | backend | training, saving | streaming | cached generation | export |
| --- | --- | --- | --- | --- | --- |
"""


def outcomes(backend: str) -> dict:
    """What each test of each body came to, by body and test, on one backend."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        environment = {**os.environ, "KERAS_BACKEND": backend}
        command = [sys.executable, "-m", "pytest", "-m", "slow or not slow", "-n", "1"]
        command += [f"--junitxml={report}", str(TESTS)]
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    found = {}
    for case in cases:
        test, body = re.fullmatch(r"test_(\w+)\[(.*)\]", case.get("name")).groups()
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        outcome = properties.get("support", "yes")
        if case.find("skipped") is not None:
            outcome = "-"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "FAILED"
        found.setdefault(body, {})[test] = outcome
    return found


def rows(found: dict, backend: str) -> list[str]:
    """The table's lines of one backend; none for bodies that it cannot run."""
    lines = []
    for body, tests in found.items():
        if tests["training"] == "-":
            continue
        basics = {tests["training"], tests["saving"], tests["keras_lists_every_variable"]} - {"-"}
        together = "yes" if basics == {"yes"} else "FAILED"
        cells = [body, BACKENDS[backend], together]
        cells += [tests["streaming"], tests["generation"], tests["export"]]
        lines.append(f"| {' | '.join(cells)} |\n")
    return lines


def main() -> None:
    """Run the tests on both backends; write or check the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    # Two processes, which for most of their time compile on one core each.
    with ThreadPoolExecutor() as pool:
        found = dict(zip(BACKENDS, pool.map(outcomes, BACKENDS), strict=True))
    table = HEADER + "".join(line for backend in BACKENDS for line in rows(found[backend], backend))
    text = README.read_text("utf-8")
    before, rest = text.split(BEGIN)
    written, after = rest.split(END)
    print(table)
    if "FAILED" in table:
        raise SystemExit("Something that the table promises does not work; see above.")
    if args.check:
        if written != table:
            raise SystemExit(f"{README} has another table: run python tests/support_table.py.")
        print(f"The table in {README.name} is what the tests found.")
        return
    beside = README.with_suffix(".new")
    beside.write_text(before + BEGIN + table + END + after, "utf-8")
    beside.replace(README)
    print(f"Wrote the table of {table.count(chr(10)) - 2} rows into {README}.")


if __name__ == "__main__":
    main()
