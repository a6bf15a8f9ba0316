"""A real supervisor with real processes, in its own control groups, for the tests beside it.

At the end of every test that passes so far, nothing may be left: no child of ours (running or zombie), no control
group, no process that ever sent us a message, no descriptor. Programs tell us how far they are by a datagram, which
reaches us whatever they did to their output (``misbehaviour/behaviour.h``); no test sleeps to wait for them.
"""

import atexit
import os
import select
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import trio

from milkyway_agent.core.dependencies import Needs, needs_of
from milkyway_agent.core.service_state import Row
from milkyway_agent.early.launcher import Launcher
from milkyway_agent.launching.control_groups import clear_group
from milkyway_agent.launching.direct import DirectStarter
from milkyway_agent.launching.launcher_link import LauncherLink
from milkyway_agent.launching.places import Places
from milkyway_agent.launching.program import Program, make_group
from milkyway_agent.launching.spawned import SpawnedStarter
from milkyway_agent.log.log import Log
from milkyway_agent.log.record import OUTPUT, Record
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.supervisor.snapshot import ROWS, KeptService
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import cgroups, kernel, mounts, processes, reaper, sockets
from milkyway_coreos.image.programs import compile_program
from milkyway_formats.service import Service

Identity: TypeAlias = tuple[int, int, str]  # pid, start time and name: never the same for two processes

LIMITING = ("cpu", "memory", "pids")
LAUNCH_SOURCE = Path(__file__).parents[3] / "agent/launch/launch.c"


@cache
def cgroup_root() -> str:
    """Return where the cgroup v2 hierarchy is mounted on this machine."""
    return next(mount.target for mount in mounts.mountinfo() if mount.fstype == "cgroup2")


@cache
def launch() -> str:
    """Return the path of the static launcher, compiled as for CoreOS."""
    into = Path(tempfile.mkdtemp(prefix="milkyway-launch-"))
    atexit.register(shutil.rmtree, into)
    compile_program(LAUNCH_SOURCE, into)
    return str(into / "launch")


class Told(NamedTuple):
    """A message of a program, with a pidfd of its process; None: it had already ended and was reaped."""

    word: str
    pid: int
    pidfd: int | None


class Change(NamedTuple):
    """One change of a service's row, and when (ms of CLOCK_BOOTTIME)."""

    name: str
    now: Row
    at_ms: int


