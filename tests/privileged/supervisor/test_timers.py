"""Timers with real processes: the calendar and its stamps, the boot, an end, a clock that is set.

No test waits for a calendar time except the next second. Starts that come at once are those that were missed.
"""

import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio.testing

from milkyway_agent.core.service_state import Row
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.activation.timer_stamps import TimerStamps
from milkyway_agent.supervisor.activation.timers import ServiceTimers
from milkyway_agent.supervisor.service_record import ServiceRecord
from milkyway_agent.system import kernel
from milkyway_agent.system.state_file import KernelDirectory, PathDirectory
from milkyway_formats.listener import Listener, UnixStream
from milkyway_formats.service import ReadyByExit, Service
from milkyway_formats.timer import Timer
from tests.privileged.misbehaviour.programs import ONCE, shell
from tests.privileged.supervisor.supervised import Supervised, heard_through, supervised

pytestmark = pytest.mark.privileged

DAY_MS = 86_400_000
FAR = "*-02-29 00:00:00"


def job(*timers: Timer, script: str = "exit 0", **fields: object) -> Service:
    return shell("job", script, type="oneshot", readiness=ReadyByExit(), timers=list(timers), **fields)


@contextmanager
def stamps(directory: Path) -> Iterator[TimerStamps]:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield TimerStamps(KernelDirectory(opened))
    finally:
        os.close(opened)


def keep(stamps: TimerStamps, key: str, at_ms: int) -> None:
    """Propose, confirm and write a stamp, as a timer does when it fires."""
    stamps.write(stamps.propose(key, at_ms))
    stamps.confirm(key)


async def test_the_next_second_of_the_calendar_starts_it() -> None:
    async with supervised() as harness:
        harness.add_direct(job(Timer(calendar=["*-*-* *:*:*"])))
        harness.supervisor.start("job")
        assert harness.path("job") == ["waiting", "armed"]
        with trio.fail_after(10):
            while len(harness.path("job")) < 6:  # noqa: ASYNC110 (as often as anything happens to it)
                await trio.sleep(0.01)
        assert harness.path("job")[:6] == ["waiting", "armed", "starting", "armed", "starting", "armed"]
        assert harness.supervisor.status_of("job").reason == ""


async def test_a_time_that_is_far_away_starts_nothing_and_an_asked_restart_does_not_wait_for_it() -> None:
    async with supervised() as harness:
        harness.add_direct(job(Timer(calendar=[FAR])))
        harness.supervisor.start("job")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert harness.path("job") == ["waiting", "armed"]
        harness.supervisor.restart("job")
        await harness.supervisor.wait_state("job", "armed")
        assert harness.path("job") == ["waiting", "armed", "starting", "armed"]


async def test_a_service_that_is_running_and_asked_to_restart_runs_again_and_rests_then(tmp_path: Path) -> None:
    async with supervised() as harness:
        with heard_through(tmp_path / "runs") as ran:
            script = f"echo run >{tmp_path}/runs; test -e {tmp_path}/end || exec sleep 1000"
            harness.add_direct(job(Timer(calendar=[FAR]), script=script))
            harness.supervisor.start("job")
            harness.supervisor.restart("job")
            await ran()
            (tmp_path / "end").touch()
            harness.supervisor.restart("job")
            await ran()
            await harness.supervisor.wait_state("job", "armed")
        assert harness.path("job") == ["waiting", "armed", "starting", "restarting", "waiting", "starting", "armed"]


async def test_some_time_after_the_boot_which_has_passed_starts_it_once() -> None:
    async with supervised() as harness:
        harness.add_direct(job(Timer(after_boot_ms=1)))
        harness.supervisor.start("job")
        await harness.event("service_triggered")
        await harness.supervisor.wait_state("job", "armed")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert harness.path("job") == ["waiting", "armed", "starting", "armed"]


async def test_some_time_after_its_end_starts_it_again_whatever_the_end() -> None:
    async with supervised() as harness:
        harness.add_direct(job(Timer(after_boot_ms=1), Timer(after_end_ms=1), script="exit 1", restart=ONCE))
        harness.supervisor.start("job")
        with trio.fail_after(10):
            while harness.path("job").count("starting") < 5:
                await trio.lowlevel.checkpoint()
        await harness.supervisor.stop("job")
        path = harness.path("job")
        assert path[:6] == ["waiting", "armed", "starting", "armed", "starting", "armed"]
        assert "failed" not in path


async def test_an_end_that_was_asked_for_is_an_end_too() -> None:
    """It is stopped because it loses a requirement; when that is back, its time after that end has come."""
    async with supervised() as harness:
        run = job(Timer(after_end_ms=1), script="exec sleep 1000", requires=["needed"])
        harness.add_direct(shell("needed", "exec sleep 1000"), run)
        harness.supervisor.start("needed")
        await harness.supervisor.wait_state("needed", "started")
        harness.supervisor.restart("job")
        await harness.supervisor.wait_state("job", "starting")
        await harness.supervisor.stop("needed")
        harness.supervisor.start("needed")
        with trio.fail_after(10):
            while harness.path("job")[-1] != "starting":
                await trio.lowlevel.checkpoint()
        assert harness.path("job") == ["waiting", "starting", "restarting", "waiting", "armed", "starting"]


