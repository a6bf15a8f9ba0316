"""Cleaning up after a service: whatever takes long, what has been reaped is signalled by nobody, and somebody is told."""

import os
import signal
from collections.abc import Iterator

import pytest
import trio

from milkyway_agent.launching.child import hold
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.supervisor.process.cleanup import Cleanup
from milkyway_agent.supervisor.process.io import StartIO
from milkyway_agent.supervisor.process.notify import NotifySockets
from milkyway_agent.supervisor.process.output_pipes import OutputPipes
from milkyway_agent.supervisor.process.readiness import Readiness
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_agent.system import processes
from milkyway_formats.service import Service
from tests.fakes.no_starter import NoStarter

pytestmark = pytest.mark.privileged

SLEEPS = ["/bin/sleep", "1000"]


class Slow(NoStarter):
    """A starter that takes its time to clean up, as one that deletes a container does."""

    def __init__(self) -> None:
        self.cleaning = trio.Event()
        self.may_end = trio.Event()

    def kill(self) -> None:
        """Leave it to the process itself."""

    async def clean_up(self) -> None:
        """Wait until the test lets it go."""
        self.cleaning.set()
        await self.may_end.wait()


@pytest.fixture
def stranger() -> Iterator[int]:
    """Give a process that is no service's of ours."""
    pid = processes.spawn(SLEEPS, {}, {})
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def test_what_was_reaped_is_signalled_by_nobody_though_its_number_is_another_process_s(stranger: int) -> None:
    log = Log(lambda: 0)
    reaper, alarms = Reaper(log), Alarms(log.note)
    watch = Watch(log.note, alarms)
    output = OutputPipes(watch, alarms, log)
    notify = NotifySockets(watch, log.note, "/nowhere", lambda _: None)
    io = StartIO(output, notify, Readiness(watch, alarms, lambda _, __: None), lambda *_: None)
    starter, done = Slow(), trio.Event()
    record = ServiceRecord(Definition("web", Service(name="web", command=SLEEPS), starter), 0)
    process = record.process = MainProcess(hold(processes.spawn(SLEEPS, {}, {}), reaper))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Cleanup(watch, io, reaper, log.note).clean_up, record, process, done.set)
            with trio.fail_after(10):
                await starter.cleaning.wait()
            assert record.pid == 0, "it is not there any more"
            assert record.pid == 0, "it is not there any more"
            other = processes.pidfd_open(stranger)
            if other != process.child.pidfd:
                os.dup2(other, process.child.pidfd)
            process.signal(signal.SIGKILL)  # as a stop command does that comes to its end now
            with trio.move_on_after(0.2):
                await trio.lowlevel.wait_readable(other)
            assert not processes.has_ended(other), "another service's process was killed"
            starter.may_end.set()
            with trio.fail_after(10):
                await done.wait()
            for descriptor in {other, process.child.pidfd}:
                os.close(descriptor)
    finally:
        watch.close()
