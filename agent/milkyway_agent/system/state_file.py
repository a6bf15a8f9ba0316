"""Files that survive a power cut: replaced whole, and, where it matters most, kept twice with a checksum.

``replace`` leaves the old content or the new, at whatever moment the power is cut. ``write_copies``
keeps two checksummed copies with a generation, written one after the other, so that a single damaged
file loses nothing; ``read_copies`` returns the newest good copy. The caller knows what the content
means, and decides what to do when no good copy is left.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

MAGIC = b"MILKYWAY-STATE1\n"
_HEADER = struct.Struct("<16sQQ32s")  # magic, generation, length, SHA-256 of generation ‖ length ‖ content
_COPIES = ("a", "b")
_TEMPORARY = ".new"


class Directory(Protocol):
    """What this module needs of a directory: each method is one operation on a real disk."""

    def read(self, name: str) -> bytes | None:
        """Return the content of *name*, None if there is no such file."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Create or truncate *name*, write all of *data* and wait until it is on the disk."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Rename *old* to *new*, replacing a file of that name."""
        ...

    def remove(self, name: str) -> None:
        """Remove *name*. Idempotent."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        ...

    def sync(self) -> None:
        """Wait until every rename and removal so far is on the disk."""
        ...


class KernelDirectory:
    """A directory given as an open descriptor (O_RDONLY | O_DIRECTORY; O_PATH can't be synced), which its owner closes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, name: str) -> bytes | None:
        """Return the content of *name*, None if there is no such file."""
        try:
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        with os.fdopen(file, "rb") as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        """Create or truncate *name* (mode 0600), write all of *data* and wait until it is on the disk."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def rename(self, old: str, new: str) -> None:
        """Rename *old* to *new*, replacing a file of that name."""
        os.rename(old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def remove(self, name: str) -> None:
        """Remove *name*. Idempotent."""
        try:
            os.unlink(name, dir_fd=self._descriptor)
        except FileNotFoundError:
            return

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(os.listdir(self._descriptor))

    def sync(self) -> None:
        """Wait until every rename and removal so far is on the disk."""
        os.fsync(self._descriptor)


class PathDirectory:
    """A directory given by its path: opened anew for each operation, so that nothing on its disk stays open in between."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, name: str) -> bytes | None:
        """As ``KernelDirectory.read``."""
        with self._opened() as directory:
            return directory.read(name)

    def write(self, name: str, data: bytes) -> None:
        """As ``KernelDirectory.write``."""
        with self._opened() as directory:
            directory.write(name, data)

    def rename(self, old: str, new: str) -> None:
        """As ``KernelDirectory.rename``."""
        with self._opened() as directory:
            directory.rename(old, new)

    def remove(self, name: str) -> None:
        """As ``KernelDirectory.remove``."""
        with self._opened() as directory:
            directory.remove(name)

    def names(self) -> list[str]:
        """As ``KernelDirectory.names``."""
        with self._opened() as directory:
            return directory.names()

    def sync(self) -> None:
        """As ``KernelDirectory.sync``."""
        with self._opened() as directory:
            directory.sync()

    @contextmanager
    def _opened(self) -> Iterator[KernelDirectory]:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield KernelDirectory(descriptor)
        finally:
            os.close(descriptor)


def replace(directory: Directory, name: str, data: bytes) -> None:
    """Make *data* the content of *name*: after a power cut it has either the old content or the new, never a part."""
    directory.write(name + _TEMPORARY, data)
    directory.rename(name + _TEMPORARY, name)
    directory.sync()


class StoredCopy(NamedTuple):
    """What ``read_copies`` found. ``damaged`` names the copies that are missing, torn or older than the content returned."""

    generation: int
    content: bytes
    damaged: tuple[str, ...]


def write_copies(directory: Directory, name: str, generation: int, content: bytes) -> None:
    """Write *content* twice, as ``<name>.a`` and ``<name>.b``; *generation* is higher than any before."""
    data = _seal(generation, content)
    for copy in _COPIES:
        replace(directory, f"{name}.{copy}", data)


def read_copies(directory: Directory, name: str) -> StoredCopy | None:
    """Return the newest good copy of *name*, or None; whether there ever was a copy is for ``has_copies``."""
    found = {copy: _unseal(directory.read(f"{name}.{copy}")) for copy in _COPIES}
    good = [kept for kept in found.values() if kept is not None]
    if not good:
        return None
    generation, content = max(good, key=lambda kept: kept[0])
    return StoredCopy(generation, content, tuple(f"{name}.{copy}" for copy in _COPIES if found[copy] != (generation, content)))


def has_copies(directory: Directory, name: str) -> bool:
    """Tell whether there is any copy of *name*, good or not."""
    return any(f"{name}.{copy}" in directory.names() for copy in _COPIES)


def _seal(generation: int, content: bytes) -> bytes:
    return _HEADER.pack(MAGIC, generation, len(content), _checksum(generation, content)) + content


def _unseal(data: bytes | None) -> tuple[int, bytes] | None:
    """Return generation and content of a copy, None if it is missing or damaged."""
    if data is None or len(data) < _HEADER.size:
        return None
    magic, generation, length, checksum = _HEADER.unpack_from(data)
    content = data[_HEADER.size :]
    if magic != MAGIC or length != len(content) or checksum != _checksum(generation, content):
        return None
    return generation, content


def _checksum(generation: int, content: bytes) -> bytes:
    import hashlib  # late: it imports OpenSSL, and PID 1 needs no checksum

    return hashlib.sha256(struct.pack("<QQ", generation, len(content)) + content).digest()
