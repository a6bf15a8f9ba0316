"""Programs that don't look after their children (``misbehaviour/children.c``).

Not every machine has the memory and pids controllers, which bound the last two, in its cgroup v2 hierarchy; the
booted virtual machine has them.
"""

import os
import signal
from pathlib import Path

import pytest

from milkyway_agent.system import cgroups, processes, reaper
from milkyway_formats.service import Limits, Restart
from tests.privileged.misbehaviour.programs import ONCE, SHORTLY, STOPPED, UP, begin
from tests.privileged.supervisor.supervised import cgroup_root, has_ended, supervised

pytestmark = pytest.mark.privileged


def is_child_of_ours(pid: int) -> bool:
    return any(process.pid == pid and process.parent == os.getpid() for process in processes.processes())


def needs_controller(name: str) -> pytest.MarkDecorator:
    there = Path(cgroup_root(), "cgroup.subtree_control").read_text().split()
    return pytest.mark.skipif(name not in there, reason=f"version 2 has no {name} controller here; the virtual machine has")


async def test_a_service_that_forks_twice_is_up_and_its_grandchild_ends_with_it() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/forks_twice")
        grandchild = await harness.up(name, "grandchild")
        await harness.up(name, "alive")
        assert is_child_of_ours(grandchild), "an orphan is adopted"
        assert harness.path(name) == UP
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_the_grandchild_of_a_killed_process_is_not_left_to_the_next() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/forks_twice", restart=Restart(delay_ms=1))
        await harness.told("grandchild")
        os.kill(await harness.up(name, "alive"), signal.SIGKILL)
        await harness.told("grandchild", times=2)
        await harness.up(name, "alive", times=2)
        assert harness.path(name) == [*UP, *UP]
        first, second = (told for told in harness.heard if told.word == "grandchild")
        assert (has_ended(first), has_ended(second)) == (True, False)


async def test_a_service_that_daemonises_has_ended_and_its_daemon_with_it() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/daemonises", restart=ONCE)
        await harness.told("daemon")
        await harness.supervisor.wait_state(name, "stopped", "failed")
        assert harness.path(name) == [*UP, "idle"]
        assert harness.supervisor.status_of(name).reason == "ended with status 0"


async def test_a_service_that_daemonises_again_and_again_leaves_no_daemon_behind() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/daemonises", restart=Restart(delay_ms=1, delay_limit_ms=1, start_limit=4))
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, *UP, *UP, *UP, "failed"]
        await harness.told("daemon", times=4)


async def test_children_that_ignore_sigterm_are_killed_when_the_first_process_has_obeyed() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/leaks_children_that_ignore_sigterm")
        await harness.up(name, "child", times=5)
        await harness.up(name, "alive")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]
        assert "service_killed" not in harness.log.ring.events(name), "the first process ended when asked"


async def test_a_grandchild_that_holds_the_output_holds_nothing_up() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/leaves_its_output_to_a_grandchild", restart=ONCE)
        await harness.up(name, "grandchild")
        await harness.line(name, "from the grandchild")
        assert harness.path(name) == UP
        os.kill(harness.supervisor.status_of(name).pid, signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "stopped")
        assert harness.path(name) == [*UP, "idle"]


async def test_a_process_outside_the_group_that_holds_the_output_holds_nothing_up() -> None:
    """A service of root can hide a process in another group; it outlives its service, but it can do no more than that."""
    async with supervised() as harness:
        outside = f"{harness.group}/outside"
        name = begin(harness, "children/leaves_its_output_to_one_outside_its_group", outside)
        pid = await harness.up(name, "outside")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]
        assert cgroups.processes(outside) == [pid]
        cgroups.kill(outside)
        await harness.event("orphan_reaped")
        cgroups.remove(outside)


async def test_children_that_it_did_not_wait_for_are_reaped_when_it_is_gone() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/never_waits_for_its_children")
        pid = await harness.up(name, "fifty zombies")
        assert len(reaper.zombies(pid)) == 50
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_chain_of_processes_that_live_for_a_moment_each_is_caught() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/is_a_comet")
        await harness.up(name, "comet")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_service_that_outlives_its_first_thread_is_up_and_is_stopped() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/outlives_its_first_thread")
        pid = await harness.up(name, "headless")
        assert [zombie.pid for zombie in reaper.zombies(os.getpid())] == [pid], "it looks like a zombie"
        assert harness.path(name) == UP
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]
        assert "service_killed" not in harness.log.ring.events(name), "its other thread takes the signal"


@needs_controller("pids")
async def test_a_fork_bomb_is_bounded_and_killed() -> None:
    async with supervised() as harness:
        name = begin(harness, "children/is_a_fork_bomb", limits=Limits(pids=64), stop=SHORTLY)
        await harness.up(name, "bounded")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


@needs_controller("memory")
async def test_a_service_that_eats_all_memory_is_killed_by_the_kernel_and_started_again() -> None:
    async with supervised() as harness:
        limits = Limits(memory_bytes=16 << 20)
        name = begin(harness, "groups/eats_all_memory", limits=limits, restart=Restart(delay_ms=1))
        os.kill(await harness.up(name, "hungry"), signal.SIGUSR1)
        await harness.up(name, "hungry", times=2)
        assert harness.path(name) == [*UP, *UP]
        assert harness.supervisor.status_of(name).reason == "was killed by SIGKILL"
