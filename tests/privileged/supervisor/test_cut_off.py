"""An agent that fails is cut off in whatever it does for its services; the next agent goes on there."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from milkyway_agent.launching.child import Child
from milkyway_agent.launching.program import Program
from milkyway_agent.launching.spawned import SpawnedStarter
from milkyway_agent.launching.starter import NONE
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.supervisor.definition import Definition
from milkyway_formats.service import ExecProbe, Health, ReadyByProbe, Service
from tests.privileged.supervisor.supervised import heard_through, launch, supervised

pytestmark = pytest.mark.privileged

UP = ["waiting", "starting", "started"]
SLEEPS = ["/bin/sleep", "1000"]


class HeldUp(SpawnedStarter):
    """A starter whose start waits until the test lets it go on."""

    def __init__(self, program: Program, cgroup: str, reaper: Reaper) -> None:
        super().__init__(program, cgroup, reaper, launch())
        self.begun = trio.Event()
        self.may_go_on = trio.Event()

    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = NONE) -> Child:
        self.begun.set()
        await self.may_go_on.wait()
        return await super().start(output, notify, listeners)


def answers_the_second_time(place: Path, code: int) -> ExecProbe:
    """Return a probe that reports through *place*/asked that it runs, waits, and then ends with *code*."""
    place.chmod(0o777)
    script = f"test -e {place}/second && exit {code}; touch {place}/second; echo > {place}/asked; sleep 1000"
    return ExecProbe(command=["/bin/sh", "-c", script])


async def test_a_start_that_was_cut_off_is_begun_again() -> None:
    async with supervised() as harness, trio.open_nursery() as nursery:
        starter = HeldUp(Program(tuple(SLEEPS)), f"{harness.group}/web", harness.reaper)
        harness.supervisor.add(Definition("web", Service(name="web", command=SLEEPS), starter))
        harness.supervisor.start("web")
        await starter.begun.wait()
        await harness.begin_again(nursery)
        starter.may_go_on.set()
        with trio.fail_after(10):
            await harness.supervisor.wait_state("web", "started")
        assert harness.path("web") == UP
        pid = harness.supervisor.status_of("web").pid
        await harness.begin_again(nursery)
        assert harness.supervisor.status_of("web").pid == pid
        await harness.supervisor.stop("web")
        nursery.cancel_scope.cancel()


async def test_a_probe_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    with heard_through(tmp_path / "asked") as asked:
        async with supervised() as harness, trio.open_nursery() as nursery:
            probe = answers_the_second_time(tmp_path, 0)
            harness.add_direct(Service(name="web", command=SLEEPS, readiness=ReadyByProbe(probe=probe, interval_ms=60_000)))
            harness.supervisor.start("web")
            await asked()
            await harness.begin_again(nursery)
            with trio.fail_after(10):
                await harness.supervisor.wait_state("web", "started")
            assert harness.path("web") == UP
            await harness.supervisor.stop("web")
            nursery.cancel_scope.cancel()


async def test_health_checks_go_on(tmp_path: Path) -> None:
    with heard_through(tmp_path / "asked") as asked:
        async with supervised() as harness, trio.open_nursery() as nursery:
            health = Health(probe=answers_the_second_time(tmp_path, 1), interval_ms=1, timeout_ms=60_000, failures=1)
            harness.add_direct(Service(name="web", command=SLEEPS, health=health))
            harness.supervisor.start("web")
            await asked()
            await harness.begin_again(nursery)
            await harness.event("service_unwell")
            await harness.supervisor.stop("web")
            nursery.cancel_scope.cancel()
