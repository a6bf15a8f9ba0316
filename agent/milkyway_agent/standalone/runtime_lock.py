"""The lock of a runtime directory, so that it has no more than one supervisor.

Imported before the first service runs, so it imports next to nothing.
"""

import posix  # as os has it, whose import takes as long as three starts


class Held:
    """The lock of a runtime directory. ``by``: the process that has it, "" where we do; ``groups``: what it noted last."""

    def __init__(self, descriptor: int, by: str, groups: str) -> None:
        self._descriptor = descriptor
        self.by = by
        self.groups = groups

    def note(self, groups: str) -> None:
        """Note the directory of our services' control groups, for the next supervisor if we are killed."""
        if not self.by:
            try:
                posix.ftruncate(self._descriptor, 0)
                posix.pwrite(self._descriptor, f"{posix.getpid()}\n{groups}\n".encode(), 0)
            except OSError:
                return  # the disk is full: if we are killed, nobody will find what we leave


def hold(runtime: str) -> Held:
    """Lock *runtime* for as long as this process lives or executes itself anew (lockf(3)). Raises OSError."""
    descriptor = posix.open(f"{runtime}/lock", posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
    process, _, groups = posix.pread(descriptor, 4096, 0).decode(errors="replace").partition("\n")
    try:
        posix.lockf(descriptor, posix.F_TLOCK, 0)
    except (BlockingIOError, PermissionError):
        return Held(descriptor, process or "unknown", groups.strip())
    return Held(descriptor, "", groups.strip())


def hold_again(runtime: str) -> Held:
    """Lock *runtime* for a successor, whose services run already: without the lock, too, they go on."""
    try:
        return hold(runtime)
    except OSError:
        return Held(-1, "unknown", "")
