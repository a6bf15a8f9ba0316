"""Starting programs of CoreOS through the static launcher, each in its own control group."""

import contextlib
import os
from collections.abc import Mapping

from milkyway_agent.launching.child import Child, hold, settled
from milkyway_agent.launching.control_groups import clear_group, kill_group
from milkyway_agent.launching.program import ENVIRONMENT, LAUNCH, Program, launch_command, make_group
from milkyway_agent.launching.starter import NONE, Abilities, TaskStarter
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.system import cgroups, processes


class SpawnedStarter(TaskStarter):
    """Starts a CoreOS service through the static launcher, in its own control group."""

    abilities = Abilities()

    def __init__(self, program: Program, cgroup: str, reaper: Reaper, launch: str = LAUNCH) -> None:
        self.cgroup = cgroup
        self._program = program
        self._reaper = reaper
        self._launch = launch

    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = NONE) -> Child:
        """Start the program; return when it is in its own domain.

        If an earlier run could not be cleaned up, what is left in its group is killed first: no program runs twice.
        """
        assert not listeners, "Supervisor.add refuses them"
        if not make_group(self.cgroup, self._program.limits) and cgroups.is_populated(self.cgroup):
            await clear_group(self.cgroup)
            make_group(self.cgroup, self._program.limits)
        passed = self._program.descriptors() if self._program.descriptors else {}
        try:
            command = launch_command(self._program, self.cgroup, notify, self._launch)
            pid = processes.spawn(command, ENVIRONMENT, {1: output, 2: output, **passed})
        finally:
            for descriptor in passed.values():
                os.close(descriptor)
        try:
            return await settled(hold(pid, self._reaper), self._program.context, self._reaper)
        except OSError:
            with contextlib.suppress(OSError):  # it must not run without a pidfd
                self.kill()
            raise

    def kill(self) -> None:
        """Kill all processes of the group."""
        kill_group(self.cgroup)

    async def clean_up(self) -> None:
        """Remove the group with all that is in it."""
        await clear_group(self.cgroup)
