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


class Running(NamedTuple):
    """A service's main process: a child of ours, claimed, and its descriptor, which whoever reaps it closes."""

    pid: int
    pidfd: int


async def bury(running: Running, kill: Callable[[], None], reaper: Reaper) -> int | None:
    """Reap *running* when it has ended; *kill* it first if it hasn't. Returns its exit status, or minus its signal.

    None: it does not end. Then it is an orphan like any other from now on. Not to be cancelled.
    """
    if not processes.has_ended(running.pidfd):
        kill()
    with trio.move_on_after(BURY_SECONDS, shield=True):
        await trio.lowlevel.wait_readable(running.pidfd)
    if processes.has_ended(running.pidfd):
        return let_go(running, reaper)
    os.close(running.pidfd)
    reaper.release(running.pid)
    return None


def hold(pid: int, reaper: Reaper) -> Running:
    """Claim the child *pid*, not yet reaped, and hold it by a descriptor. Undo: reap it, then release and close.

    Raises OSError when it can't be held: it is an orphan like any other then.
    """
    reaper.claim(pid)
    try:
        return Running(pid, processes.pidfd_open(pid))
    except OSError:
        reaper.release(pid)
        raise


def let_go(running: Running, reaper: Reaper) -> int:
    """Reap *running*, which has ended; return its exit status, or minus the signal that killed it.

    UNKNOWN_END where the kernel does not say, which is noted: somebody else has reaped it, or it is the reaper's now.
    """
    try:
        code = processes.reap(running.pidfd).code
    except OSError as error:
        reaper.note_unknown_end(running.pid, error)
        code = UNKNOWN_END
    os.close(running.pidfd)
    reaper.release(running.pid)
    return code


def end_now(running: Running) -> None:
    """Kill the main process itself, which is not in its group yet when it was started just now. No error if it has ended."""
    with contextlib.suppress(OSError):  # then its group is killed, or whoever waits for its end is not told of any
        processes.pidfd_send_signal(running.pidfd, 9)


def abandon(running: Running, reaper: Reaper) -> None:
    """Kill *running* and leave its end to the reaper, as an orphan's."""
    end_now(running)
    trio.lowlevel.notify_closing(running.pidfd)
    os.close(running.pidfd)
    reaper.release(running.pid)


async def settled(running: Running, context: str, reaper: Reaper) -> Running:
    """Return *running* once it is in *context* ("": at once) or has ended.

    Raises UnavailableError when it does not get there in time, or OSError: it was killed then, and let go of.
    """
    pause = 0.001
    deadline = trio.current_time() + SETTLE_SECONDS
    try:
        while context and (seen := selinux.getcon(running.pid)) != context and not processes.has_ended(running.pidfd):
            if trio.current_time() > deadline:
                raise UnavailableError(f"cannot start it: it runs as {seen}, not as {context}")
            await trio.sleep(pause)
            pause = min(pause * 2, 0.05)
    except BaseException:
        abandon(running, reaper)
        raise
    return running


def kill_process_group(leader: int) -> None:
    """Kill the process group of *leader*, a child of ours that is not reaped yet: its number can't be another's."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
