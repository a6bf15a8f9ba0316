"""Programs that run as root and change their surroundings (``misbehaviour/groups.c``)."""

import os
from pathlib import Path

import pytest
import trio

from milkyway_agent.launching.program import Program
from milkyway_agent.system import cgroups
from tests.privileged.misbehaviour.programs import AT_ONCE, SHORTLY, STOPPED, UP, begin, misbehaving
from tests.privileged.supervisor.supervised import supervised

pytestmark = pytest.mark.privileged


async def test_a_service_that_leaves_its_group_is_ended_all_the_same() -> None:
    """Its first process is held by a pidfd: it is killed wherever it goes."""
    async with supervised() as harness:
        name = begin(harness, "groups/leaves_its_group", f"{harness.group}/leaves-its-group", stop=SHORTLY)
        pid = await harness.up(name, "elsewhere")
        assert cgroups.of_process(pid).endswith("/elsewhere")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]
        assert cgroups.processes(f"{harness.group}/elsewhere") == []
        cgroups.remove(f"{harness.group}/elsewhere")


async def test_groups_below_its_own_go_with_all_that_is_in_them() -> None:
    async with supervised() as harness:
        name = begin(harness, "groups/makes_groups_below", f"{harness.group}/makes-groups-below")
        await harness.up(name, "below", times=2)
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_groups_left_by_an_earlier_run_do_not_hold_up_the_next() -> None:
    async with supervised() as harness:
        name = begin(harness, "groups/makes_groups_below", f"{harness.group}/makes-groups-below", restart=AT_ONCE)
        await harness.up(name, "below", times=2)
        os.kill(harness.supervisor.status_of(name).pid, 9)
        await harness.up(name, "below", times=4)
        assert harness.path(name) == [*UP, *UP]


async def test_a_threaded_group_is_cleared_too() -> None:
    async with supervised() as harness:
        name = begin(harness, "groups/makes_a_threaded_group", f"{harness.group}/makes-a-threaded-group", stop=SHORTLY)
        await harness.up(name, "threaded")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_service_that_freezes_its_own_group_is_still_ended() -> None:
    async with supervised() as harness:
        name = begin(harness, "groups/freezes_its_group", f"{harness.group}/freezes-its-group", stop=SHORTLY)
        await harness.up(name, "freezing")
        while "frozen 1" not in Path(harness.group, name, "cgroup.events").read_text():
            await trio.lowlevel.checkpoint()
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]
        assert "service_killed" in harness.log.ring.events(name)


async def test_a_service_that_kills_its_own_group_was_killed() -> None:
    async with supervised() as harness:
        name = begin(harness, "groups/kills_its_group", f"{harness.group}/kills-its-group", restart=AT_ONCE)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, *UP, *UP, "failed"]
        assert harness.supervisor.status_of(name).reason == "was killed by SIGKILL; given up after 3 starts within 60 s"


async def test_a_service_that_becomes_another_user_is_still_ours_to_stop() -> None:
    async with supervised() as harness:
        service = misbehaving(harness, "groups/becomes_another_user")
        harness.add(service, program=Program(tuple(service.command), capabilities=("setuid",)))
        harness.supervisor.start(service.name)
        pid = await harness.up(service.name, "another user")
        assert "Uid:\t4711\t4711\t4711" in Path(f"/proc/{pid}/status").read_text()
        await harness.supervisor.stop(service.name)
        assert harness.path(service.name) == [*UP, *STOPPED]
