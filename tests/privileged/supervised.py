"""A real supervisor over real processes, in control groups of its own, for the tests beside it."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import trio

from milkyway_agent.core.dependencies import Needs
from milkyway_agent.log import OUTPUT, Log
from milkyway_agent.reaping import Reaper
from milkyway_agent.starter import Launched, Program, clear_group, make_group
from milkyway_agent.supervisor import Definition, Supervisor
from milkyway_agent.system import kernel, mounts, reaper
from milkyway_coreos.programs import compile_program
from milkyway_formats.service import Service

LAUNCH_SOURCE = Path(__file__).parents[2] / "agent/launch/launch.c"


@cache
def cgroup_root() -> str:
    """Return where this machine has its version 2 hierarchy."""
    return next(mount.target for mount in mounts.mountinfo() if mount.fstype == "cgroup2")


@cache
def launch() -> str:
    """Return the static launcher, compiled as it is for CoreOS."""
    into = Path(tempfile.mkdtemp(prefix="milkyway-launch-"))
    compile_program(LAUNCH_SOURCE, into)
    return str(into / "launch")


class Supervised:
    """The supervisor with what tests ask of it."""

    def __init__(self, group: str, notify_directory: str) -> None:
        self.log = Log(kernel.realtime_ms)
        self.reaper = Reaper(self.log)
        self.supervisor = Supervisor(self.log, self.reaper, notify_directory=notify_directory)
        self.group = group

    def add(self, service: Service, *, needs: Needs | None = None, program: Program | None = None) -> str:
        """Supervise *service* as a program of CoreOS; return the directory of its control group."""
        cgroup = f"{self.group}/{service.name}"
        program = program or Program(tuple(service.command), environment=service.environment)
        starter = Launched(program, cgroup, self.reaper, launch())
        self.supervisor.add(Definition(service.name, service, starter, needs or Needs()))
        return cgroup

    def path(self, name: str) -> list[str]:
        """Return the rows that a service went through."""
        return [change.now.label for change in self.supervisor.history if change.name == name]

    def lines(self, name: str) -> list[str]:
        """Return what a service wrote."""
        return [str(one.facts["line"]) for one in self.log.ring.records if (one.event, one.service) == (OUTPUT, name)]

    async def line(self, name: str, line: str) -> None:
        """Wait until a service has written *line*."""
        with trio.fail_after(10), self.log.follow() as records:
            while line not in self.lines(name):
                await records.receive()

    async def event(self, name: str) -> None:
        """Wait until the event *name* was noted."""
        with trio.fail_after(10), self.log.follow() as records:
            while name not in self.log.ring.events():
                await records.receive()


@asynccontextmanager
async def supervised() -> AsyncIterator[Supervised]:
    """Give a running supervisor; afterwards nothing of its services is left."""
    group = f"{cgroup_root()}/milkyway-test-{os.getpid()}"
    make_group(group)
    reaper.set_child_subreaper(True)
    try:
        with tempfile.TemporaryDirectory() as notify:
            Path(notify).chmod(0o711)
            async with trio.open_nursery() as nursery:
                one = Supervised(group, notify)
                nursery.start_soon(one.reaper.run)
                await nursery.start(one.supervisor.run)
                yield one
                with trio.fail_after(30):
                    await one.supervisor.stop_all()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await clear_group(group)
        reaper.set_child_subreaper(False)
