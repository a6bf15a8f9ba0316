"""Health probes and watchdogs over real programs (``misbehaviour/engine.c``)."""

import os
import signal
from pathlib import Path

import pytest
import trio

from milkyway_formats.service import ExecProbe, Health, HttpProbe, ReadyByNotify, ReadyByTcp, Restart, TcpProbe
from tests.privileged.misbehaviour.programs import ONCE, STOPPED, UP, begin_direct, shell
from tests.privileged.misbehaviour.test_readiness import free_port
from tests.privileged.supervisor.supervised import heard_through, supervised

pytestmark = pytest.mark.privileged

FAILED = ["faltering", "failed"]


async def test_a_service_that_listens_no_more_is_stopped_after_so_many_failures() -> None:
    async with supervised() as harness:
        port = free_port()
        health = Health(probe=TcpProbe(port=port), interval_ms=10, failures=3)
        readiness = ReadyByTcp(port=port, interval_ms=10)
        name = begin_direct(harness, "engine/listens_until_told", str(port), readiness=readiness, health=health, restart=ONCE)
        pid = await harness.up(name, "listening")
        os.kill(pid, signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, *FAILED]
        assert harness.supervisor.status_of(name).reason == f"unwell: nothing listens on port {port} (3 times)"
        assert harness.log.ring.events(name).count("service_unwell") == 3


async def test_a_service_that_answers_badly_over_http_is_unwell() -> None:
    async with supervised() as harness:
        port = free_port()
        health = Health(probe=HttpProbe(port=port, path="/well"), interval_ms=10, failures=2)
        readiness = ReadyByTcp(port=port, interval_ms=10)
        name = begin_direct(harness, "engine/answers_http", str(port), readiness=readiness, health=health, restart=ONCE)
        os.kill(await harness.up(name, "listening"), signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, *FAILED]
        assert harness.supervisor.status_of(name).reason == "unwell: GET /well is answered with 503 (2 times)"


async def test_a_service_that_breaks_the_connection_off_is_unwell_and_not_the_supervisor() -> None:
    async with supervised() as harness:
        port = free_port()
        health = Health(probe=HttpProbe(port=port), interval_ms=10, failures=3)
        readiness = ReadyByTcp(port=port, interval_ms=10)
        name = begin_direct(harness, "engine/answers_http", str(port), readiness=readiness, health=health, restart=ONCE)
        pid = await harness.up(name, "listening")
        os.kill(pid, signal.SIGUSR1)
        await harness.told("worse")
        os.kill(pid, signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, *FAILED]
        assert "service_task_failed" not in harness.log.ring.events(name)


async def test_a_probe_that_ends_badly_takes_too_long_or_is_not_there_is_a_failure() -> None:
    async with supervised() as harness:
        for name, command, why in (
            ("badly", ["/bin/sh", "-c", "exit 3"], "its probe ended with 3"),
            ("slowly", ["/bin/sleep", "1000"], "its probe took longer than 0.05 s"),
            ("never", ["/not/there"], "cannot execute /not/there: No such file or directory"),
        ):
            health = Health(probe=ExecProbe(command=command), interval_ms=10, timeout_ms=50, failures=2)
            harness.add_direct(shell(name, "exec sleep 1000", health=health, restart=ONCE))
            harness.supervisor.start(name)
            await harness.supervisor.wait_state(name, "failed")
            assert harness.path(name) == [*UP, *FAILED]
            assert harness.supervisor.status_of(name).reason == f"unwell: {why} (2 times)"


async def test_failures_in_between_are_forgiven(tmp_path: Path) -> None:
    """Every second answer is bad: two in a row never come."""
    async with supervised() as harness:
        flag = tmp_path / "flag"
        script = f"if test -e {flag}; then rm {flag}; exit 1; else touch {flag}; fi"
        health = Health(probe=ExecProbe(command=["/bin/sh", "-c", script]), interval_ms=1, failures=2)
        harness.add_direct(shell("web", "exec sleep 1000", health=health))
        harness.supervisor.start("web")
        with trio.fail_after(10), harness.log.follow() as records:
            while harness.log.ring.events("web").count("service_unwell") < 4:
                await records.receive()
        await harness.supervisor.stop("web")
        assert harness.path("web") == [*UP, *STOPPED]


async def test_a_service_that_feeds_its_watchdog_goes_on_and_one_that_does_not_is_restarted() -> None:
    async with supervised() as harness:
        restart = Restart(delay_ms=1)
        behaviour = "engine/feeds_its_watchdog_until_told"
        name = begin_direct(harness, behaviour, readiness=ReadyByNotify(), watchdog_ms=500, restart=restart)
        pid = await harness.up(name, "feeding")
        await harness.line(name, "500000")
        with trio.move_on_after(1.2):  # longer than the watchdog timeout, in real time: the program feeds it
            await harness.supervisor.wait_state(name, "stopping", "failed")
        assert harness.path(name) == UP
        os.kill(pid, signal.SIGUSR1)
        await harness.told("silent")
        await harness.told("feeding", times=2)
        await harness.supervisor.wait_state(name, "started")
        assert harness.path(name) == [*UP, "faltering", *UP]
        assert "service_hung" in harness.log.ring.events(name)


async def test_a_service_that_says_itself_that_it_hangs_is_restarted_but_not_while_it_starts() -> None:
    async with supervised() as harness:
        name = begin_direct(harness, "engine/says_that_it_hangs", readiness=ReadyByNotify(), watchdog_ms=60_000, restart=ONCE)
        pid = await harness.told("starting")
        os.kill(pid, signal.SIGUSR1)
        await harness.up(name, "started")
        assert harness.supervisor.status_of(name).reason == "", "a service that is not started yet can't hang"
        os.kill(pid, signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, *FAILED]
        assert harness.supervisor.status_of(name).reason == "it reported that it hangs"


@pytest.mark.parametrize("grouped", [True, False])
async def test_a_service_that_is_stopped_while_it_is_asked_takes_the_probe_along(grouped: bool, tmp_path: Path) -> None:
    async with supervised() as harness:
        with heard_through(tmp_path / "asked") as asked:
            probe = ExecProbe(command=["/bin/sh", "-c", f"echo asked >{tmp_path}/asked; exec sleep 1000"])
            health = Health(probe=probe, interval_ms=1, timeout_ms=60_000)
            harness.add_direct(shell("web", "exec sleep 1000", health=health), grouped=grouped)
            harness.supervisor.start("web")
            await asked()
            await harness.supervisor.stop("web")
            assert harness.path("web") == [*UP, *STOPPED]
