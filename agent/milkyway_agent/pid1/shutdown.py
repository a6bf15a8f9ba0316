"""The shutdown of a server: in the order and within the deadlines of ``core.shutdown``, whatever hangs."""

from collections.abc import Awaitable, Callable

import trio

from milkyway_agent.core.shutdown import SHUTDOWN
from milkyway_agent.pid1 import boot_steps
from milkyway_agent.pid1.state import ServerState
from milkyway_agent.system import cgroups, kernel, power, processes, watchdog

Deed = Callable[[], Awaitable[None]]


async def shut_down(state: ServerState) -> None:
    """Shut the machine down as far as possible. A phase that fails or takes too long is noted, and the next one begins."""
    does = deeds(state)
    for phase in SHUTDOWN:
        scope = trio.CancelScope(deadline=trio.current_time() + phase.deadline_ms / 1000)
        # The scope is inside: a deed that fails while it is cancelled raises both at once, which only the scope can separate.
        try:
            with scope:
                await does[phase.name]()
        except Exception as error:  # noqa: BLE001 (the shutdown goes on, whatever happens)
            state.log.note("shutdown_phase_failed", phase=phase.name, error=str(error))
        if scope.cancelled_caught:
            left = [service.name for service in state.supervisor.status() if service.state not in ("stopped", "failed")]
            state.log.note("shutdown_phase_late", phase=phase.name, after_ms=phase.deadline_ms, left=", ".join(left))
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
    # The kernel announces it as priority data (POLLPRI), for which trio has no wait
    while any(cgroups.is_populated(path) for path in groups):  # noqa: ASYNC110
        await trio.sleep(0.05)
    others = (process for process in processes.processes() if process.pid not in (1, 2) and process.parent != 2)
    left = [process.name for process in others if process.state != "Z"]
    if left:
        state.log.note("processes_left", names=", ".join(left))
