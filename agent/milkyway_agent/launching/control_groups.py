"""Control groups of services: killing all processes in one, and removing it."""

import contextlib
import errno
import os

import trio

from milkyway_agent.system import cgroups, processes
from milkyway_formats.errors import UnavailableError

EMPTY_SECONDS = 5.0


def kill_group(path: str) -> None:
    """Kill every process in the group *path* and below; no error if there is no such group.

    Raises OSError if the kernel refuses that, and also to kill them one by one; then some may survive.
    """
    try:
        cgroups.kill(path)
    except OSError as error:
        if not _is_gone(error):
            _kill_each(path)


def _kill_each(path: str) -> None:
    """Kill the processes in the group *path* and below one by one; processes forked meanwhile may survive."""
    for child in cgroups.children(path):
        _kill_each(child)
    for pid in cgroups.processes(path):
        try:
            pidfd = processes.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in cgroups.processes(path):  # else it ended before the pidfd was opened, and its pid may have been reused
                processes.pidfd_send_signal(pidfd, 9)
        except ProcessLookupError:
            continue
        finally:
            os.close(pidfd)


async def clear_group(path: str) -> None:
    """Undo ``make_group``: kill what is in the group *path*, wait until it is empty, remove it with all groups below.

    What the kernel refuses is tried again. Raises UnavailableError if a process does not die in time, or OSError.
    """
    pause = 0.001
    deadline = trio.current_time() + EMPTY_SECONDS
    while True:
        try:
            kill_group(path)
            if not cgroups.is_populated(path):
                _remove_groups(path)
                return
        except OSError as error:
            if _is_gone(error):
                return  # it was removed by other code meanwhile
            if trio.current_time() > deadline:
                raise
        if trio.current_time() > deadline:
            raise UnavailableError(f"cannot clear {path}: processes {cgroups.processes(path)} survive SIGKILL")
        await trio.sleep(pause)
        pause = min(pause * 2, 0.05)


def _is_gone(error: OSError) -> bool:
    """Tell whether *error* says that a group was removed: before its file was opened, or since."""
    return error.errno in (errno.ENOENT, errno.ENODEV)


def _remove_groups(path: str) -> None:
    for child in cgroups.children(path):
        _remove_groups(child)
    with contextlib.suppress(FileNotFoundError):
        cgroups.remove(path)
