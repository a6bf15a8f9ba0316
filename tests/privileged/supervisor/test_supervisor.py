"""The supervisor with real processes: each test is a small program that behaves well or badly."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from milkyway_agent.core.dependencies import Needs
from milkyway_agent.launching.child import Child
from milkyway_agent.launching.program import Program
from milkyway_agent.launching.run_to_end import run_to_end
from milkyway_agent.launching.spawned import SpawnedStarter
from milkyway_agent.launching.starter import NONE, Abilities, TaskStarter
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.system import cgroups, processes
from milkyway_formats.errors import RefusedError
from milkyway_formats.service import ReadyByExit, ReadyByNotify, ReadyByTcp, Restart, Service, Stop
from tests.privileged.supervisor.supervised import Supervised, launch, supervised

pytestmark = pytest.mark.privileged

PYTHON = "/usr/bin/python3"
NEVER = Restart(when="never")


def shell(name: str, script: str, **fields: object) -> Service:
    return Service(name=name, command=["/bin/sh", "-c", script], **fields)  # type: ignore[arg-type] # as msgspec takes them


def pids_of(cgroup: str) -> list[int]:
    return cgroups.processes(cgroup) if Path(cgroup).exists() else []


async def test_a_longrun_is_started_and_stopped_and_leaves_nothing() -> None:
    async with supervised() as harness:
        cgroup = harness.add(shell("web", "echo hello; exec sleep 1000"))
        harness.supervisor.start("web")
        assert await harness.supervisor.wait_state("web", "started") == "started"
        await harness.line("web", "hello")
        status = harness.supervisor.status_of("web")
        assert status.pid in pids_of(cgroup)
        assert status.wanted
        await harness.supervisor.stop("web")
        assert harness.path("web") == ["waiting", "starting", "started", "stopping", "idle"]
        assert not Path(cgroup).exists()
        assert harness.supervisor.status_of("web").pid == 0


async def test_a_oneshot_is_started_when_it_has_ended_well() -> None:
    async with supervised() as harness:
        harness.add(shell("once", "exit 0", type="oneshot", readiness=ReadyByExit()))
        harness.supervisor.start("once")
        assert await harness.supervisor.wait_state("once", "started", "failed") == "started"
        assert harness.path("once") == ["waiting", "starting", "completed"]


async def test_a_oneshot_that_fails_for_good_says_how() -> None:
    async with supervised() as harness:
        harness.add(shell("once", "exit 7", type="oneshot", readiness=ReadyByExit(), restart=NEVER))
        harness.supervisor.start("once")
        assert await harness.supervisor.wait_state("once", "started", "failed") == "failed"
        assert harness.supervisor.status_of("once").reason == "ended with status 7"


async def test_it_is_started_again_until_the_start_limit() -> None:
    async with supervised() as harness:
        restart = Restart(delay_ms=1, delay_limit_ms=5, start_limit=4)
        harness.add(shell("crasher", "kill -SEGV $$", restart=restart))
        harness.supervisor.start("crasher")
        await harness.supervisor.wait_state("crasher", "failed")
        assert harness.path("crasher").count("starting") == 4
        status = harness.supervisor.status_of("crasher")
        assert status.reason == "was killed by SIGSEGV; given up after 4 starts within 60 s"
        assert status.restarts == 3
        # When it is asked for again, it is tried afresh.
        harness.supervisor.start("crasher")
        await harness.supervisor.wait_state("crasher", "started", "starting")
        await harness.supervisor.wait_state("crasher", "failed")
        assert harness.path("crasher").count("starting") == 8


async def test_a_service_that_ignores_sigterm_is_killed_after_its_timeout() -> None:
    async with supervised() as harness:
        script = "trap '' TERM; echo armed; while :; do sleep 1000; done"
        harness.add(shell("deaf", script, stop=Stop(timeout_ms=50)))
        harness.supervisor.start("deaf")
        await harness.line("deaf", "armed")
        with trio.fail_after(10):
            await harness.supervisor.stop("deaf")
        assert "service_killed" in harness.log.ring.events("deaf")


async def test_a_service_that_obeys_sigterm_is_not_killed() -> None:
    async with supervised() as harness:
        harness.add(shell("polite", "trap 'echo bye; exit 0' TERM; echo armed; while :; do sleep 1000 & wait; done"))
        harness.supervisor.start("polite")
        await harness.line("polite", "armed")
        await harness.supervisor.stop("polite")
        await harness.line("polite", "bye")
        assert "service_killed" not in harness.log.ring.events("polite")


async def test_its_own_stop_signal_is_used() -> None:
    async with supervised() as harness:
        script = "trap 'echo quit; exit 0' QUIT; echo armed; while :; do sleep 1000 & wait; done"
        harness.add(shell("quitter", script, stop=Stop(signal="QUIT")))
        harness.supervisor.start("quitter")
        await harness.line("quitter", "armed")
        await harness.supervisor.stop("quitter")
        await harness.line("quitter", "quit")


async def test_what_it_leaves_behind_dies_with_it() -> None:
    """A program that forks twice and whose grandchild leaves session and parent is still in its group."""
    async with supervised() as harness:
        cgroup = harness.add(shell("leaker", "setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & sleep 0.2; exec sleep 1000"))
        harness.supervisor.start("leaker")
        await harness.supervisor.wait_state("leaker", "started")
        with trio.fail_after(10):
            while len(pids_of(cgroup)) < 3:  # noqa: ASYNC110 (the kernel sends no event for it)
                await trio.sleep(0.01)
        leaked = [processes.pidfd_open(pid) for pid in pids_of(cgroup)]
        await harness.supervisor.stop("leaker")
        assert not Path(cgroup).exists()
        for pidfd in leaked:
            with trio.fail_after(5):
                await trio.lowlevel.wait_readable(pidfd)
            os.close(pidfd)


async def test_an_orphan_is_reaped_and_a_claimed_child_is_not() -> None:
    async with supervised() as harness:
        # Not of a service: sh starts it and ends first, and the reaper adopts it.
        process = await trio.lowlevel.open_process(["/bin/sh", "-c", "sleep 0.1 & exit 5"])
        assert await process.wait() == 5, "trio's own child was left to trio"
        await harness.event("orphan_reaped")
        assert [zombie for zombie in processes.processes() if zombie.parent == os.getpid() and zombie.state == "Z"] == []


async def test_a_flood_of_output_is_cut_counted_and_survived() -> None:
    async with supervised() as harness:
        harness.add(shell("flood", "yes 'many words to fill the pipe quickly'"))
        harness.add(shell("calm", "echo calm; exec sleep 1000"))
        harness.supervisor.start("flood")
        await harness.event("output_dropped")
        harness.supervisor.start("calm")
        await harness.line("calm", "calm")
        await harness.supervisor.stop("flood")


async def test_a_service_that_is_never_ready_is_stopped_and_tried_again() -> None:
    async with supervised() as harness:
        restart = Restart(delay_ms=1, start_limit=2)
        service = shell("mute", "exec sleep 1000", readiness=ReadyByNotify(), ready_timeout_ms=50, restart=restart)
        harness.add(service)
        harness.supervisor.start("mute")
        with trio.fail_after(10):
            await harness.supervisor.wait_state("mute", "failed")
        assert harness.path("mute") == ["waiting", *("starting", "faltering", "waiting"), "starting", "faltering", "failed"]
        reason = harness.supervisor.status_of("mute").reason
        assert reason == "not ready within 0.05 s; given up after 2 starts within 60 s"


NOTIFY = """
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"STATUS=warming up"); print("asked", flush=True); sys.stdin.close()
os.kill(os.getpid(), 19)
s.send(b"READY=1"); time.sleep(1000)
"""


async def test_sd_notify_makes_it_ready() -> None:
    async with supervised() as harness:
        harness.add(Service(name="notifier", command=[PYTHON, "-c", NOTIFY], readiness=ReadyByNotify()))
        harness.supervisor.start("notifier")
        await harness.line("notifier", "asked")
        assert harness.supervisor.row("notifier").label == "starting"
        pid = harness.supervisor.status_of("notifier").pid
        with trio.fail_after(10):
            while processes.parse_stat(Path(f"/proc/{pid}/stat").read_text()).state != "T":  # noqa: ASYNC110 (no event for it)
                await trio.sleep(0.001)
        os.kill(pid, 18)
        with trio.fail_after(10):
            await harness.supervisor.wait_state("notifier", "started")
        assert harness.supervisor.status_of("notifier").reason == "warming up"


async def test_a_stranger_cannot_say_ready_for_it() -> None:
    async with supervised() as harness:
        sleeper = shell("sleeper", "echo $NOTIFY_SOCKET; exec sleep 1000", readiness=ReadyByNotify())
        harness.add(sleeper)
        harness.supervisor.start("sleeper")
        await harness.event("output")
        address = harness.lines("sleeper")[0]
        code = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', {address!r})"
        await trio.run_process([PYTHON, "-c", code])
        await trio.testing.wait_all_tasks_blocked()
        assert harness.supervisor.row("sleeper").label == "starting"


async def test_a_listening_port_makes_it_ready() -> None:
    async with supervised() as harness:
        code = (
            "import socket,time; s=socket.socket(); s.bind(('127.0.0.1', 47113)); time.sleep(.2); s.listen(); time.sleep(1000)"
        )
        service = Service(name="tcp", command=[PYTHON, "-c", code], readiness=ReadyByTcp(port=47113, interval_ms=10))
        harness.add(service)
        harness.supervisor.start("tcp")
        with trio.fail_after(10):
            await harness.supervisor.wait_state("tcp", "started")


async def test_what_cannot_be_executed_fails_with_the_launchers_own_words() -> None:
    async with supervised() as harness:
        harness.add(Service(name="none", command=["/nonexistent"], restart=NEVER))
        harness.supervisor.start("none")
        await harness.supervisor.wait_state("none", "failed")
        await harness.line("none", "launch: cannot execute /nonexistent: No such file or directory")
        assert harness.supervisor.status_of("none").reason == "ended with status 111"


async def test_requirements_start_first_and_hold_back() -> None:
    async with supervised() as harness:
        harness.add(shell("database", "exec sleep 1000"))
        harness.add(shell("web", "exec sleep 1000"), needs=Needs(requires=("database",)))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "started")
        order = [change.name for change in harness.changes if change.now.label == "started"]
        assert order == ["database", "web"]
        await harness.supervisor.stop("database")
        assert harness.supervisor.row("web").label == "waiting"
        assert harness.supervisor.status_of("web").reason == "requires database, which is idle"
        stops = [change.name for change in harness.changes if change.now.current == "stopping"]
        assert stops == ["web", "database"]
        harness.supervisor.start("database")
        await harness.supervisor.wait_state("web", "started")


async def test_a_service_that_never_comes_up_is_not_waited_for_for_ever() -> None:
    async with supervised() as harness:
        restart = Restart(delay_ms=1, delay_limit_ms=5, start_limit=1000)
        harness.add(shell("loop", "exit 1", readiness=ReadyByTcp(port=1), restart=restart))
        harness.supervisor.start("loop")
        with trio.fail_after(10):
            assert await harness.supervisor.wait_settled("loop", tries=3) != "started"
        assert harness.path("loop").count("starting") == 3


async def test_a_restart_is_a_new_process() -> None:
    async with supervised() as harness:
        harness.add(shell("web", "exec sleep 1000"))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "started")
        before = harness.supervisor.status_of("web").pid
        harness.supervisor.restart("web")
        await harness.supervisor.wait_state("web", "stopping")
        await harness.supervisor.wait_state("web", "started")
        assert harness.supervisor.status_of("web").pid != before


async def test_a_kill_from_outside_brings_it_back() -> None:
    async with supervised() as harness:
        harness.add(shell("web", "exec sleep 1000", restart=Restart(delay_ms=1)))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "started")
        os.kill(harness.supervisor.status_of("web").pid, 9)
        await harness.supervisor.wait_state("web", "stopped")
        await harness.supervisor.wait_state("web", "started")
        assert harness.supervisor.status_of("web").reason == "was killed by SIGKILL"


class Broken(TaskStarter):
    """A starter with a bug."""

    abilities = Abilities()
    cgroup = "/nonexistent"

    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = NONE) -> Child:
        raise ZeroDivisionError

    def kill(self) -> None:
        raise ZeroDivisionError

    async def clean_up(self) -> None:
        raise ZeroDivisionError


async def test_a_bug_makes_one_service_failed_and_nothing_else() -> None:
    async with supervised() as harness:
        harness.supervisor.add(Definition("buggy", shell("buggy", ""), Broken()))
        harness.add(shell("web", "exec sleep 1000"))
        harness.supervisor.start("buggy")
        await harness.supervisor.wait_state("buggy", "failed")
        assert "ZeroDivisionError" in harness.supervisor.status_of("buggy").reason
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "started")


async def test_what_makes_no_sense_is_refused() -> None:
    async with supervised() as harness:
        harness.add(shell("a", ""), needs=Needs(after=("b",)))
        with pytest.raises(RefusedError, match="cannot order services: they wait for one another: a → b → a"):
            harness.add(shell("b", ""), needs=Needs(requires=("a",)))
        with pytest.raises(RefusedError, match="cannot supervise a: there is a service of that name"):
            harness.add(shell("a", ""))
        with pytest.raises(RefusedError, match="cannot use service c: a longrun can't be ready by ending"):
            harness.add(shell("c", "", readiness=ReadyByExit()))
        with pytest.raises(RefusedError, match="cannot find service nobody: there is none of that name"):
            harness.supervisor.start("nobody")


async def test_a_removed_service_is_forgotten() -> None:
    async with supervised() as harness:
        harness.add(shell("web", "exec sleep 1000"))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "started")
        await harness.supervisor.remove("web")
        assert harness.supervisor.names() == []
        harness.add(shell("web", "exec sleep 1000"))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "started")


async def test_a_helper_runs_to_its_end_with_what_it_was_given() -> None:
    async with supervised() as harness:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.write(writing, b"from PID 1")
        os.close(writing)
        program = Program(("/bin/sh", "-c", "cat <&5; id -u; exit 3"), user=4711, descriptors=lambda: {5: reading})
        starter = SpawnedStarter(program, f"{harness.group}/helper", harness.reaper, launch())
        assert await run_to_end(starter, harness.reaper) == (3, b"from PID 14711\n")
        assert not Path(starter.cgroup).exists()


async def test_a_hundred_services_start_and_stop(one_hundred: int = 100) -> None:
    async with supervised() as harness:
        names = [f"sleeper-{number}" for number in range(one_hundred)]
        for name in names:
            harness.add(Service(name=name, command=["/bin/sleep", "1000"]))
            harness.supervisor.start(name)
        await _all(harness, names, "started")
        for name in names:
            os.kill(harness.supervisor.status_of(name).pid, 9)
        await _all(harness, names, "stopped")
        await _all(harness, names, "started")


async def _all(harness: Supervised, names: list[str], state: str) -> None:
    with trio.fail_after(60):
        for name in names:
            await harness.supervisor.wait_state(name, state)
