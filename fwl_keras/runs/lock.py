"""One process at a time on a run."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Some network file systems have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def locked(file: Path, message: str) -> Iterator[None]:
    """Hold the operating system's lock on a file, which ends with the process, however it ends.

    Where there are no such locks (Windows, some network file systems), nothing is locked.

    Args:
        file: a file that may be written to and that nobody replaces; it is not changed.
        message: the error's message where another process, or another part of this one, holds it.

    Raises:
        ValueError: if the file is locked.

    Example:
        >>> with locked(Path("run/config.json"), "The run is in use."):
        ...     pass
    """
    with file.open("rb+") as handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(message) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        yield
