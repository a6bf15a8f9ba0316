"""Starting: what the supervisor asks of whoever turns a service into a process, and the way CoreOS services take.

A starter belongs to one service. It starts the service's main process as a child of ours held by a
descriptor, kills all of its processes, and clears away what a start made; it decides nothing about when.
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
BURY_SECONDS = 10.0
UNKNOWN_END = 255  # as an exit status: what ended so is started again by a policy that starts again what failed


class Child(NamedTuple):
    """A service's main process: a child of ours, claimed, and its descriptor, which whoever reaps it closes."""

    pid: int
    pidfd: int


StartCallback = Callable[[Child | Exception], None]  # called with the child that was started, or with why there is none


async def bury(child: Child, kill: Callable[[], None], reaper: Reaper) -> int | None:
    """Reap *child* when it has ended; *kill* it first if it hasn't. Returns its exit status, or minus its signal.

    None: it does not end. Then it is an orphan like any other from now on. Not to be cancelled.
    """
    if not processes.has_ended(child.pidfd):
        kill()
    with trio.move_on_after(BURY_SECONDS, shield=True):
        await trio.lowlevel.wait_readable(child.pidfd)
    if processes.has_ended(child.pidfd):
        return let_go(child, reaper)
    os.close(child.pidfd)
    reaper.release(child.pid)
    return None


def hold(pid: int, reaper: Reaper) -> Child:
    """Claim the child *pid*, not yet reaped, and hold it by a descriptor. Undo: reap it, then release and close.

    Raises OSError when it can't be held: it is an orphan like any other then.
    """
    reaper.claim(pid)
    try:
        return Child(pid, processes.pidfd_open(pid))
    except OSError:
        reaper.release(pid)
        raise


def let_go(child: Child, reaper: Reaper) -> int:
    """Reap *child*, which has ended; return its exit status, or minus the signal that killed it.

    UNKNOWN_END where the kernel does not say, which is noted: somebody else has reaped it, or it is the reaper's now.
    """
    try:
        code = processes.reap(child.pidfd).code
    except OSError as error:
        reaper.note_unknown_end(child.pid, error)
        code = UNKNOWN_END
    os.close(child.pidfd)
    reaper.release(child.pid)
    return code


def end_now(child: Child) -> None:
    """Kill the main process itself, which is not in its group yet when it was started just now. No error if it has ended."""
    with contextlib.suppress(OSError):  # then its group is killed, or whoever waits for its end is not told of any
        processes.pidfd_send_signal(child.pidfd, 9)


def abandon(child: Child, reaper: Reaper) -> None:
    """Kill *child* and leave its end to the reaper, as an orphan's."""
    end_now(child)
    trio.lowlevel.notify_closing(child.pidfd)
    os.close(child.pidfd)
    reaper.release(child.pid)


async def settled(child: Child, context: str, reaper: Reaper) -> Child:
    """Return *child* once it is in *context* ("": at once) or has ended.

    Raises UnavailableError when it does not get there in time, or OSError: it was killed then, and let go of.
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
    """Kill the process group of *leader*, a child of ours that is not reaped yet: its number can't be another's."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
