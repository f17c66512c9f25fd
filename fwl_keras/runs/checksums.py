"""What a run's files must be: checksums, and copies of the small ones."""

import base64
import dataclasses
import hashlib
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

# Of a file that is replaced again and again the last checksums are valid. The new one is written
# before the file is moved to its place: a kill between the two leaves the old file, known as well.
_REMEMBERED = 8


@dataclass
class Checksums:
    """What `checksums.json` holds.

    Attributes:
        config: The values of `config.json`, empty if not known.
        corpus: The values of `corpus.json`, empty if not known.
        files: By a file's name the SHA-256 that it may have, as hexadecimal digits, the latest
            first. Files that are not in it are taken as they are.
        tokenizer: A copy of `tokenizer.model`, see `packed`; empty if there is none.

    Example:
        >>> Checksums(files={"tokenizer.model": [sha256(path)]})
    """

    config: dict = field(default_factory=dict)
    corpus: dict = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    tokenizer: str = ""

    @classmethod
    def load(cls, path: Path) -> "Checksums":
        """Reads what `to_json` wrote; nothing where there is no file, as in older runs.

        Args:
            path: A file.

        Returns:
            The checksums.

        Raises:
            ValueError: The file is damaged.
        """
        try:
            values = json.loads(path.read_text("utf-8"))
            own = values.pop("sha256")
            sums = cls(**values)
            if own != sums._own():
                raise ValueError("its own checksum is another")
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); remove it, and the run's other files are taken as "
                "they are"
            ) from error
        return sums

    def to_json(self) -> str:
        """Returns all of it as JSON, with a checksum of its own."""
        return json.dumps({**self._values(), "sha256": self._own()}, indent=2) + "\n"

    def add(self, name: str, digest: str) -> None:
        """Makes another checksum valid for a file, besides the last ones.

        Args:
            name: The file's name.
            digest: Its SHA-256.
        """
        self.files[name] = [digest, *self.files.get(name, [])][:_REMEMBERED]

    def damage(self, path: Path, name: str | None = None) -> str | None:
        """Says what is wrong with a file.

        Args:
            path: The file.
            name: Under which name its checksum is; None for its own.

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

    def _values(self) -> dict:
        return dataclasses.asdict(self)

    def _own(self) -> str:
        return hashlib.sha256(json.dumps(self._values(), sort_keys=True).encode()).hexdigest()


def packed(data: bytes) -> str:
    """Returns bytes as a string for JSON.

    Args:
        data: Any bytes.
    """
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def unpacked(text: str) -> bytes:
    """Returns the bytes that `packed` was given.

    Args:
        text: What it returned.
    """
    return zlib.decompress(base64.b64decode(text))


def sha256(path: Path) -> str:
    """Returns a file's SHA-256 in hexadecimal digits.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
