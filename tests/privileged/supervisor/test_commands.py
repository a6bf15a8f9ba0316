"""Stop and reload commands, and restarts: with jitter, without delay, and of services that can't be started at all."""

import os
import signal
from pathlib import Path

import pytest
import trio
import trio.testing

from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.execution import Execution
from milkyway_formats.service import Reload, Restart, Stop
from tests.privileged.misbehaviour.programs import ONCE, STOPPED, UP, begin_direct, shell
from tests.privileged.supervisor.supervised import Supervised, heard_through, supervised

pytestmark = pytest.mark.privileged

PATIENT = "trap 'echo asked; exit 0' TERM; trap 'echo again' HUP; echo up; while :; do sleep 1000 & wait; done"


async def up(harness: Supervised, name: str) -> None:
    """Wait until it has set its traps and is started: it may be quicker than the supervisor."""
    await harness.line(name, "up")
    await harness.supervisor.wait_state(name, "started")


async def test_its_stop_command_runs_first_and_its_signal_comes_then(tmp_path: Path) -> None:
    async with supervised() as harness:
        command = ["/bin/sh", "-c", f"echo $MAINPID $HELLO >{tmp_path}/stopping"]
        with heard_through(tmp_path / "stopping") as heard:
            harness.add_direct(shell("web", PATIENT, stop=Stop(command=command), environment={"HELLO": "hello"}))
            harness.supervisor.start("web")
            await up(harness, "web")
            pid = harness.supervisor.status_of("web").pid
            await harness.supervisor.stop("web")
            assert await heard() == f"{pid} hello\n"
        await harness.line("web", "asked")
        assert harness.path("web") == [*UP, *STOPPED]
        assert "service_killed" not in harness.log.ring.events("web")


@pytest.mark.parametrize("grouped", [True, False])
async def test_a_stop_command_that_hangs_is_killed_and_the_signal_comes_in_time(grouped: bool) -> None:
    async with supervised() as harness:
        stop = Stop(command=["/bin/sh", "-c", "trap '' TERM; sleep 1000"], timeout_ms=2000)
        harness.add_direct(shell("web", PATIENT, stop=stop), grouped=grouped)
        harness.supervisor.start("web")
        await up(harness, "web")
        await harness.supervisor.stop("web")
        await harness.line("web", "asked")
        assert harness.path("web") == [*UP, *STOPPED]
        assert "service_killed" not in harness.log.ring.events("web"), "there was time left for the signal"


async def test_a_stop_command_that_fails_is_noted_and_the_signal_does_it() -> None:
    async with supervised() as harness:
        for name, command in (("fails", ["/bin/false"]), ("missing", ["/not/there"])):
            harness.add_direct(shell(name, PATIENT, stop=Stop(command=command)))
            harness.supervisor.start(name)
            await up(harness, name)
            await harness.supervisor.stop(name)
            await harness.line(name, "asked")
            assert "service_stop_command_failed" in harness.log.ring.events(name)
            assert harness.path(name) == [*UP, *STOPPED]


async def test_a_service_whose_end_its_own_stop_command_brings_about_is_stopped() -> None:
    async with supervised() as harness:
        stop = Stop(command=["/bin/sh", "-c", "kill -KILL $MAINPID"])
        harness.add_direct(shell("web", "exec sleep 1000", stop=stop))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "started")
        await harness.supervisor.stop("web")
        assert harness.path("web") == [*UP, *STOPPED]


async def test_a_service_that_has_ended_before_its_command_has_its_turn_is_told_nothing_more(tmp_path: Path) -> None:
    async with supervised() as harness:
        told = ["/usr/bin/touch", str(tmp_path / "told")]
        for name in ("stopped", "reloaded"):
            harness.add_direct(
                shell(name, "exec sleep 1000", stop=Stop(command=told), reload=Reload(command=told), restart=ONCE)
            )
            harness.supervisor.start(name)
            await harness.supervisor.wait_state(name, "started")
            pid = harness.supervisor.status_of(name).pid
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 (no task may run before it has ended)
            if name == "stopped":
                await harness.supervisor.stop(name)
            else:
                with pytest.raises(UnavailableError, match="its command failed: the service has ended"):
                    await harness.supervisor.reload(name)
            await trio.testing.wait_all_tasks_blocked(0.05)  # a command would have been started by now
            assert [event for event in harness.log.ring.events(name) if "command_failed" in event] == []
        assert not (tmp_path / "told").exists()