async def test_a_time_that_was_missed_is_made_up_for_once_and_kept(tmp_path: Path) -> None:
    missed = kernel.realtime_ms() - 5 * DAY_MS
    timers = [Timer(calendar=["daily"], persistent=True), Timer(calendar=["daily"])]
    with stamps(tmp_path) as kept:
        keep(kept, "job.0", missed)
        async with supervised() as harness:
            harness.supervisor.keep_stamps(kept)
            harness.add_direct(job(*timers))
            harness.supervisor.start("job")
            await harness.event("service_triggered")
            await harness.supervisor.wait_state("job", "armed")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert harness.path("job") == ["waiting", "armed", "starting", "armed"]
    with stamps(tmp_path) as kept:
        stamp = kept.get("job.0")
        assert stamp is not None and stamp >= missed + 5 * DAY_MS
        assert kept.get("job.1") is None, "that timer is not persistent"


async def test_stamps_of_services_that_are_no_more_are_forgotten(tmp_path: Path) -> None:
    with stamps(tmp_path) as kept:
        for key in ("job.0", "job.1", "gone.0"):
            keep(kept, key, kernel.realtime_ms())
        async with supervised() as harness:
            harness.supervisor.keep_stamps(kept)
            harness.add_direct(job(Timer(calendar=["daily"], persistent=True)))
            harness.supervisor.forget_stale_stamps()
        keep(kept, "other.0", 1)
    with stamps(tmp_path) as kept:
        assert [key for key in ("job.0", "job.1", "gone.0") if kept.get(key) is not None] == ["job.0"]


