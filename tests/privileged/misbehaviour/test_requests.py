"""Requests at the wrong moment, and commands that can't be executed at all."""

import os
import signal
from pathlib import Path

import pytest
import trio
import trio.testing

from milkyway_agent.core.dependencies import Needs
from milkyway_formats.errors import RefusedError
from milkyway_formats.service import ReadyByNotify, ReadyByTcp, Service
from tests.privileged.misbehaviour.programs import AFTER_AN_HOUR, AT_ONCE, ONCE, SHORTLY, STOPPED, UP, begin, misbehaving
from tests.privileged.supervisor.supervised import supervised

pytestmark = pytest.mark.privileged

NEVER_READY = ReadyByNotify()


async def test_a_restart_while_it_is_starting_is_a_new_start() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on", readiness=NEVER_READY)
        first = await harness.told("alive")
        harness.supervisor.restart(name)
        assert await harness.told("alive", times=2) != first
        assert harness.path(name) == ["waiting", "starting", "restarting", "waiting", "starting"]


async def test_many_restarts_at_once_are_one() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on")
        await harness.up(name, "alive")
        for _ in range(10):
            harness.supervisor.restart(name)
        await harness.up(name, "alive", times=2)
        assert harness.path(name) == [*UP, "restarting", *UP]


async def test_a_stop_while_it_is_starting_stops_it() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on", readiness=NEVER_READY)
        await harness.told("alive")
        await harness.supervisor.stop(name)
        assert harness.path(name) == ["waiting", "starting", *STOPPED]


async def test_a_stop_during_its_backoff_leaves_it_at_rest() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/ends_badly_when_told", restart=AFTER_AN_HOUR)
        os.kill(await harness.up(name, "alive"), signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "stopped")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, "waiting", "idle"]


async def test_a_restart_during_its_backoff_starts_it_now() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/lives_on", restart=AFTER_AN_HOUR)
        os.kill(await harness.up(name, "alive"), signal.SIGKILL)
        await harness.supervisor.wait_state(name, "stopped")
        harness.supervisor.restart(name)
        await harness.up(name, "alive", times=2)
        assert harness.path(name) == [*UP, *UP]


async def test_a_start_while_it_is_stopping_starts_it_afterwards() -> None:
    async with supervised() as harness:
        name = begin(harness, "ends/dawdles_when_asked")
        await harness.up(name, "alive")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.supervisor.stop, name)
            pid = await harness.told("asked")
            harness.supervisor.start(name)
            os.kill(pid, signal.SIGKILL)
            await harness.up(name, "alive", times=2)
            nursery.cancel_scope.cancel()
        assert harness.path(name) == [*UP, "stopping", "restarting", *UP]
        os.kill(harness.supervisor.status_of(name).pid, signal.SIGKILL)