async def test_it_is_reloaded_by_its_signal_or_its_command_and_only_when_started(tmp_path: Path) -> None:
    async with supervised() as harness:
        with heard_through(tmp_path / "reloading") as heard:
            command = ["/bin/sh", "-c", f"echo $MAINPID >{tmp_path}/reloading"]
            harness.add_direct(shell("signal", PATIENT), shell("command", PATIENT, reload=Reload(command=command)))
            with pytest.raises(RefusedError, match="cannot reload signal: it is idle"):
                await harness.supervisor.reload("signal")
            harness.supervisor.start("signal", "command")
            for name in ("signal", "command"):
                await up(harness, name)
                await harness.supervisor.reload(name)
            await harness.line("signal", "again")
            assert await heard() == f"{harness.supervisor.status_of('command').pid}\n"
            assert harness.path("signal") == harness.path("command") == UP


async def test_what_its_commands_write_is_in_its_log(tmp_path: Path) -> None:
    async with supervised() as harness:
        reload = Reload(command=["/bin/sh", "-c", "echo '<3>no such file' >&2; printf unended"])
        harness.add_direct(shell("web", PATIENT, reload=reload, stop=Stop(command=["/bin/echo", "stopping"])))
        harness.supervisor.start("web")
        await up(harness, "web")
        await harness.supervisor.reload("web")
        await harness.line("web", "unended")
        assert [record.priority for record in harness.log.ring.records if record.facts.get("line") == "no such file"] == [3]
        await harness.supervisor.stop("web")
        await harness.line("web", "stopping")
        assert harness.path("web") == [*UP, *STOPPED]


async def test_a_failed_reload_says_why() -> None:
    async with supervised() as harness:
        for name, command, why in (
            ("fails", ["/bin/sh", "-c", "exit 3"], "it ended with 3"),
            ("missing", ["/not/there"], "cannot execute"),
        ):
            harness.add_direct(shell(name, PATIENT, reload=Reload(command=command)))
            harness.supervisor.start(name)
            await up(harness, name)
            with pytest.raises(UnavailableError, match=f"^cannot reload {name}: its command failed: {why}"):
                await harness.supervisor.reload(name)
            assert harness.log.ring.events(name).count("service_reload_command_failed") == 1
            assert harness.path(name) == UP, "it goes on"


async def test_a_reload_fails_if_the_service_ends_meanwhile() -> None:
    async with supervised() as harness, trio.open_nursery() as nursery:
        harness.add_direct(shell("web", PATIENT, reload=Reload(command=["/bin/sh", "-c", "echo begun; exec sleep 1000"])))
        harness.supervisor.start("web")
        await up(harness, "web")

        async def stop() -> None:
            await harness.line("web", "begun")
            await harness.supervisor.stop("web")

        nursery.start_soon(stop)
        with pytest.raises(UnavailableError, match="^cannot reload web: its command failed: it ended with"):
            await harness.supervisor.reload("web")


async def test_without_delay_it_is_started_again_at_once() -> None:
    async with supervised() as harness:
        name = begin_direct(harness, "ends/lives_on", restart=Restart(delay_ms=0, delay_limit_ms=0, start_limit=1000))
        for times in range(1, 31):
            os.kill(await harness.up(name, "alive", times=times), signal.SIGKILL)
        await harness.up(name, "alive", times=31)
        assert harness.path(name) == UP * 31


async def test_what_cannot_be_started_without_delay_or_limit_lets_others_live() -> None:
    """Its account does not exist, so every start fails at once."""
    async with supervised() as harness:
        restart = Restart(delay_ms=0, delay_limit_ms=0, start_limit=1, start_interval_ms=0)
        harness.add_direct(shell("vain", "exit 0", restart=restart, execution=Execution(account="nobody-of-that-name")))
        harness.supervisor.start("vain")
        name = begin_direct(harness, "ends/lives_on")
        await harness.up(name, "alive")
        with trio.fail_after(10):
            while harness.supervisor.status_of("vain").restarts < 10:
                await trio.lowlevel.checkpoint()
        assert "there is no account of that name" in harness.supervisor.status_of("vain").reason
        await harness.supervisor.stop("vain")
        assert harness.path("vain")[-1] == "idle"


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 500), (0.5, 750), (0.999, 999)])
async def test_chance_shortens_the_delay_by_as_much_as_jitter_allows(chance: float, delay: int) -> None:
    async with supervised(chance=lambda: chance) as harness:
        restart = Restart(delay_ms=1000, delay_limit_ms=1000, jitter=50)
        harness.add_direct(shell("web", "exit 1", restart=restart))
        harness.supervisor.start("web")
        await harness.event("service_process_started")
        await harness.supervisor.wait_state("web", "stopped")
        assert harness.supervisor.seen()["web"].delay_ms == delay
        assert harness.path("web") == [*UP, "waiting"]
