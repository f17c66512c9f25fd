"""Files and directories that are written whole, or not at all."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# A file on its way to its place; after a kill it may be left.
BESIDE = ".new-"

# Errors of a system that cannot set space aside; None: Python knows no function for it there.
_CANNOT = (None, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)

# Bytes written at once to see whether there is room for them.
_BLOCK = 1 << 20


def check_new(path: str | Path, remedy: str = "give another directory") -> None:
    """Raise a ValueError unless there is nothing at `path`, or an empty directory.

    Args:
        path: where a directory is to be made.
        remedy: what to do if there is something, as the end of a sentence.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        problem = "is a file"
    elif path.exists() and any(path.iterdir()):
        problem = "is not empty"
    else:
        return
    raise ValueError(f"{str(path)!r} {problem}; {remedy}.")


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """Make a directory with all that it is to hold, or nothing at all.

    Args:
        path: a directory that does not exist or is empty.

    Yields:
        A directory to write to, which is at `path`, and on disk, once the block has ended without
        an error. Its name beside `path` begins with a point.

    Raises:
        ValueError: if there is something at `path` already.
    """
    check_new(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`, whose directories are for their owner alone, whatever the user's mask.
    beside = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    beside.mkdir()
    try:
        yield beside
        for written in (*beside.rglob("*"), beside):
            _sync(written)
        check_new(path)  # another process may have been faster
        if path.exists():
            path.rmdir()  # empty, and not every system renames onto a directory
        os.rename(beside, path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def replace_file(
    path: str | Path,
    write: Callable[[Path], object],
    before: Callable[[Path], object] | None = None,
    *,
    size: int = 0,
) -> None:
    """Write a file beside its place and move it there, so that it is old or new, never half.

    Args:
        path: the file, in an existing directory.
        write: called with the path to write to, which has `path`'s suffixes.
        before: called with that path when all of it is on disk, right before it is moved.
        size: bytes that must be free before `write` is called: HDF5 takes the whole process down
            when it comes to the end of the disk.

    Raises:
        OSError: if it cannot be written; nothing has changed then.
    """
    path = Path(path)
    # Two processes, or two threads, may write the same file.
    beside = path.with_name(f"{BESIDE}{secrets.token_hex(4)}-{path.name}")
    try:
        with disk_errors(path):
            _reserve(beside, size)
            write(beside)
            _sync(beside)
        if before is not None:
            before(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Make an OSError, with the file's name, of what libraries say about the disk.

    HDF5 and TensorFlow have errors of their own for a disk that is full.

    Args:
        path: the file that is written.

    Yields:
        Nothing.

    Raises:
        OSError: in the place of such an error.
    """
    try:
        yield
    except Exception as error:
        code, name = getattr(error, "errno", None), getattr(error, "filename", None)
        number = re.search(r"errno = (\d+)", str(error))
        if code is None and number is not None:
            code = int(number[1])
        if code is None and os.strerror(errno.ENOSPC) in str(error):
            code = errno.ENOSPC
        # An error about another file says so already.
        if code is None or (name is not None and not Path(name).name.startswith(BESIDE)):
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _reserve(path: Path, size: int) -> None:
    """Raise an OSError unless a file of so many bytes can be written; quotas count, too."""
    if not size:
        return
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:
            # Not every system or file system can do that.
            if getattr(error, "errno", None) not in _CANNOT:
                raise
            for start in range(0, size, _BLOCK):
                file.write(bytes(min(_BLOCK, size - start)))
    path.unlink()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk."""
    is_directory = path.is_dir()
    if is_directory and os.name == "nt":
        return  # Windows opens no directories
    handle = os.open(path, os.O_RDONLY if is_directory else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
