"""Starting: what the supervisor asks of whoever turns a service into a process, and the way CoreOS services take.

A starter belongs to one service. It starts the service's main process as a child of ours held by a
descriptor, kills all of its processes, and clears away what a start made; it decides nothing about when.
"""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, TypeGuard

import trio

from milkyway_agent.launching.program import ENVIRONMENT, LAUNCH, Program, launch_command, make_group
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.system import cgroups, processes, selinux
from milkyway_formats.errors import UnavailableError

SETTLE_SECONDS = 10.0
EMPTY_SECONDS = 5.0
BURY_SECONDS = 10.0
UNKNOWN_END = 255  # as an exit status: what ended so is started again by a policy that starts again what failed


NONE: Mapping[str, int] = {}


class Running(NamedTuple):
    """A service's main process: a child of ours, claimed, and its descriptor, which whoever reaps it closes."""

    pid: int
    pidfd: int


class Starter(Protocol):
    """Turns one service into processes, and back."""

    @property
    def cgroup(self) -> str:
        """The directory of the service's control group."""

    @property
    def takes_listeners(self) -> bool:
        """Whether it hands listeners to the service."""

    @property
    def reads_execution(self) -> bool:
        """Whether the process is what the service's ``execution`` says."""

    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = NONE) -> Running:
        """Start the service. *output* is its standard output and error, *notify* its sd_notify socket.

        *listeners*: descriptors by their names, in the order in which it finds them from number 3 on (sd_listen_fds(3)).

        Raises UnavailableError, or OSError, with everything it began taken back but what ``clean_up`` removes.
        """

    def kill(self) -> None:
        """Send SIGKILL to all of the service's processes, if it has any."""

    async def clean_up(self) -> None:
        """Undo ``start``: end what is left of its processes and remove what it made. Twice is the same as once."""


class Launched:
    """Starts a CoreOS service through the static launcher, in a control group of its own."""

    takes_listeners = False
    reads_execution = False

    def __init__(self, program: Program, cgroup: str, reaper: Reaper, launch: str = LAUNCH) -> None:
        self.cgroup = cgroup
        self._program = program
        self._reaper = reaper
        self._launch = launch

    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = NONE) -> Running:
        """Start the program; return when it is in its own domain.

        What is left in its group, of a life that could not be cleared away, is cleared away first: none runs twice.
        """
        assert not listeners, "Supervisor.add saw to it"
        if not make_group(self.cgroup, self._program.limits) and cgroups.is_populated(self.cgroup):
            await clear_group(self.cgroup)
            make_group(self.cgroup, self._program.limits)
        passed = self._program.descriptors() if self._program.descriptors else {}
        try:
            command = launch_command(self._program, self.cgroup, notify, self._launch)
            pid = processes.spawn(command, ENVIRONMENT, {1: output, 2: output, **passed})
        finally:
            for descriptor in passed.values():
                os.close(descriptor)
        try:
            return await settled(hold(pid, self._reaper), self._program.context, self._reaper)
        except OSError:
            with contextlib.suppress(OSError):  # what can't be held must not run
                self.kill()
            raise

    def kill(self) -> None:
        """Kill all processes of the group."""
        kill_group(self.cgroup)

    async def clean_up(self) -> None:
        """Remove the group with all that is in it."""
        await clear_group(self.cgroup)


class Commanding(Protocol):
    """A starter that runs commands beside its service too."""

    async def execute(self, command: list[str], seconds: float, environment: Mapping[str, str], output: int = -1) -> int | None:
        """Run *command* beside the service's process; return its exit status, None when it was killed for taking longer.

        *environment*: variables besides those that the service has; *output*: where it writes (-1: nobody wants it). Raises
        MilkyWayError or OSError when it can't be started, as when nothing of the service is there any more.
        """


def runs_commands(starter: object) -> TypeGuard[Commanding]:
    """Tell whether *starter* runs commands."""
    return hasattr(starter, "execute")


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


def kill_process_group(leader: int) -> None:
    """Kill the process group of *leader*, a child of ours that is not reaped yet: its number can't be another's."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


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


def notify_path(directory: str, name: str) -> str:
    """Return the sd_notify socket of the service *name*."""
    return str(Path(directory, f"{name.replace('/', '.')}.sock"))


async def run_to_end(starter: Starter, reaper: Reaper, *, output_bytes: int = 65536) -> tuple[int, bytes]:
    """Start a helper program, wait for its end and clear up after it; return its exit status and what it wrote.

    Of its output the first *output_bytes* are kept. Cancelled, it kills the helper.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    kept = bytearray()
    try:
        try:
            running = await starter.start(writing, None)
        finally:
            os.close(writing)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(collect, reading, kept, output_bytes)
                await trio.lowlevel.wait_readable(running.pidfd)
                # What it left behind may hold the pipe open: it ends with the main process.
                try:
                    starter.kill()
                except OSError:  # clean_up tries again; what it writes until then is nobody's
                    nursery.cancel_scope.cancel()
        except BaseException:
            end_now(running)
            raise
        finally:
            with contextlib.suppress(OSError):
                starter.kill()
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(running.pidfd)
                code = let_go(running, reaper)
        return code, bytes(kept)
    finally:
        os.close(reading)
        with trio.CancelScope(shield=True):
            await starter.clean_up()


async def collect(reading: int, kept: bytearray, limit: int) -> None:
    """Read what comes through the pipe *reading* until its writers are gone; of it *limit* bytes are *kept*."""
    while True:
        await trio.lowlevel.wait_readable(reading)
        try:
            data = os.read(reading, 65536)
        except BlockingIOError:
            continue
        if not data:
            return
        kept += data[: limit - len(kept)]
