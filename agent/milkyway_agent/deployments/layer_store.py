"""The layer store: installed layer files, and those that are being fetched.

``layers/<sha256>.layer`` holds only files that the verifier has passed, complete and written
to the disk. A file that is being fetched is ``staging/<sha256>.part``; after a power cut it is still there
until ``sweep`` removes it. ``keep`` is the only way from ``staging`` to ``layers``.

Which layers are wanted is said by ``deployment_set``.
"""

import errno
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from milkyway_formats.errors import UnavailableError
from milkyway_formats.names import Sha256

# Without it a layer that just fits would keep the verifier from persisting the very order that removes it.
RESERVE_BYTES = 32 * 1024 * 1024


class Staged(NamedTuple):
    """A staging file's two descriptors: the uplink writes through one, the verifier reads through the other."""

    writer: int
    reader: int


class LayerStore:
    """The store below *root* (``/data/agent``), whose two directories exist."""

    def __init__(
        self, root: Path, *, protect: Callable[[Path], None] = lambda _: None, reserve_bytes: int = RESERVE_BYTES
    ) -> None:
        """*protect* keeps a verified file from being written by the process that fetched it (on a server: labels it).

        *reserve_bytes* of the disk are left free by layers.
        """
        self.layers = root / "layers"
        self.staging = root / "staging"
        self._protect = protect
        self._reserve_bytes = reserve_bytes

    def path(self, sha256: Sha256) -> Path:
        """Return where the installed layer *sha256* is, or would be."""
        return self.layers / f"{sha256}.layer"

    def has(self, sha256: Sha256) -> bool:
        """Tell whether *sha256* is installed."""
        return self.path(sha256).exists()

    def stage(self, sha256: Sha256, size: int) -> Staged:
        """Make a staging file with *size* bytes allocated and open it twice. Undo: ``discard``.

        Raises UnavailableError when the disk is full; then nothing of the file is left.
        """
        path = self._part(sha256)
        path.unlink(missing_ok=True)
        writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Allocated now, so that a full disk is found before the download and not in the middle of it.
            os.posix_fallocate(writer, 0, max(size, 1))
            self._check_reserve(writer)
            return Staged(writer, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            os.close(writer)
            path.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UnavailableError(
                    f"cannot install layer {sha256[:12]}: no space for its {size} bytes on the data disk",
                    hint="remove a deployment, or give the machine a larger disk",
                ) from error
            raise

    def keep(self, sha256: Sha256) -> None:
        """Move the verified staging file into the store, durably. Undo: ``remove``."""
        part = self._part(sha256)
        self._protect(part)
        self._fsync(part)
        part.rename(self.path(sha256))
        self._fsync(self.layers)

    def discard(self, sha256: Sha256) -> None:
        """Remove the staging file of *sha256*, if there is one."""
        self._part(sha256).unlink(missing_ok=True)

    def remove(self, sha256: Sha256) -> None:
        """Remove the installed layer *sha256*, if there is one."""
        self.path(sha256).unlink(missing_ok=True)

    def sweep(self, wanted: Collection[Sha256]) -> list[Sha256]:
        """Remove every staging file, and every installed layer not in *wanted*. Return the layers removed."""
        for part in self.staging.iterdir():
            part.unlink()
        unwanted = [path.stem for path in self.layers.glob("*.layer") if path.stem not in wanted]
        for sha256 in unwanted:
            self.remove(sha256)
        return sorted(unwanted)

    def _part(self, sha256: Sha256) -> Path:
        return self.staging / f"{sha256}.part"

    def _check_reserve(self, descriptor: int) -> None:
        """Raise ENOSPC if a layer would take the space that the trust state and the logs need."""
        disk = os.fstatvfs(descriptor)
        if disk.f_bavail * disk.f_frsize < self._reserve_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @staticmethod
    def _fsync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
