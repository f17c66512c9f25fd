"""Faults of a run's files, and a run trained by a process that can be killed."""

import multiprocessing
import shutil
import time
from pathlib import Path

from fwl_keras.runs import RunConfig

# Forks of a process that has imported everything and computed nothing yet: they begin at once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["fwl_keras.runs.train"])


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def another_kind(path):
    path.unlink()
    path.mkdir()


def another_content(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))


def removed(path):
    path.unlink()


DAMAGES = (cut, emptied, flipped, another_kind, another_content, removed)


def train_in_process(path: Path, config: RunConfig, training) -> multiprocessing.Process:
    """Begins the run, or goes on with it, in a process of its own.

    Args:
        path: The run's directory.
        config: Its configuration.
        training: An event that is set when the first step of this process is done.
    """
    process = PROCESSES.Process(target=_train, args=(path, config, training))
    process.start()
    return process


def _train(path, config, training):
    # On one thread sums are in one order: bit for bit the same whenever they are computed.
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # A kill is to hit training, not the tracing of its graph.
    tf.config.run_functions_eagerly(True)
    from fwl_keras.runs import callbacks
    from fwl_keras.runs.train import resume_run, start_run

    end = callbacks.FollowSchedule.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        training.set()
        end(self, batch, logs)

    callbacks.FollowSchedule.on_train_batch_end = on_train_batch_end
    if path.exists():
        resume_run(path)
    else:
        start_run(path, config, steps_given=True)


def kill(process, seconds):
    """Kills a process after some seconds, if it has not ended."""
    time.sleep(seconds)
    process.kill()
    process.join()


def copy(directory: Path, to: Path) -> Path:
    return Path(shutil.copytree(directory, to))
