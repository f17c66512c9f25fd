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


def main(folder, count):
    """Kill a number of exports, then write one more."""
    begin = time.monotonic()
    _, code = os.waitpid(write(folder / "1"), 0)
    duration = time.monotonic() - begin
    random.seed(0)
    # Evenly over all of it; every fourth near the end, where the directory gets its name.
    moments = [duration * (i + random.random()) / count for i in range(count)]
    moments[::4] = [duration * random.uniform(0.85, 1.05) for _ in moments[::4]]
    killed = 0
    for number, moment in enumerate(moments, 2):
        child = write(folder / str(number))
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
    _, last = os.waitpid(write(folder / str(count + 2)), 0)
    print(json.dumps({"codes": [code, last], "killed": killed, "seconds": duration}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
