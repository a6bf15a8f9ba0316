"""The direct starter: with and without a control group, when its launcher dies, and what it costs at rest."""

import os
import signal
import tracemalloc
from pathlib import Path

import pytest
import trio

from milkyway_agent.system import processes
from milkyway_formats.service import ReadyByNotify, Restart, Stop
from tests.privileged.misbehaviour.programs import AT_ONCE, ONCE, STOPPED, UP, begin_direct, misbehaving, shell
from tests.privileged.supervisor.supervised import Supervised, supervised

pytestmark = pytest.mark.privileged


async def test_in_a_group_all_that_it_leaves_behind_dies_with_it() -> None:
    async with supervised() as harness:
        name = begin_direct(harness, "notify/has_a_child_say_ready", readiness=ReadyByNotify())
        await harness.up(name, "child")  # it leads a session
        assert Path(harness.group, name).is_dir()
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]
        assert not Path(harness.group, name).exists()


async def test_without_a_group_what_stays_in_its_process_group_dies_with_it() -> None:
    async with supervised() as harness:
        harness.add_direct(shell("web", "sleep 1000 & echo $!; exec sleep 1000"), grouped=False)
        harness.supervisor.start("web")
        for end in ("stopped", "killed"):
            await harness.supervisor.wait_state("web", "started")
            times = 1 if end == "stopped" else 2
            with trio.fail_after(10):
                while len(harness.lines("web")) < times:
                    await trio.lowlevel.checkpoint()
            child = processes.pidfd_open(int(harness.lines("web")[-1]))
            if end == "stopped":
                await harness.supervisor.stop("web")
                harness.supervisor.start("web")
            else:
                os.kill(harness.supervisor.status_of("web").pid, signal.SIGKILL)
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(child)
            os.close(child)
        assert harness.path("web")[:5] == [*UP, *STOPPED]


async def test_without_a_group_a_service_that_ignores_its_signal_is_killed_with_what_it_started() -> None:
    async with supervised() as harness:
        script = "trap '' TERM; sleep 1000 & echo deaf; while :; do wait; done"
        harness.add_direct(shell("deaf", script, stop=Stop(timeout_ms=50)), grouped=False)
        harness.supervisor.start("deaf")
        await harness.line("deaf", "deaf")
        await harness.supervisor.wait_state("deaf", "started")
        await harness.supervisor.stop("deaf")
        assert harness.path("deaf") == [*UP, *STOPPED]
        assert "service_killed" in harness.log.ring.events("deaf")


async def test_without_a_group_a_child_in_its_session_may_speak_for_it_and_a_stranger_may_not() -> None:
    async with supervised() as harness:
        service = shell("web", "true; exec sleep 1000", readiness=ReadyByNotify(), ready_timeout_ms=0)
        tells = misbehaving(harness, "notify/tells_its_address", readiness=ReadyByNotify())
        harness.add_direct(service, tells, grouped=False)
        harness.supervisor.start("web", tells.name)
        await harness.told("waiting")
        await harness.event("output")
        liar = misbehaving(harness, "notify/says_ready_for_another", harness.lines(tells.name)[0])
        harness.add_direct(liar, grouped=False)
        harness.supervisor.start(liar.name)
        pid = await harness.up(liar.name, "lied")
        assert pid == harness.supervisor.status_of(liar.name).pid
        teller = await harness.told("waiting")
        os.kill(teller, signal.SIGUSR1)
        await harness.supervisor.wait_state(tells.name, "started")
        assert harness.supervisor.status_of(tells.name).reason == ""
        assert harness.path("web") == ["waiting", "starting"]


async def test_what_cannot_be_executed_says_why_and_is_tried_again() -> None:
    async with supervised() as harness:
        service = shell("web", "", restart=AT_ONCE)
        harness.add_direct(type(service)(name="web", command=["/not/there"], restart=AT_ONCE))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "failed")
        assert harness.path("web") == [*["waiting", "starting"] * 3, "failed"]
        assert harness.supervisor.status_of("web").reason == (
            "cannot execute /not/there: No such file or directory; given up after 3 starts within 60 s"
        )


def kill_launcher(harness: Supervised) -> bool:
    """Kill the launcher; tell whether there was one. (Its pid is 0 from its end until the next start.)"""
    if harness.launcher is None or harness.launcher.pid <= 0:
        return False
    os.kill(harness.launcher.pid, signal.SIGKILL)
    return True


