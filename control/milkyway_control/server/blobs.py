"""Blobs by SHA-256 in a directory: staged, hashed, made durable, then renamed. Synchronous; the endpoints call it in threads.

A blob under its name is always whole and has that hash. Files in ``staging`` at the start are
broken uploads of an earlier process, and are removed.
"""

import hashlib
import os
import re
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from milkyway_formats.errors import RefusedError
from milkyway_formats.names import Sha256

_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobRefusedError(RefusedError):
    """The bytes do not have the hash under which they were uploaded."""


def is_blob_name(name: str) -> bool:
    """Tell whether *name* is the form of a blob's name (so that nothing else ever becomes part of a path)."""
    return _SHA256.fullmatch(name) is not None


class Upload:
    """A blob being uploaded. Use as a context manager: without ``commit`` nothing stays."""

    def __init__(self, staging: Path, target: Path, sha256: Sha256) -> None:
        self._staging = staging
        self._target = target
        self._sha256 = sha256
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self._staging.open("xb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        self._staging.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append *chunk*."""
        assert self._file is not None, "written outside the with block"
        self._file.write(chunk)
        self._hash.update(chunk)

    def commit(self) -> None:
        """Make the blob visible under its hash, durably. Raises BlobRefusedError if the bytes have another hash."""
        assert self._file is not None, "committed outside the with block"
        found = self._hash.hexdigest()
        if found != self._sha256:
            raise BlobRefusedError(f"cannot store blob {self._sha256[:16]}: its bytes hash to {found[:16]}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._target.parent.mkdir(exist_ok=True)
        self._staging.replace(self._target)
        for directory in (self._target.parent, self._target.parent.parent):
            _sync_directory(directory)


class Blobs:
    """The store. A blob is the file ``<directory>/<first two digits>/<sha256>``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._staging = directory / "staging"
        self._uploads = 0

    def prepare(self) -> None:
        """Make the directories and remove what broken uploads left. Only for the serving process, at its start."""
        self._staging.mkdir(parents=True, exist_ok=True)
        for leftover in self._staging.iterdir():
            leftover.unlink()

    def size(self, sha256: Sha256) -> int | None:
        """Return the blob's size in bytes, or None if there is no such blob."""
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, sha256: Sha256) -> BinaryIO:
        """Return the blob, open for reading."""
        return self._path(sha256).open("rb")

    def upload(self, sha256: Sha256) -> Upload:
        """Return a new upload of the blob with this hash. Concurrent uploads of the same blob do not disturb each other."""
        self._uploads += 1
        return Upload(self._staging / f"{sha256}.{self._uploads}", self._path(sha256), sha256)

    def _path(self, sha256: Sha256) -> Path:
        assert is_blob_name(sha256), f"{sha256!r} is not a blob's name"
        return self._directory / sha256[:2] / sha256


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
