"""The way down: what is done before a machine's end, in the order and within the times of ``core.shutdown``, whatever hangs."""

from collections.abc import Awaitable, Callable

import trio

from milkyway_agent.core.shutdown import SHUTDOWN
from milkyway_agent.pid1 import boot_steps
from milkyway_agent.pid1.state import ServerState
from milkyway_agent.system import cgroups, kernel, power, processes, watchdog

Deed = Callable[[], Awaitable[None]]


async def go_down(state: ServerState) -> None:
    """Take the machine down as far as it goes. What fails or takes too long is noted by name, and the next comes."""
    does = deeds(state)
    for phase in SHUTDOWN:
        scope = trio.CancelScope(deadline=trio.current_time() + phase.deadline_ms / 1000)
        # The scope inside: a deed that fails while its time is up raises both at once, which only the scope takes apart.
        try:
            with scope:
                await does[phase.name]()
        except Exception as error:  # noqa: BLE001 (the way down leads on, whatever happens)
            state.log.note("shutdown_phase_failed", phase=phase.name, error=str(error))
        if scope.cancelled_caught:
            left = ", ".join(one.name for one in state.supervisor.status() if one.state not in ("stopped", "failed"))
            state.log.note("shutdown_phase_late", phase=phase.name, after_ms=phase.deadline_ms, left=left)
    state.log.note("shutdown_finished", at_ms=kernel.boottime_ms())


def deeds(state: ServerState) -> dict[str, Deed]:
    """Return what each phase does, by its name."""

    async def refuse_changes() -> None:
        if state.convergence is not None:
            state.convergence.close()

    async def stop_deployments() -> None:
        if state.convergence is not None:
            await state.convergence.take_down()

    async def close_log() -> None:
        state.log.close_files()

    async def unmount_data() -> None:
        boot_steps.unmount_data()

    async def sync() -> None:
        await trio.to_thread.run_sync(power.sync, abandon_on_cancel=True)

    async def close_watchdog() -> None:
        if state.watchdog is not None:
            watchdog.close_watchdog(state.watchdog)

    return {
        "refuse-changes": refuse_changes,
        "stop-deployments": stop_deployments,
        "stop-coreos-services": state.supervisor.stop_all,
        "kill-the-rest": lambda: _kill_the_rest(state),
        "close-log": close_log,
        "unmount-data": unmount_data,
        "sync": sync,
        "close-watchdog": close_watchdog,
    }


async def _kill_the_rest(state: ServerState) -> None:
    """Kill every process but PID 1 and the kernel's threads (those of parent 2), and wait until they are gone."""
    state.programs.kill_all()
    groups = [f"{boot_steps.CGROUP}/{name}" for name in ("deployments", "coreos")]
    for path in groups:
        cgroups.kill(path)
    # The kernel tells of it by a poll for priority data, which trio has no wait for
    while any(cgroups.is_populated(path) for path in groups):  # noqa: ASYNC110
        await trio.sleep(0.05)
    left = [one.name for one in processes.processes() if one.pid not in (1, 2) and one.parent != 2 and one.state != "Z"]
    if left:
        state.log.note("processes_left", names=", ".join(left))
