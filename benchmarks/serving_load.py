"""Many requests at once to one exported model in this process: errors, times, memory.

    python benchmarks/serving_load.py models/my_lm/1 --requests 2000 --threads 8

Needs only `tensorflow` and `tensorflow-text`. For a server over the network see `export/`.
"""

import argparse
import json
import os
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

WORDS = ("def", "main(", "x):", "return", "the", "quick", "brown fox", "[0]", "\n", "über", "jumps")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, help="version directory")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--words", type=int, default=20, help="of a text at most")
    parser.add_argument("--json", type=Path, help="write the results to a file, too")
    arguments = parser.parse_args()

    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    model = tf.saved_model.load(str(arguments.path))
    found = load(model, arguments.requests, arguments.threads, arguments.words)
    print(f"{found['requests']} requests by {found['threads']} threads in {found['seconds']:.1f} s")
    print(f"errors: {len(found['errors'])} {found['errors'][:3]}")
    print("memory in MB after each tenth of the requests:", *found["memory_mb"])
    print(
        f"\n{'signature':<16}{'requests':>9}" + "".join(f"{f'p{p} ms':>10}" for p in (50, 90, 99))
    )
    for name, one in found["milliseconds"].items():
        numbers = "".join(f"{one[f'p{p}']:>10.1f}" for p in (50, 90, 99))
        print(f"{name:<16}{one['requests']:>9}{numbers}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


def load(model, requests, threads, words, seed=0):
    """Ask a model at random from several threads.

    Returns:
        Dict of `errors`, `memory_mb` after each tenth of the requests (the first before all),
        `milliseconds` by signature, and so on.
    """
    import tensorflow as tf

    names = [name for name in sorted(model.signatures) if name != "serving_default"]
    state = model.signatures["initial_state"](text=tf.constant(["x"]))
    state = {key: state[key] for key in state if key not in ("status", "message")}
    for name in names:
        model.signatures[name](**inputs_of(model, name, np.random.default_rng(0), words, state))
    times = {name: [] for name in names}
    errors, memory, done = [], [memory_mb()], 0
    lock = threading.Lock()
    turns = iter(range(requests))

    def work():
        nonlocal done
        while True:
            with lock:
                number = next(turns, None)
            if number is None:
                return
            rng = np.random.default_rng([seed, number])
            name = names[number % len(names)]
            inputs = inputs_of(model, name, rng, words, state)
            begin = time.perf_counter()
            try:
                outputs = model.signatures[name](**inputs)
                wrong = [key for key, value in outputs.items() if not is_fine(key, value.numpy())]
            except Exception as error:
                wrong = [f"{type(error).__name__}: {error}"]
            seconds = time.perf_counter() - begin
            with lock:
                times[name].append(1000 * seconds)
                errors.extend(f"{number} {name}: {one}"[:300] for one in wrong)
                done += 1
                if done % max(1, requests // 10) == 0:
                    memory.append(memory_mb())

    begin = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {
        "requests": requests,
        "threads": threads,
        "cores": os.cpu_count(),
        "seconds": round(time.perf_counter() - begin, 2),
        "errors": errors,
        "memory_mb": memory,
        "milliseconds": {
            name: {
                "requests": len(values),
                **{f"p{p}": round(float(np.percentile(values, p)), 2) for p in (50, 90, 99)},
            }
            for name, values in times.items()
            if values
        },
    }


def inputs_of(model, name, rng, words, state):
    """A request of one to three rows."""
    import tensorflow as tf

    rows = int(rng.integers(1, 4))
    texts = [" ".join(rng.choice(WORDS, int(rng.integers(1, words + 1)))) for _ in range(rows)]
    width = int(rng.integers(1, 4 * words))
    values = {
        "text": texts,
        "token_ids": rng.integers(4, 300, (rows, width)),
        "lengths": rng.integers(1, width + 1, rows),
        "max_new_tokens": rng.integers(1, 9, rows),
        "temperature": rng.uniform(0, 1.5, rows),
        "top_k": rng.integers(0, 50, rows),
        "top_p": rng.uniform(0.1, 1, rows),
        "seed": rng.integers(0, 2**32, rows),
        **{key: np.repeat(value, rows, axis=0) for key, value in state.items()},
    }
    specs = model.signatures[name].structured_input_signature[1]
    return {key: tf.constant(values[key], spec.dtype) for key, spec in specs.items()}


def is_fine(key, value):
    """Whether an output is one of a request without anything wrong."""
    if key == "status":
        return not value.any()
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def memory_mb():
    """Memory of this process that is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


if __name__ == "__main__":
    main()
