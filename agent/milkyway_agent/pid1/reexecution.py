"""PID 1's side of a re-execution: what it hands on, and how the new program goes on with it.

Services are of two kinds: those of CoreOS, which ``coreos_services`` defines by their names, and those of deployments, which
the kept effects define. All of them run on meanwhile, as our children, with their descriptors.
"""

import time
from contextlib import AbstractAsyncContextManager

from milkyway_agent.api.draining import Drain
from milkyway_agent.core.effects import RunServices
from milkyway_agent.deployments.services import service_definitions
from milkyway_agent.launching.oci_config import Host
from milkyway_agent.pid1.coreos_services import definition
from milkyway_agent.pid1.snapshot import KeptAgent, descriptors
from milkyway_agent.pid1.state import ServerState
from milkyway_agent.runtime.reexecution import Handover
from milkyway_agent.system import cgroups
from milkyway_formats.errors import UnavailableError


class ServerReexecution:
    """What of a server continues in another program: implements ``runtime.reexecution.Reexecutable``.

    *drain*: the local API's.
    """

    def __init__(self, state: ServerState, drain: Drain) -> None:
        self._state = state
        self._drain = drain

    async def wait_at_rest(self) -> None:
        """Return when no service is being started or cleared away, and no deployment is being changed."""
        if "ready" not in self._state.boot.finished_ms:
            raise UnavailableError("cannot re-execute: the boot is not over")
        convergence = self._state.convergence
        while True:
            if convergence is not None:
                await convergence.wait_at_rest()
            await self._state.supervisor.wait_at_rest()
            if convergence is None or convergence.at_rest:  # else it has begun anew while a service was waited for
                return

    def drained(self) -> AbstractAsyncContextManager[None]:
        """Return a context in which no request is taken; those taken before it are answered first."""
        return self._drain.drained()

    def keep(self) -> Handover:
        """Return all that is known now."""
        state = self._state
        kept = KeptAgent(
            format="milkyway.agent/1",
            services=state.supervisor.keep(time.monotonic()),  # trio's clock, which is the same in every agent
            deployments=state.keep_deployments(),
            done=state.lasting(),
            finished_ms=dict(state.boot.finished_ms),
            watchdog=state.watchdog if state.watchdog is not None else -1,
            api=state.api.fileno() if state.api is not None else -1,
        )
        return Handover(kept, descriptors(kept))

    def leave(self) -> None:
        """Close the log's files, which the new program opens."""
        self._state.log.note("agent_re_executes")
        self._state.log.close_files()

    def stay(self) -> None:
        """Open them again."""
        self._state.reopen_files()


def go_on(state: ServerState, kept: KeptAgent) -> None:
    """Supervise what the program before this one did. The supervisor runs, and has no service yet."""
    host = Host(frozenset(cgroups.controllers("/sys/fs/cgroup")), selinux=True)
    running = [effect for effect in kept.deployments.present if isinstance(effect, RunServices)]
    deployed = [service for effect in running for service in service_definitions(effect, host, state.reaper)]
    of_coreos = {service.name for service in kept.services} - {service.name for service in deployed}
    state.supervisor.add(*deployed, *(definition(name, state.reaper) for name in sorted(of_coreos)))
    state.supervisor.restore(kept.services)
    state.log.note("agent_re_executed", services=len(kept.services))
