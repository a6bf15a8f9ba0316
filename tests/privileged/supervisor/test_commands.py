"""Stop and reload commands, and restarts: with jitter, without delay, of what can't be started at all."""

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


async def up(one: Supervised, name: str) -> None:
    """Wait until it has set its traps, and we know that it runs: it may be quicker than we are."""
    await one.line(name, "up")
    await one.supervisor.wait_state(name, "started")


async def test_its_stop_command_runs_first_and_its_signal_comes_then(tmp_path: Path) -> None:
    async with supervised() as one:
        command = ["/bin/sh", "-c", f"echo $MAINPID $HELLO >{tmp_path}/stopping"]
        with heard_through(tmp_path / "stopping") as heard:
            one.add_direct(shell("web", PATIENT, stop=Stop(command=command), environment={"HELLO": "hello"}))
            one.supervisor.start("web")
            await up(one, "web")
            pid = one.supervisor.status_of("web").pid
            await one.supervisor.stop("web")
            assert await heard() == f"{pid} hello\n"
        await one.line("web", "asked")
        assert one.path("web") == [*UP, *STOPPED]
        assert "service_killed" not in one.log.ring.events("web")


@pytest.mark.parametrize("grouped", [True, False])
async def test_a_stop_command_that_hangs_is_killed_and_the_signal_comes_in_time(grouped: bool) -> None:
    async with supervised() as one:
        stop = Stop(command=["/bin/sh", "-c", "trap '' TERM; sleep 1000"], timeout_ms=2000)
        one.add_direct(shell("web", PATIENT, stop=stop), grouped=grouped)
        one.supervisor.start("web")
        await up(one, "web")
        await one.supervisor.stop("web")
        await one.line("web", "asked")
        assert one.path("web") == [*UP, *STOPPED]
        assert "service_killed" not in one.log.ring.events("web"), "there was time left to heed the signal"


async def test_a_stop_command_that_fails_is_noted_and_the_signal_does_it() -> None:
    async with supervised() as one:
        for name, command in (("fails", ["/bin/false"]), ("missing", ["/not/there"])):
            one.add_direct(shell(name, PATIENT, stop=Stop(command=command)))
            one.supervisor.start(name)
            await up(one, name)
            await one.supervisor.stop(name)
            await one.line(name, "asked")
            assert "service_stop_command_failed" in one.log.ring.events(name)
            assert one.path(name) == [*UP, *STOPPED]


async def test_a_service_whose_end_its_own_stop_command_brings_about_is_stopped() -> None:
    async with supervised() as one:
        stop = Stop(command=["/bin/sh", "-c", "kill -KILL $MAINPID"])
        one.add_direct(shell("web", "exec sleep 1000", stop=stop))
        one.supervisor.start("web")
        await one.supervisor.wait_state("web", "started")
        await one.supervisor.stop("web")
        assert one.path("web") == [*UP, *STOPPED]


async def test_who_has_ended_before_its_command_has_its_turn_is_told_nothing_more(tmp_path: Path) -> None:
    async with supervised() as one:
        told = ["/usr/bin/touch", str(tmp_path / "told")]
        for name in ("stopped", "reloaded"):
            one.add_direct(shell(name, "exec sleep 1000", stop=Stop(command=told), reload=Reload(command=told), restart=ONCE))
            one.supervisor.start(name)
            await one.supervisor.wait_state(name, "started")
            pid = one.supervisor.status_of(name).pid
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 (nobody here may have a turn before it has ended)
            if name == "stopped":
                await one.supervisor.stop(name)
            else:
                with pytest.raises(UnavailableError, match="its command failed: the service has ended"):
                    await one.supervisor.reload(name)
            await trio.testing.wait_all_tasks_blocked(0.05)  # a command that was begun would be there by now
            assert [event for event in one.log.ring.events(name) if "command_failed" in event] == []
        assert not (tmp_path / "told").exists()


async def test_it_is_reloaded_by_its_signal_or_its_command_and_only_when_started(tmp_path: Path) -> None:
    async with supervised() as one:
        with heard_through(tmp_path / "reloading") as heard:
            command = ["/bin/sh", "-c", f"echo $MAINPID >{tmp_path}/reloading"]
            one.add_direct(shell("signal", PATIENT), shell("command", PATIENT, reload=Reload(command=command)))
            with pytest.raises(RefusedError, match="cannot reload signal: it is idle"):
                await one.supervisor.reload("signal")
            one.supervisor.start("signal", "command")
            for name in ("signal", "command"):
                await up(one, name)
                await one.supervisor.reload(name)
            await one.line("signal", "again")
            assert await heard() == f"{one.supervisor.status_of('command').pid}\n"
            assert one.path("signal") == one.path("command") == UP


