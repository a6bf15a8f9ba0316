"""Control groups of services: killing all that is in one, and clearing it away."""

import contextlib
import errno
import os

import trio

from milkyway_agent.system import cgroups, processes
from milkyway_formats.errors import UnavailableError

EMPTY_SECONDS = 5.0


def kill_group(path: str) -> None:
    """Kill every process in the group *path* and below, if there is one.

    Raises OSError when the kernel refuses that, and to kill them one by one: then some may live.
    """
    try:
        cgroups.kill(path)
    except OSError as error:
        if not _is_gone(error):
            _kill_each(path)


def _kill_each(path: str) -> None:
    """Kill the processes in the group *path* and below by themselves: one that forks meanwhile needs it again."""
    for child in cgroups.children(path):
        _kill_each(child)
    for pid in cgroups.processes(path):
        try:
            pidfd = processes.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in cgroups.processes(path):  # else it ended before it was held, and the pid may be another's
                processes.pidfd_send_signal(pidfd, 9)
        except ProcessLookupError:
            continue
        finally:
            os.close(pidfd)


async def clear_group(path: str) -> None:
    """Undo ``make_group``: kill what is in the group *path*, wait until it is empty, remove it with all groups below.

    What the kernel refuses is tried again. Raises UnavailableError when something does not die in time, or OSError.
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
                return  # somebody was quicker: there is no such group any more
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
