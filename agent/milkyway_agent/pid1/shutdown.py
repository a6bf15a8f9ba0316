"""The way down: what is done before a machine's end, in the order and within the times of ``core.shutdown``, whatever hangs."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from milkyway_agent.core.shutdown import SHUTDOWN
from milkyway_agent.pid1 import boot_steps
from milkyway_agent.system import cgroups, kernel, power, processes, watchdog

if TYPE_CHECKING:
    from milkyway_agent.pid1.agent import Agent

Deed = Callable[[], Awaitable[None]]


async def go_down(agent: "Agent") -> None:
    """Take the machine down as far as it goes. What fails or takes too long is noted by name, and the next comes."""
    deeds = _deeds(agent)
    for phase in SHUTDOWN:
        if phase.name not in deeds:
            continue
        scope = trio.CancelScope(deadline=trio.current_time() + phase.deadline_ms / 1000)
        # The scope inside: a deed that fails while its time is up raises both at once, which only the scope takes apart.
        try:
            with scope:
                await deeds[phase.name]()
        except Exception as error:  # noqa: BLE001 (the way down leads on, whatever happens)
            agent.log.note("shutdown_phase_failed", phase=phase.name, error=str(error))
        if scope.cancelled_caught:
            left = ", ".join(one.name for one in agent.supervisor.status() if one.state not in ("stopped", "failed"))
            agent.log.note("shutdown_phase_late", phase=phase.name, after_ms=phase.deadline_ms, left=left)
    agent.log.note("shutdown_finished", at_ms=kernel.boottime_ms())


def _deeds(agent: "Agent") -> dict[str, Deed]:
    async def refuse_changes() -> None:
        if agent.convergence is not None:
            agent.convergence.close()

    async def stop_deployments() -> None:
        if agent.convergence is not None:
            await agent.convergence.take_down()

    async def close_log() -> None:
        agent.log.close_files()

    async def unmount_data() -> None:
        boot_steps.unmount_data()

    async def sync() -> None:
        await trio.to_thread.run_sync(power.sync, abandon_on_cancel=True)

    async def close_watchdog() -> None:
        if agent.watchdog is not None:
            watchdog.close_watchdog(agent.watchdog)

    return {
        "refuse-changes": refuse_changes,
        "stop-deployments": stop_deployments,
        "stop-coreos-services": agent.supervisor.stop_all,
        "kill-the-rest": lambda: _kill_the_rest(agent),
        "close-log": close_log,
        "unmount-data": unmount_data,
        "sync": sync,
        "close-watchdog": close_watchdog,
    }


async def _kill_the_rest(agent: "Agent") -> None:
    """Kill every process but PID 1 and the kernel's threads (those of parent 2), and wait until they are gone."""
    agent.programs().kill_all()
    groups = [f"{boot_steps.CGROUP}/{name}" for name in ("deployments", "coreos")]
    for path in groups:
        cgroups.kill(path)
    # The kernel tells of it by a poll for priority data, which trio has no wait for
    while any(cgroups.is_populated(path) for path in groups):  # noqa: ASYNC110
        await trio.sleep(0.05)
    left = [one.name for one in processes.processes() if one.pid not in (1, 2) and one.parent != 2 and one.state != "Z"]
    if left:
        agent.log.note("processes_left", names=", ".join(left))
