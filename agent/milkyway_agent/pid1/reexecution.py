"""PID 1's side of a re-execution: what it hands on, and how the agent in the new program goes on with it.

Its services are of two kinds. Those of CoreOS are known by their names, ``coreos_services`` makes them; those of deployments
are what the kept effects say. All of them run on meanwhile, as our children, with their descriptors.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from milkyway_agent.core.effects import RunServices
from milkyway_agent.deployments.services import service_definitions
from milkyway_agent.deployments.snapshot import KeptDeployments
from milkyway_agent.launching.oci_config import Machine
from milkyway_agent.pid1.coreos_services import definition
from milkyway_agent.pid1.snapshot import KeptAgent, descriptors
from milkyway_agent.runtime.reexecution import Kept
from milkyway_agent.system import cgroups
from milkyway_formats.errors import UnavailableError

if TYPE_CHECKING:
    from milkyway_agent.pid1.agent import Agent


class Succession:
    """What of *agent* goes on in another program (``reexecution.Life``)."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def wait_at_rest(self) -> None:
        """Return when no service is being started or cleared away, and no deployment is on its way."""
        if "ready" not in self._agent.boot.finished_ms:
            raise UnavailableError("cannot re-execute: the boot is not over")
        convergence = self._agent.convergence
        while True:
            if convergence is not None:
                await convergence.wait_at_rest()
            await self._agent.supervisor.wait_at_rest()
            if convergence is None or convergence.at_rest:  # else it has begun anew while a service was waited for
                return

    def drained(self) -> AbstractAsyncContextManager[None]:
        """Within it nobody asks anything, and whoever has asked before has been answered."""
        return self._agent.drain.drained()

    def keep(self) -> Kept:
        """Return all that is known now."""
        agent = self._agent
        state = KeptAgent(
            format="milkyway.agent/1",
            services=agent.supervisor.keep(time.monotonic()),  # trio's clock, which is the same in every agent
            deployments=agent.convergence.keep() if agent.convergence else KeptDeployments(),
            done=agent.lasting(),
            finished_ms=dict(agent.boot.finished_ms),
            watchdog=agent.watchdog if agent.watchdog is not None else -1,
            api=agent.api.fileno() if agent.api is not None else -1,
        )
        return Kept(state, descriptors(state))

    def leave(self) -> None:
        """Close the log's files, which the new program opens."""
        self._agent.log.note("agent_re_executes")
        self._agent.log.close_files()

    def stay(self) -> None:
        """Open them again."""
        self._agent.reopen_files()


def go_on(agent: Agent, state: KeptAgent) -> None:
    """Supervise what the program before this one did. The supervisor runs, and has no service yet."""
    machine = Machine(frozenset(cgroups.controllers("/sys/fs/cgroup")), selinux=True)
    ours = [one for one in state.deployments.present if isinstance(one, RunServices)]
    deployed = [each for effect in ours for each in service_definitions(effect, machine, agent.reaper)]
    there = {one.name for one in state.services} - {one.name for one in deployed}
    agent.supervisor.add(*deployed, *(definition(name, agent.reaper) for name in sorted(there)))
    agent.supervisor.restore(state.services)
    agent.log.note("agent_re_executed", services=len(state.services))
