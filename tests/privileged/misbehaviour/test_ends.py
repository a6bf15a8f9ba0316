"""Programs that end, or execute another program, unexpectedly (``misbehaviour/ends.c``)."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import trio

from milkyway_formats.service import ReadyByExit, ReadyByNotify, Restart
from tests.privileged.misbehaviour.programs import AT_ONCE, ONCE, SHORTLY, STOPPED, UP, begin, misbehaving, program
from tests.privileged.supervisor.supervised import supervised

pytestmark = pytest.mark.privileged


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("ends/ends_well", "ended with status 0"),
        ("ends/ends_badly", "ended with status 1"),
        ("ends/is_killed_by_its_own_fault", "was killed by SIGSEGV"),
        ("ends/aborts", "was killed by SIGABRT"),
    ],
)
async def test_a_service_that_ends_at_once_is_started_until_the_start_limit(behaviour: str, said: str) -> None:
    async with supervised() as harness:
        name = begin(harness, behaviour, restart=AT_ONCE)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, *UP, *UP, "failed"]
        status = harness.supervisor.status_of(name)
        assert status.reason == f"{said}; given up after 3 starts within 60 s"
        assert (status.restarts, status.pid) == (2, 0)


async def test_a_service_that_ends_badly_once_and_is_not_to_be_restarted_has_failed() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/ends_badly", restart=ONCE)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, "failed"]


async def test_where_only_failures_are_restarted_a_service_that_ends_well_stays_stopped() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/ends_well_when_told", restart=Restart(when="on-failure", delay_ms=1))
        os.kill(await harness.up(name, "alive"), signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "stopped", "failed")
        assert harness.path(name) == [*UP, "idle"]
        assert harness.supervisor.status_of(name).reason == "ended with status 0"


async def test_where_only_failures_are_restarted_a_service_that_ends_badly_comes_back() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/ends_badly_when_told", restart=Restart(when="on-failure", delay_ms=1))
        os.kill(await harness.up(name, "alive"), signal.SIGUSR1)
        await harness.up(name, "alive", times=2)
        assert harness.path(name) == [*UP, *UP]
        assert harness.supervisor.status_of(name).reason == "ended with status 3"


async def test_a_crash_loop_that_recovers_stays_up(tmp_path: Path) -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/recovers_in_its_third_life", str(tmp_path / "lives"), restart=AT_ONCE)
        await harness.up(name, "well")
        assert harness.path(name) == [*UP, *UP, *UP]
        assert harness.supervisor.status_of(name).restarts == 2


async def test_a_oneshot_that_fails_twice_then_works_is_completed(tmp_path: Path) -> None:
    async with supervised() as harness:
        behaviour = "ends/works_in_its_third_life"
        name = begin(harness, behaviour, str(tmp_path / "lives"), type="oneshot", readiness=ReadyByExit(), restart=AT_ONCE)
        await harness.supervisor.wait_state(name, "started", "failed")
        assert harness.path(name) == ["waiting", "starting", "waiting", "starting", "waiting", "starting", "completed"]


async def test_a_oneshot_that_never_ends_is_late_and_stopped() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on", type="oneshot", readiness=ReadyByExit(), ready_timeout_ms=100, restart=ONCE)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == ["waiting", "starting", "faltering", "failed"]
        assert harness.supervisor.status_of(name).reason == "not ready within 0.1 s"


async def test_a_oneshot_killed_from_outside_has_not_done_its_work() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on", type="oneshot", readiness=ReadyByExit(), restart=ONCE)
        os.kill(await harness.told("alive"), signal.SIGKILL)
        await harness.supervisor.wait_state(name, "started", "failed")
        assert harness.path(name) == ["waiting", "starting", "failed"]


async def test_a_service_that_is_killed_from_outside_comes_back_as_another_process() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on", restart=AT_ONCE)
        first = await harness.up(name, "alive")
        os.kill(first, signal.SIGKILL)
        assert await harness.up(name, "alive", times=2) != first
        assert harness.path(name) == [*UP, *UP]
        assert harness.supervisor.status_of(name).reason == "was killed by SIGKILL"


async def test_a_service_that_is_killed_again_and_again_comes_back_every_time() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on", restart=Restart(delay_ms=1, delay_limit_ms=1, start_limit=1000))
        for times in range(1, 31):
            os.kill(await harness.up(name, "alive", times=times), signal.SIGKILL)
        await harness.up(name, "alive", times=31)
        assert harness.path(name) == UP * 31
        assert harness.supervisor.status_of(name).restarts == 30


async def test_a_service_that_is_killed_while_starting_was_never_started() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on", readiness=ReadyByNotify(), restart=AT_ONCE)
        for times in (1, 2, 3):
            os.kill(await harness.told("alive", times=times), signal.SIGKILL)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == ["waiting", "starting"] * 3 + ["failed"]


async def test_a_service_that_is_killed_while_stopping_is_stopped_and_not_started_again() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/dawdles_when_asked", restart=AT_ONCE)
        await harness.up(name, "alive")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.supervisor.stop, name)
            os.kill(await harness.told("asked"), signal.SIGKILL)
        assert harness.path(name) == [*UP, *STOPPED]
        assert "service_killed" not in harness.log.ring.events(name)


async def test_a_service_that_crashes_when_asked_to_stop_is_stopped_and_not_failed() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/crashes_when_asked", restart=AT_ONCE)
        await harness.up(name, "alive")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_service_that_dies_in_the_moment_of_being_asked_to_stop_is_stopped() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on", restart=AT_ONCE)
        for times in range(1, 11):
            pid = await harness.up(name, "alive", times=times)
            os.kill(pid, signal.SIGKILL)
            await harness.supervisor.stop(name)
            assert harness.path(name) == [*UP, *STOPPED] * times
            harness.supervisor.start(name)
        await harness.up(name, "alive", times=11)


async def test_a_service_that_becomes_another_program_is_the_same_process() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/becomes_another")
        assert await harness.up(name, "alive") == harness.supervisor.status_of(name).pid
        assert harness.path(name) == UP
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_name_that_looks_like_the_state_of_a_process_is_only_a_name() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/bears_a_name_that_lies")
        await harness.up(name, "liar")
        await harness.up(name, "alive")
        assert harness.path(name) == UP
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]
        await harness.event("orphan_reaped")
        assert "x) Z 1 (" in [record.facts.get("name") for record in harness.log.ring.records]


async def test_a_service_that_removes_its_own_program_cannot_be_started_again(tmp_path: Path) -> None:
    async with supervised() as harness:
        copy = shutil.copy(program("ends"), tmp_path / "program")
        service = misbehaving(harness, "ends/removes_its_own_program", str(copy))
        two = Restart(delay_ms=1, start_limit=2)
        name = begin(
            harness,
            "ends/removes_its_own_program",
            command=[str(copy), *service.command[1:]],
            readiness=ReadyByNotify(),
            restart=two,
        )
        pid = await harness.up(name, "ready")
        os.kill(pid, signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, "waiting", "starting", "failed"]
        await harness.line(name, f"launch: cannot execute {copy}: No such file or directory")


async def test_a_service_that_is_killed_is_cleaned_up_even_if_there_is_little_time() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/dawdles_when_asked", stop=SHORTLY)
        await harness.up(name, "alive")
        await harness.supervisor.stop(name)
        await harness.told("asked")
        assert harness.path(name) == [*UP, *STOPPED]
        assert "service_killed" in harness.log.ring.events(name), "it was asked first, and then killed"