async def test_two_stops_at_once_stop_it_once() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/ignores_sigterm", stop=SHORTLY)
        await harness.up(name, "deaf")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.supervisor.stop, name)
            nursery.start_soon(harness.supervisor.stop, name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_when_what_it_requires_dies_it_is_stopped_and_comes_back_with_it() -> None:
    async with supervised() as harness:
        database = begin(harness, "ends/ends_badly_when_told", name="database", restart=AT_ONCE)
        harness.add(misbehaving(harness, "ends/lives_on", name="web"), needs=Needs(requires=("database",)))
        pid = await harness.up(database, "alive")
        harness.supervisor.start("web")
        await harness.up("web", "alive", times=2)
        os.kill(pid, signal.SIGUSR1)
        await harness.up("web", "alive", times=4)
        assert harness.path(database) == [*UP, *UP]
        assert harness.path("web") == [*UP, "restarting", *UP]


async def test_when_what_it_requires_has_failed_for_good_it_waits() -> None:
    async with supervised() as harness:
        database = begin(harness, "ends/ends_badly_when_told", name="database", restart=ONCE)
        harness.add(misbehaving(harness, "ends/lives_on", name="web"), needs=Needs(requires=("database",)))
        pid = await harness.up(database, "alive")
        harness.supervisor.start("web")
        await harness.up("web", "alive", times=2)
        os.kill(pid, signal.SIGUSR1)
        await harness.supervisor.wait_state(database, "failed")
        await harness.supervisor.wait_state("web", "stopped")
        assert harness.path(database) == [*UP, "failed"]
        assert harness.path("web") == [*UP, "restarting", "waiting"]
        assert harness.supervisor.status_of("web").reason == "requires database, which is failed"


async def test_a_service_that_requires_what_never_comes_up_was_never_started() -> None:
    async with supervised() as harness:
        begin(harness, "ends/ends_badly", name="database", readiness=ReadyByTcp(port=1), restart=AT_ONCE)
        harness.add(misbehaving(harness, "ends/lives_on", name="web"), needs=Needs(requires=("database",)))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("database", "failed")
        await trio.testing.wait_all_tasks_blocked()
        assert harness.path("web") == ["waiting"]
        await harness.supervisor.stop("web")
        assert harness.path("web") == ["waiting", "idle"]


async def test_a_ring_of_requirements_is_refused_by_its_full_name_and_nothing_of_it_runs() -> None:
    async with supervised() as harness:
        for name, needed in (("a", "b"), ("b", "c")):
            harness.add(misbehaving(harness, "ends/lives_on", name=name), needs=Needs(requires=(needed,)))
        with pytest.raises(RefusedError, match="cannot order services: they wait for one another: a → b → c → a"):
            harness.add(misbehaving(harness, "ends/lives_on", name="c"), needs=Needs(requires=("a",)))
        harness.supervisor.start("a")
        await trio.testing.wait_all_tasks_blocked()
        assert harness.path("a") == harness.path("b") == ["waiting"]
        with pytest.raises(RefusedError, match="cannot find service c: there is none of that name"):
            harness.supervisor.status_of("c")


async def not_executed(service: Service, complaint: str) -> None:
    """Assert that *service*, which is never ready by itself, fails with the launcher's *complaint*."""
    async with supervised() as harness:
        harness.add(service)
        harness.supervisor.start(service.name)
        await harness.supervisor.wait_state(service.name, "failed")
        await harness.line(service.name, f"launch: cannot {complaint}")
        assert harness.path(service.name) == ["waiting", "starting", "failed"]


def script(path: Path, text: str, mode: int = 0o755) -> Service:
    """Return a service that is the file *path* with *text*."""
    path.write_text(text)
    path.chmod(mode)
    return Service(name="script", command=[str(path)], readiness=NEVER_READY, restart=ONCE)


async def test_a_command_that_does_not_exist_fails() -> None:
    service = Service(name="none", command=["/nonexistent"], readiness=NEVER_READY, restart=ONCE)
    await not_executed(service, "execute /nonexistent: No such file or directory")


async def test_a_command_that_is_not_executable_fails(tmp_path: Path) -> None:
    path = tmp_path / "program"
    await not_executed(script(path, "#!/bin/sh\n", 0o644), f"execute {path}: Permission denied")


async def test_a_command_that_is_a_directory_fails(tmp_path: Path) -> None:
    service = Service(name="directory", command=[str(tmp_path)], readiness=NEVER_READY, restart=ONCE)
    await not_executed(service, f"execute {tmp_path}: Permission denied")


async def test_a_script_whose_interpreter_is_missing_fails(tmp_path: Path) -> None:
    path = tmp_path / "program"
    await not_executed(script(path, "#!/nonexistent\n"), f"execute {path}: No such file or directory")


async def test_a_file_that_is_no_program_fails(tmp_path: Path) -> None:
    path = tmp_path / "program"
    await not_executed(script(path, "neither script nor ELF\n"), f"execute {path}: Exec format error")


async def test_a_program_that_is_being_written_fails(tmp_path: Path) -> None:
    path = tmp_path / "program"
    service = script(path, "#!/bin/sh\n")
    with path.open("a"):
        await not_executed(service, f"execute {path}: Text file busy")


async def test_a_working_directory_that_is_gone_fails(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    service = Service(name="lost", command=["/bin/true"], working_directory=str(gone), readiness=NEVER_READY, restart=ONCE)
    await not_executed(service, f"enter {gone}: No such file or directory")
