"""Sealed memory files: bytes for another process that nobody can change any more.

``seal`` makes one; ``check_sealed`` is for the receiver, which must know that what it reads (or a
process that it passes the descriptor to) is memory, of a known size, and does not change: never a
pipe that blocks, a device, or a file to which its sender still writes.
"""

import fcntl
import os
import stat

from milkyway_formats.errors import RefusedError

# linux/memfd.h; os has no name for it before Python 3.13. vm.memfd_noexec=2 refuses memfds without it.
MFD_NOEXEC_SEAL = 0x0008
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class NotSealedError(RefusedError):
    """The descriptor is not a sealed memory file of an allowed size."""


def seal(data: bytes, *, name: str) -> int:
    """Return a read-only descriptor, at offset 0, of a sealed memory file that holds *data*. Undo: ``os.close``."""
    fd = _create(name)
    try:
        written = 0
        while written < len(data):
            written += os.write(fd, data[written:])
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS | fcntl.F_SEAL_SEAL)
        # Opened again, because SELinux demands of a receiver all permissions that the descriptor was opened with, sealed or
        # not (file_to_av in security/selinux/hooks.c), and no receiver may write a sender's memory.
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def check_sealed(fd: int, *, what: str, limit: int) -> int:
    """Return the size of *fd*. Raises NotSealedError unless it is a sealed memory file of 1 to *limit* bytes."""
    facts = os.fstat(fd)
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:  # EINVAL: not memory at all
        raise NotSealedError(f"cannot take {what}: it is not in sealed memory") from error
    if not stat.S_ISREG(facts.st_mode) or seals & SEALS != SEALS:
        raise NotSealedError(f"cannot take {what}: it is not in sealed memory")
    if not 0 < facts.st_size <= limit:
        raise NotSealedError(f"cannot take {what}: {facts.st_size} bytes, at most {limit} are allowed")
    return facts.st_size


def _create(name: str) -> int:
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)
    except OSError:  # EINVAL before Linux 6.3; any other error occurs again below
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