async def test_a_stamp_that_cannot_be_kept_holds_nothing_up(tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    with stamps(directory) as kept:
        keep(kept, "job.0", kernel.realtime_ms() - 5 * DAY_MS)
        (directory / "timer-stamps").unlink()
        directory.rmdir()
        async with supervised() as harness:
            harness.supervisor.keep_stamps(kept)
            harness.add_direct(job(Timer(calendar=["daily"], persistent=True)))
            harness.supervisor.start("job")
            await harness.event("timer_stamp_not_kept")
            await harness.supervisor.wait_state("job", "armed")
            assert harness.path("job") == ["waiting", "armed", "starting", "armed"]


class StuckDirectory(KernelDirectory):
    """A disk whose writes hang until the test lets them go on, and which counts them."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.writes = 0
        self.works = threading.Event()

    def write(self, name: str, data: bytes) -> None:
        self.writes += 1
        self.works.wait()
        super().write(name, data)


PERSISTENT = Timer(calendar=["daily"], persistent=True)


@contextmanager
def stuck_disk(directory: Path, *names: str) -> Iterator[StuckDirectory]:
    """Yield a stuck disk, whose stamps say that the first timer of each of *names* has missed its time."""
    with stamps(directory) as kept:
        for name in names:
            keep(kept, f"{name}.0", kernel.realtime_ms() - 5 * DAY_MS)
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stuck = StuckDirectory(opened)
    try:
        yield stuck
    finally:
        stuck.works.set()
        os.close(opened)


async def asked(stuck: StuckDirectory) -> None:
    """Return when a stamp is being written."""
    with trio.fail_after(10):
        while not stuck.writes:
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def being_kept(directory: Path) -> AsyncIterator[tuple[Supervised, StuckDirectory]]:
    """Yield a supervisor whose service job has missed its time, and the stuck disk to which its stamp is being written."""
    with stuck_disk(directory, "job") as stuck:
        async with supervised() as harness:
            harness.supervisor.keep_stamps(TimerStamps(stuck))
            harness.add_direct(job(PERSISTENT))
            harness.supervisor.start("job")
            await asked(stuck)
            yield harness, stuck


async def test_a_disk_that_hangs_holds_up_only_the_services_that_wait_for_it(tmp_path: Path) -> None:
    async with being_kept(tmp_path) as (harness, stuck):
        harness.add_direct(shell("other", "exit 0", type="oneshot", readiness=ReadyByExit(), timers=[Timer(after_boot_ms=1)]))
        harness.supervisor.start("other")
        await harness.supervisor.wait_state("other", "starting")
        await harness.supervisor.wait_state("other", "armed")
        assert harness.path("job") == ["waiting", "armed"]
        stuck.works.set()
        await harness.supervisor.wait_state("job", "starting")


async def test_a_time_that_comes_while_it_is_not_armed_any_more_is_used_when_it_is_again(tmp_path: Path) -> None:
    async with being_kept(tmp_path) as (harness, stuck):
        await harness.supervisor.stop("job")
        stuck.works.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert "starting" not in harness.path("job")
        harness.supervisor.start("job")
        await starts_once(harness)


async def test_a_service_that_is_armed_again_while_its_stamp_is_written_starts_once_and_writes_once(tmp_path: Path) -> None:
    async with being_kept(tmp_path) as (harness, stuck):
        await harness.supervisor.stop("job")
        harness.supervisor.start("job")
        assert harness.path("job")[-1] == "armed"
        stuck.works.set()
        await starts_once(harness)
        assert stuck.writes == 1


async def test_a_change_of_its_timers_while_a_stamp_is_written_loses_no_time(tmp_path: Path) -> None:
    async with being_kept(tmp_path) as (harness, stuck):
        await harness.supervisor.replace({"job": harness.definition(job(PERSISTENT, Timer(calendar=[FAR])))})
        stuck.works.set()
        await starts_once(harness)


async def starts_once(harness: Supervised) -> None:
    """Wait until the service job was started, and check that it is not started again."""
    with trio.fail_after(10):
        while "starting" not in harness.path("job"):
            await trio.lowlevel.checkpoint()
    await harness.supervisor.wait_state("job", "armed")
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert harness.path("job").count("starting") == 1


async def test_many_times_that_come_together_are_written_together(tmp_path: Path) -> None:
    names = [f"job-{number}" for number in range(20)]
    with stuck_disk(tmp_path, *names) as stuck:
        async with supervised() as harness:
            harness.supervisor.keep_stamps(TimerStamps(stuck))
            harness.add_direct(
                *(shell(name, "exit 0", type="oneshot", readiness=ReadyByExit(), timers=[PERSISTENT]) for name in names)
            )
            harness.supervisor.start(*names)
            await asked(stuck)
            await trio.testing.wait_all_tasks_blocked(0.05)
            stuck.works.set()
            for name in names:
                with trio.fail_after(10):
                    while "starting" not in harness.path(name):
                        await trio.lowlevel.checkpoint()
            assert stuck.writes <= 2
            await harness.supervisor.stop_all()


class NoThreadStamps(TimerStamps):
    """In place of the disk: no thread can be started for writing."""

    def write(self, version: int) -> None:
        raise RuntimeError("can't start new thread")


async def test_a_service_that_finds_no_thread_to_write_with_starts_nevertheless_and_goes_on(tmp_path: Path) -> None:
    with stamps(tmp_path) as kept:
        keep(kept, "job.0", kernel.realtime_ms() - 5 * DAY_MS)
        async with supervised() as harness:
            harness.supervisor.keep_stamps(NoThreadStamps(PathDirectory(str(tmp_path))))
            harness.add_direct(job(PERSISTENT))
            harness.supervisor.start("job")
            await harness.event("timer_stamp_not_kept")
            await harness.supervisor.wait_state("job", "armed")
            assert harness.path("job") == ["waiting", "armed", "starting", "armed"]


async def test_a_client_may_come_before_its_time(tmp_path: Path) -> None:
    async with supervised() as harness:
        where = str(tmp_path / "socket")
        harness.add_direct(
            shell(
                "job",
                "exec sleep 1000",
                timers=[Timer(calendar=[FAR])],
                listeners=[Listener(name="a", address=UnixStream(path=where))],
            )
        )
        harness.supervisor.start("job")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(where)
            await harness.supervisor.wait_state("job", "started")
        assert harness.path("job") == ["waiting", "armed", "starting", "started"]


# --- a clock that is set: this machine's own must not be, so it is an argument --------------------------------------------


class Clocks(NamedTuple):
    """What two clocks show, which the test can set."""

    realtime: list[int]
    boottime: list[int]


async def test_when_the_clock_is_set_all_times_are_recalculated() -> None:
    """The kernel's timer is armed anew whenever the clock is set; the test looks at the times it is armed for."""
    clocks = Clocks([1_000_000_000_000], [5_000_000])
    triggered: list[str] = []
    notes: list[str] = []

    def note(event: str, **_: object) -> None:
        notes.append(event)

    alarms = Alarms(note)
    watch = Watch(note, alarms)
    triggers = ServiceTimers(
        watch,
        alarms,
        note,
        lambda record, why: triggered.append(f"{record.definition.name}: {why}"),
        lambda *task: pytest.fail(f"no stamp is kept here: {task}"),
        clock_ms=lambda: clocks.boottime[0],
        chance=lambda: 0.0,
        realtime_ms=lambda: clocks.realtime[0],
    )
    async with supervised() as harness, trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        # Its next time is some hours after its end; once the clock has jumped, it is that of the calendar.
        definition = harness.definition(job(Timer(calendar=["daily"]), Timer(after_end_ms=3_600_000)))
        record = ServiceRecord(definition, 0)
        record.row = Row.ARMED
        triggers.add(record)
        triggers.ended(record)
        triggers.arm(record)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not triggered
        clocks.realtime[0] += 3 * DAY_MS
        triggers._clock_set()
        with trio.fail_after(10):
            while not triggered:
                await trio.lowlevel.checkpoint()
        assert triggered == ["job: daily"]
        assert notes == ["clock_was_set"]
        triggers.remove(record)
        triggers.close_clock()
        watch.close()
        nursery.cancel_scope.cancel()
