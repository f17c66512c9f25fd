"""What a run's files must be: checksums, and copies of the small ones."""

import base64
import dataclasses
import hashlib
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from fwl_keras.runs.reason import reason

# Of a file that is replaced again and again the last checksums are valid. The new one is written
# before the file is moved to its place: a kill between the two leaves the old file, known as well.
_REMEMBERED = 8


@dataclass
class Checksums:
    """What `checksums.json` holds.

    Attributes:
        config: the values of `config.json`, empty if not known.
        corpus: the values of `corpus.json`, empty if not known.
        files: by a file's name the SHA-256 that it may have, as hexadecimal digits, the latest
            first. Files that are not in it are taken as they are.
        tokenizer: a copy of `tokenizer.model`, see `packed`; empty if there is none.

    Example:
        >>> Checksums(files={"tokenizer.model": [sha256(path)]})
    """

    config: dict = field(default_factory=dict)
    corpus: dict = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    tokenizer: str = ""

    @classmethod
    def load(cls, path: Path) -> "Checksums":
        """Read what `to_json` wrote; nothing where there is no file, as in older runs.

        Args:
            path: a file.

        Returns:
            The checksums.

        Raises:
            ValueError: if the file is damaged.
        """
        try:
            values = json.loads(path.read_text("utf-8"))
            own = values.pop("sha256")
            sums = cls(**values)
            if own != sums._own():
                raise ValueError("Its own checksum is another.")
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"`{path}` is damaged ({reason(error)}); remove it, and the run's other files are "
                "taken as they are."
            ) from error
        return sums

    def to_json(self) -> str:
        """Return all of it as JSON, with a checksum of its own."""
        return json.dumps({**dataclasses.asdict(self), "sha256": self._own()}, indent=2) + "\n"

    def add(self, name: str, digest: str) -> None:
        """Make another checksum valid for a file, besides the last ones.

        Args:
            name: the file's name.
            digest: its SHA-256.
        """
        self.files[name] = [digest, *self.files.get(name, [])][:_REMEMBERED]

    def damage(self, path: Path, name: str | None = None) -> str | None:
        """Say what is wrong with a file.

        Args:
            path: the file.
            name: under which name its checksum is; None for its own.

        Returns:
            The end of a sentence about the file; None if it is what was written.
        """
        if not path.exists():
            return "is missing"
        if not path.is_file():
            return "is not a file"
        if not path.stat().st_size:
            return "is empty"
        known = self.files.get(name or path.name)
        if known and sha256(path) not in known:
            return "is damaged: it is not what the run wrote, as its checksum shows"
        return None

    def _own(self) -> str:
        return hashlib.sha256(
            json.dumps(dataclasses.asdict(self), sort_keys=True).encode()
        ).hexdigest()


def packed(data: bytes) -> str:
    """Return bytes as a string for JSON.

    Args:
        data: any bytes.
    """
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def unpacked(text: str) -> bytes:
    """Return the bytes that `packed` was given.

    Args:
        text: what it returned.
    """
    return zlib.decompress(base64.b64decode(text))


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
