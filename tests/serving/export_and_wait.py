"""A process whose exports are killed, for test_export_killed.py; prints JSON.

Imports once, then every export has a process of its own, forked before TensorFlow has started
any thread.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from served_models import OPTIONS, served_model

from fwl_keras.serving import export


def write(path):
    """Export two signatures, in a process of its own; return its number."""
    child = os.fork()
    if not child:
        code = 1
        try:
            whole = export.Signatures.all
            names = ("score", "tokenize")
            export.Signatures.all = lambda self: {name: whole(self)[name] for name in names}
            # Fast weights take long to trace, and it is the writing that is to be hit.
            lm = served_model("recurrent", use_fast_weights=False)
            export.export_model(lm, path, OPTIONS)
            code = 0
        finally:
            os._exit(code)
    return child


def beside(path):
    """Return how many files an export has written that has no name yet."""
    found = path.parent.glob(f".{path.name}.*")
    # Unlike `rglob`, this takes it that directories go while it looks.
    return sum(len(files) for one in found for _, _, files in os.walk(one))


def main(folder, count):
    """Kill a number of exports, then write one more."""
    _, code = os.waitpid(write(folder / "1"), 0)
    files = sum(1 for one in (folder / "1").rglob("*") if one.is_file())
    random.seed(0)
    killed = 0
    for number in range(2, count + 2):
        path = folder / str(number)
        child = write(path)
        # By what is written, not by the clock: machines are fast and slow. Evenly over the files,
        # every fourth near the end, where the directory gets its name.
        wanted, pause = (number - 2) * files // count, 0.01
        if number % 4 == 0:
            wanted, pause = files, 0.1
        ended = 0
        while not ended and beside(path) < wanted:
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(random.uniform(0, pause))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
    _, last = os.waitpid(write(folder / str(count + 2)), 0)
    print(json.dumps({"codes": [code, last], "killed": killed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
