"""A service's output pipe across its restarts: kept if no process of the last run can be left, and as good as a new pipe."""

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from milkyway_formats.service import Restart, Service
from tests.privileged.misbehaviour.programs import shell
from tests.privileged.supervisor.supervised import Supervised, supervised

pytestmark = pytest.mark.privileged

AGAIN = Restart(delay_ms=0, start_limit=50)


async def pipes(harness: Supervised, name: str) -> list[str]:
    """Return the pipes from which the service's output comes."""
    with trio.fail_after(10):
        while (kept := harness.kept(name)) is None:
            await trio.lowlevel.checkpoint()
    return [os.readlink(f"/proc/self/fd/{stream.descriptor}") for stream in kept.streams]


async def lines(harness: Supervised, name: str, count: int) -> list[str]:
    """Wait until the service has written *count* lines, and return them."""
    with trio.fail_after(10):
        while len(harness.lines(name)) < count:
            await trio.lowlevel.checkpoint()
    return harness.lines(name)


async def kill(harness: Supervised, name: str) -> None:
    """Kill its main process and wait until another is started."""
    await harness.supervisor.wait_state(name, "started")
    before = harness.supervisor.status_of(name).pid
    os.kill(before, signal.SIGKILL)
    with trio.fail_after(10):
        while harness.supervisor.status_of(name).pid in (0, before):
            await trio.lowlevel.checkpoint()


async def test_the_pipe_of_a_service_outlives_its_restarts_and_ends_with_it() -> None:
    async with supervised() as harness:
        harness.add_direct(shell("web", "echo begun; exec sleep 1000", restart=AGAIN))
        harness.supervisor.start("web")
        await lines(harness, "web", 1)
        first = await pipes(harness, "web")
        for times in (2, 3):
            await kill(harness, "web")
            assert await lines(harness, "web", times) == ["begun"] * times
        assert await pipes(harness, "web") == first and len(first) == 1
        await harness.supervisor.stop("web")
        with trio.fail_after(10):
            while await pipes(harness, "web"):
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("script", "grouped"),
    [("echo begun; exec sleep 1000", False), ("setsid sleep 1000 & echo begun; exec sleep 1000", True)],
    ids=["without a group", "held by a child that is left behind"],
)
async def test_if_a_process_of_the_last_run_may_still_write_the_next_run_has_a_new_pipe(script: str, grouped: bool) -> None:
    async with supervised() as harness:
        harness.add_direct(shell("web", script, restart=AGAIN), grouped=grouped)
        harness.supervisor.start("web")
        await lines(harness, "web", 1)
        first = await pipes(harness, "web")
        await kill(harness, "web")
        await lines(harness, "web", 2)
        assert first[0] not in await pipes(harness, "web")


async def test_a_line_that_a_run_has_begun_is_not_ended_by_the_next(tmp_path: Path) -> None:
    async with supervised() as harness:
        script = (
            f"if mkdir {tmp_path}/there 2>/dev/null; then printf half; exec sleep 1000; else echo whole; exec sleep 1000; fi"
        )
        harness.add_direct(shell("web", script, restart=AGAIN))
        harness.supervisor.start("web")
        with trio.fail_after(10):
            while not (kept := harness.kept("web")) or not kept.streams or kept.streams[0].rest != b"half":
                await trio.lowlevel.checkpoint()
        first = await pipes(harness, "web")
        await kill(harness, "web")
        assert await lines(harness, "web", 2) == ["half", "whole"]
        assert await pipes(harness, "web") == first


async def test_flags_that_a_run_has_set_on_its_output_are_not_the_next_ones() -> None:
    async with supervised() as harness:
        script = "import os,time; print(os.get_blocking(1), flush=True); os.set_blocking(1, False); print('set', flush=True)"
        command = [sys.executable, "-c", f"{script}; time.sleep(1000)"]
        harness.add_direct(Service(name="web", command=command, restart=AGAIN))
        harness.supervisor.start("web")
        await lines(harness, "web", 2)
        first = await pipes(harness, "web")
        await kill(harness, "web")
        assert await lines(harness, "web", 4) == ["True", "set", "True", "set"]
        assert await pipes(harness, "web") == first