async def test_what_its_commands_write_is_in_its_log(tmp_path: Path) -> None:
    async with supervised() as one:
        reload = Reload(command=["/bin/sh", "-c", "echo '<3>no such file' >&2; printf unended"])
        one.add_direct(shell("web", PATIENT, reload=reload, stop=Stop(command=["/bin/echo", "stopping"])))
        one.supervisor.start("web")
        await up(one, "web")
        await one.supervisor.reload("web")
        await one.line("web", "unended")
        assert [record.priority for record in one.log.ring.records if record.facts.get("line") == "no such file"] == [3]
        await one.supervisor.stop("web")
        await one.line("web", "stopping")
        assert one.path("web") == [*UP, *STOPPED]


async def test_whoever_has_it_reloaded_is_told_why_it_failed() -> None:
    async with supervised() as one:
        for name, command, why in (
            ("fails", ["/bin/sh", "-c", "exit 3"], "it ended with 3"),
            ("missing", ["/not/there"], "cannot execute"),
        ):
            one.add_direct(shell(name, PATIENT, reload=Reload(command=command)))
            one.supervisor.start(name)
            await up(one, name)
            with pytest.raises(UnavailableError, match=f"^cannot reload {name}: its command failed: {why}"):
                await one.supervisor.reload(name)
            assert one.log.ring.events(name).count("service_reload_command_failed") == 1
            assert one.path(name) == UP, "it goes on"


async def test_whose_service_ends_while_it_is_reloaded_is_told() -> None:
    async with supervised() as one, trio.open_nursery() as nursery:
        one.add_direct(shell("web", PATIENT, reload=Reload(command=["/bin/sh", "-c", "echo begun; exec sleep 1000"])))
        one.supervisor.start("web")
        await up(one, "web")

        async def stop() -> None:
            await one.line("web", "begun")
            await one.supervisor.stop("web")

        nursery.start_soon(stop)
        with pytest.raises(UnavailableError, match="^cannot reload web: its command failed: it ended with"):
            await one.supervisor.reload("web")


async def test_without_delay_it_is_started_again_at_once() -> None:
    async with supervised() as one:
        name = begin_direct(one, "ends/lives_on", restart=Restart(delay_ms=0, delay_limit_ms=0, start_limit=1000))
        for times in range(1, 31):
            os.kill(await one.up(name, "alive", times=times), signal.SIGKILL)
        await one.up(name, "alive", times=31)
        assert one.path(name) == UP * 31


async def test_what_cannot_be_started_without_delay_or_limit_lets_others_live() -> None:
    """It is refused at once, and for ever: an account that there is not."""
    async with supervised() as one:
        restart = Restart(delay_ms=0, delay_limit_ms=0, start_limit=1, start_interval_ms=0)
        one.add_direct(shell("vain", "exit 0", restart=restart, execution=Execution(account="nobody-of-that-name")))
        one.supervisor.start("vain")
        name = begin_direct(one, "ends/lives_on")
        await one.up(name, "alive")
        with trio.fail_after(10):
            while one.supervisor.status_of("vain").restarts < 10:
                await trio.lowlevel.checkpoint()
        assert "there is no account of that name" in one.supervisor.status_of("vain").reason
        await one.supervisor.stop("vain")
        assert one.path("vain")[-1] == "idle"


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 500), (0.5, 750), (0.999, 999)])
async def test_chance_shortens_the_delay_by_as_much_as_jitter_allows(chance: float, delay: int) -> None:
    async with supervised(chance=lambda: chance) as one:
        restart = Restart(delay_ms=1000, delay_limit_ms=1000, jitter=50)
        one.add_direct(shell("web", "exit 1", restart=restart))
        one.supervisor.start("web")
        await one.event("service_process_started")
        await one.supervisor.wait_state("web", "stopped")
        assert one.supervisor.seen()["web"].delay_ms == delay
        assert one.path("web") == [*UP, "waiting"]
