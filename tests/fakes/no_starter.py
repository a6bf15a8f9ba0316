"""A starter that is never asked for anything, where the organs are not real ones."""

from collections.abc import Mapping

from milkyway_agent.launching.child import Child
from milkyway_agent.launching.starter import Abilities, TaskStarter


class NoStarter(TaskStarter):
    """Refuses whatever is asked of it; a service may be defined to want anything."""

    abilities = Abilities(listeners=True, execution=True, descriptors=True, commands=True, network=True)
    cgroup = ""

    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = {}) -> Child:
        raise AssertionError("there is nobody to start it")

    def kill(self) -> None:
        raise AssertionError("there is nothing to kill")

    async def clean_up(self) -> None:
        raise AssertionError("there is nothing to clean up")