async def test_a_launcher_that_died_is_replaced_and_services_do_not_notice() -> None:
    async with supervised() as harness:
        first = begin_direct(harness, "ends/lives_on", restart=Restart(delay_ms=1))
        pid = await harness.up(first, "alive")
        for times in range(2, 7):
            assert kill_launcher(harness)
            name = begin_direct(harness, "ends/lives_on", name=f"after-{times}", restart=Restart(delay_ms=1))
            await harness.up(name, "alive", times=times)
        assert harness.supervisor.status_of(first).pid == pid
        assert harness.path(first) == UP


async def test_a_launcher_that_hangs_is_ended_after_a_while_and_the_others_start() -> None:
    async with supervised() as harness:
        harness.patience = 0.1
        first = begin_direct(harness, "ends/lives_on")
        pid = await harness.up(first, "alive")
        assert harness.launcher is not None
        hung = harness.launcher.pid
        os.kill(hung, signal.SIGSTOP)
        second = begin_direct(harness, "ends/lives_on", name="second", restart=Restart(delay_ms=1))
        await harness.up(second, "alive", times=2)
        assert harness.path(second) == [*UP[:2], *UP]
        assert harness.launcher.pid != hung
        assert (harness.supervisor.status_of(first).pid, harness.path(first)) == (pid, UP)
        assert "cannot start it: the launcher hung, and was ended" in str([entry.facts for entry in harness.log.ring.records])
        with trio.fail_after(10):  # it is reaped like any orphan
            while Path(f"/proc/{hung}").exists():
                await trio.lowlevel.checkpoint()


async def test_a_launcher_that_dies_in_the_middle_loses_no_service() -> None:
    """Every request is answered: services are tried again, after what was already started is cleaned up."""
    async with supervised() as harness:
        restart = Restart(delay_ms=1, start_limit=100)
        services = [misbehaving(harness, "ends/lives_on", name=f"many-{number}", restart=restart) for number in range(40)]
        harness.add_direct(*services)
        harness.supervisor.start(*(service.name for service in services))
        killed = 0
        while killed < 5 and harness.launcher is not None and harness.launcher.pending:
            killed += kill_launcher(harness)
            await trio.lowlevel.checkpoint()
        assert killed
        with trio.fail_after(30):
            for service in services:
                await harness.supervisor.wait_state(service.name, "started")
        pids = {harness.supervisor.status_of(service.name).pid for service in services}
        assert len(pids) == len(services)
        with trio.fail_after(10):
            while {told.pid for told in harness.heard if told.pid in pids} != pids:
                await trio.lowlevel.checkpoint()


async def test_a_stop_while_its_start_is_under_way_stops_it_afterwards() -> None:
    async with supervised() as harness:
        name = begin_direct(harness, "ends/lives_on", restart=ONCE)
        assert harness.kept(name) is None, "its start is under way"
        await harness.supervisor.stop(name)
        assert harness.path(name)[-1] == "idle"
        assert harness.path(name)[:2] == ["waiting", "starting"]


async def test_one_that_is_removed_and_added_again_is_another() -> None:
    async with supervised() as harness:
        for times in (1, 2, 3):
            name = begin_direct(harness, "ends/lives_on")
            await harness.up(name, "alive", times=times)
            await harness.supervisor.remove(name)
            assert harness.supervisor.names() == []
        assert harness.path(name) == [*UP, *STOPPED] * 3


async def test_a_service_at_rest_costs_little() -> None:
    """Its share of Python's memory, with its pipe, process and definition; the log's ring is full before."""
    async with supervised() as harness:
        harness.definition(shell("first", "exec sleep 1000"))  # with the launcher
        for number in range(1200):
            harness.log.note("filled", number=number)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            names = [f"many-{number}" for number in range(100)]
            harness.add_direct(*(shell(name, "exec sleep 1000") for name in names))
            harness.supervisor.start(*names)
            for name in names:
                await harness.supervisor.wait_state(name, "started")
            each = (tracemalloc.get_traced_memory()[0] - before) / len(names)
        finally:
            tracemalloc.stop()
        print(f"{each:.0f} bytes each")
        assert each < 12 * 1024
