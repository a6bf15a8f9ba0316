"""A child process that is held by a pidfd: claiming, killing and reaping it.

While it is claimed, the ``Reaper`` leaves it alone, and its pid is not reused before it is reaped here.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

import trio

from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.system import processes, selinux
from milkyway_formats.errors import UnavailableError

SETTLE_SECONDS = 10.0
END_SECONDS = 10.0
UNKNOWN_END = 255  # counts as a failure: a service that is restarted after failures is restarted after this


class Child(NamedTuple):
    """A child of ours, claimed, with a pidfd, which is closed when it is reaped."""

    pid: int
    pidfd: int


StartCallback = Callable[[Child | Exception], None]  # called with the child that was started, or with why there is none


async def kill_and_reap(child: Child, kill: Callable[[], None], reaper: Reaper) -> int | None:
    """Reap *child* when it has ended; *kill* it first if it hasn't. Returns its exit status, or minus its signal.

    None: it does not end within END_SECONDS, and is left to the reaper like any orphan. This can't be cancelled.
    """
    if not processes.has_ended(child.pidfd):
        kill()
    with trio.move_on_after(END_SECONDS, shield=True):
        await trio.lowlevel.wait_readable(child.pidfd)
    if processes.has_ended(child.pidfd):
        return reap(child, reaper)
    os.close(child.pidfd)
    reaper.release(child.pid)
    return None


def hold(pid: int, reaper: Reaper) -> Child:
    """Claim the child *pid*, not yet reaped, and open a pidfd for it. Undo: ``reap``.

    Raises OSError if there is no pidfd to be had; then the child is left to the reaper like any orphan.
    """
    reaper.claim(pid)
    try:
        return Child(pid, processes.pidfd_open(pid))
    except OSError:
        reaper.release(pid)
        raise


def reap(child: Child, reaper: Reaper) -> int:
    """Reap *child*, which has ended; return its exit status, or minus the signal that killed it.

    Returns UNKNOWN_END, and logs that, if the kernel does not say: other code has reaped it.
    """
    try:
        code = processes.reap(child.pidfd).code
    except OSError as error:
        reaper.note_unknown_end(child.pid, error)
        code = UNKNOWN_END
    os.close(child.pidfd)
    reaper.release(child.pid)
    return code


def kill_child(child: Child) -> None:
    """Send SIGKILL to *child* itself: if it was started just now, it is not in its group yet. No error if it has ended."""
    with contextlib.suppress(OSError):  # it has ended; else its group is killed, too
        processes.pidfd_send_signal(child.pidfd, 9)


def abandon(child: Child, reaper: Reaper) -> None:
    """Kill *child* and leave it to the reaper like any orphan."""
    kill_child(child)
    trio.lowlevel.notify_closing(child.pidfd)
    os.close(child.pidfd)
    reaper.release(child.pid)


async def settled(child: Child, context: str, reaper: Reaper) -> Child:
    """Return *child* once it runs in the SELinux *context* ("": at once) or has ended.

    Raises UnavailableError if it does not get there in time, or OSError; then it was killed and abandoned.
    """
    pause = 0.001
    deadline = trio.current_time() + SETTLE_SECONDS
    try:
        while context and (seen := selinux.getcon(child.pid)) != context and not processes.has_ended(child.pidfd):
            if trio.current_time() > deadline:
                raise UnavailableError(f"cannot start it: it runs as {seen}, not as {context}")
            await trio.sleep(pause)
            pause = min(pause * 2, 0.05)
    except BaseException:
        abandon(child, reaper)
        raise
    return child


def kill_process_group(leader: int) -> None:
    """Kill the process group of *leader*, a child of ours that is not reaped yet, so its number was not reused."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