class Supervised:
    """The supervisor, with what tests need. *told*: the socket to which programs send their messages."""

    def __init__(self, group: str, runtime: Path, told: socket.socket, options: dict[str, Any]) -> None:
        self.changes: list[Change] = []  # of all services, oldest first
        self.log = Log(kernel.realtime_ms, self)
        self.reaper = Reaper(self.log)
        self.alarms = Alarms(self.log.note)
        self.watch = Watch(self.log.note, self.alarms)
        self.supervisor = Supervisor(
            self.log,
            self.reaper,
            alarms=self.alarms,
            watch=self.watch,
            notify_directory=str(runtime / "notify"),
            **options,
        )
        self.group = group
        self.runtime = runtime
        self.launcher: Launcher | None = None
        self.patience = 60.0  # of the link to the launcher
        self._link: LauncherLink | None = None
        self.tell_address = str(told.getsockname())
        self.heard: list[Told] = []
        self._listening = trio.socket.from_stdlib_socket(told)
        self._news = trio.Event()
        self._scope = trio.CancelScope()
        self._cut_off = trio.Event()

    def add(
        self,
        service: Service,
        *,
        needs: Needs | None = None,
        program: Program | None = None,
        users: Container[int] | None = None,
    ) -> str:
        """Supervise *service* as a program of CoreOS; return the directory of its control group."""
        cgroup = f"{self.group}/{service.name}"
        program = program or Program(
            tuple(service.command),
            user=service.user,
            environment=service.environment,
            directory=service.working_directory,
            limits=service.limits,
        )
        starter = SpawnedStarter(program, cgroup, self.reaper, launch())
        self.supervisor.add(Definition(service.name, service, starter, needs or Needs(), users))
        return cgroup

    def definition(self, service: Service, *, needs: Needs | None = None, grouped: bool = True) -> Definition:
        """Return a definition of *service* for the launcher, in a control group or (not *grouped*) without one."""
        if self._link is None:
            self.launcher = Launcher(launch())
            self._link = LauncherLink(self.launcher, self.watch, self.alarms, self.reaper, self.patience)
        places = Places(self.group if grouped else "", self.runtime)
        starter = DirectStarter(service.name, service, self._link, places)
        return Definition(service.name, service, starter, needs or Needs())

    def add_direct(self, *services: Service, grouped: bool = True) -> None:
        """Supervise *services* with their own needs, as ``definition`` returns them."""
        self.supervisor.add(*(self.definition(service, needs=needs_of(service), grouped=grouped) for service in services))

    def kept(self, name: str) -> KeptService | None:
        """Return the state of a service that the supervisor would hand over; None while it is busy."""
        return next((kept for kept in self.supervisor.keep(trio.current_time()) if kept.name == name), None)

    def write(self, records: Sequence[Record]) -> None:
        """Keep what the log says about changes of rows: implements ``log.Sink``."""
        for record in records:
            if record.event == "service_state_changed":
                at_ms = self.supervisor.status_of(record.service).since_ms
                self.changes.append(Change(record.service, ROWS[str(record.facts["now"])], at_ms))

    def path(self, name: str) -> list[str]:
        """Return the rows that a service went through."""
        return [change.now.label for change in self.changes if change.name == name]

    def lines(self, name: str) -> list[str]:
        """Return what a service wrote."""
        return [
            str(record.facts["line"]) for record in self.log.ring.records if (record.event, record.service) == (OUTPUT, name)
        ]

    async def line(self, name: str, line: str) -> None:
        """Wait until a service has written *line*."""
        with trio.fail_after(10), self.log.follow() as records:
            while line not in self.lines(name):
                await records.receive()

    async def status(self, name: str, status: str) -> None:
        """Wait until a service has reported *status*."""
        with trio.fail_after(10):
            while self.supervisor.status_of(name).reason != status:
                await trio.lowlevel.checkpoint()

    async def event(self, name: str) -> None:
        """Wait until the event *name* was logged."""
        with trio.fail_after(10), self.log.follow() as records:
            while name not in self.log.ring.events():
                await records.receive()

    async def told(self, word: str, times: int = 1) -> int:
        """Wait until programs have sent *word* so many *times*; return the pid of the last sender."""
        with trio.fail_after(10):
            while len(tellers := [told.pid for told in self.heard if told.word == word]) < times:
                await self._news.wait()
        return tellers[times - 1]

    async def up(self, name: str, word: str, times: int = 1) -> int:
        """Wait as ``told`` does, and until the service *name* is started: its program may be quicker than the supervisor."""
        pid = await self.told(word, times)
        with trio.fail_after(10):
            await self.supervisor.wait_state(name, "started")
        return pid

    async def in_state(self, pid: int, state: str) -> None:
        """Wait until /proc shows process *pid* in *state* ("T": stopped), for which the kernel sends no event."""
        with trio.fail_after(10):
            while processes.parse_stat(Path(f"/proc/{pid}/stat").read_text()).state != state:
                await trio.lowlevel.checkpoint()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Run the supervisor until it is cut off."""
        with trio.CancelScope() as self._scope:
            await self.supervisor.run(task_status)
        self._cut_off.set()

    async def begin_again(self, nursery: trio.Nursery) -> None:
        """Cut the supervisor off in whatever it is doing, as when the agent fails, and run it again as the next agent does."""
        self.supervisor.keeps_at_end = True
        self._scope.cancel()
        await self._cut_off.wait()
        self._cut_off = trio.Event()
        self.supervisor.keeps_at_end = False
        await nursery.start(self.run)

    async def listen(self) -> None:
        """Receive the messages of programs, for ever."""
        while True:
            data, ancillary, _, _ = await self._listening.recvmsg(64, socket.CMSG_SPACE(16))
            who = sockets.sender(ancillary)
            assert who is not None, "the kernel says who sent it"
            pidfd = None
            with suppress(ProcessLookupError):
                pidfd = processes.pidfd_open(who.pid)
            self.heard.append(Told(data.decode(), who.pid, pidfd))
            self._news.set()
            self._news = trio.Event()

    def end_launcher(self) -> None:
        """End the launcher, if there is one. Idempotent."""
        if self.launcher is not None:
            self.launcher.close()
            self.launcher = None

    async def nothing_is_left(self, children: set[Identity]) -> None:
        """Assert that nothing of the services is left, beyond the *children* that we had before."""
        with trio.fail_after(10), self.log.follow() as records:
            while own_children("Z") - children:  # orphans are reaped after a grace period, and logged
                with trio.move_on_after(0.05):
                    await records.receive()
        assert own_children() - children == set(), "a child outlived its service"
        assert cgroups.children(self.group) == [], "a control group outlived its service"
        running = {told.pid for told in self.heard if not has_ended(told)}
        assert running == set(), "a process outlived its service"

    def close(self) -> None:
        """End the launcher, and close the pidfds of the messages."""
        self.end_launcher()
        for told in self.heard:
            if told.pidfd is not None:
                os.close(told.pidfd)


def own_children(state: str = "") -> set[Identity]:
    """Return our children: all, or those in one *state* ("Z": ended and not reaped)."""
    ours = [process for process in processes.processes() if process.parent == os.getpid()]
    return {(process.pid, process.start, process.name) for process in ours if state in ("", process.state)}


def has_ended(told: Told) -> bool:
    """Tell whether the sender of a message has ended: then its pidfd is readable (pidfd_open(2))."""
    if told.pidfd is None:
        return True
    poll = select.poll()
    poll.register(told.pidfd, select.POLLIN)
    return bool(poll.poll(0))


def own_descriptors() -> dict[str, str]:
    """Return our open descriptors, by number."""
    opened = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one used for listing them
            opened[number] = os.readlink(f"/proc/self/fd/{number}")
    return opened


@contextmanager
def heard_through(path: Path) -> Iterator[Callable[[], Awaitable[str]]]:
    """Make a named pipe; yield a function that waits for what is written into it."""
    os.mkfifo(path)
    path.chmod(0o666)
    opened = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    async def hear() -> str:
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(opened)
        return os.read(opened, 4096).decode()

    try:
        yield hear
    finally:
        os.close(opened)


@contextmanager
def no_descriptor_is_left() -> Iterator[None]:
    """Assert that what is opened inside is closed inside."""
    before = own_descriptors()
    yield
    after = own_descriptors()
    assert {number: after[number] for number in after if before.get(number) != after[number]} == {}, "descriptors are left open"


@asynccontextmanager
async def supervised(**options: Any) -> AsyncIterator[Supervised]:
    """Yield a running supervisor; assert afterwards that nothing of its services is left. Ends within 60 s.

    *options*: the supervisor's own.
    """
    group = f"{cgroup_root()}/milkyway-test-{os.getpid()}"
    launch()
    children = own_children()
    with no_descriptor_is_left(), tempfile.TemporaryDirectory() as directory, trio.fail_after(60):
        os.chmod(directory, 0o711)
        runtime = Path(directory, "run")
        runtime.mkdir(0o711)
        make_group(group)
        if handed_on := [name for name in cgroups.controllers(group) if name in LIMITING]:
            cgroups.enable(group, handed_on)
        reaper.set_child_subreaper(True)
        try:
            with closing(sockets.datagram(f"{directory}/told", 0o666)) as told:
                harness = Supervised(group, runtime, told, options)
                with closing(harness):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(harness.reaper.run)
                        nursery.start_soon(harness.listen)
                        await nursery.start(harness.run)
                        yield harness
                        with trio.fail_after(30):
                            await harness.supervisor.stop_all()
                        harness.end_launcher()
                        await harness.nothing_is_left(children)
                        nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await clear_group(group)
            reaper.set_child_subreaper(False)
