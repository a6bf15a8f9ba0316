"""A starter that is never used, for tests whose organs are fake."""

from collections.abc import Mapping

from milkyway_agent.launching.child import Child
from milkyway_agent.launching.starter import Abilities, TaskStarter


class NoStarter(TaskStarter):
    """Refuses every call; it claims all abilities, so any service may be defined with it."""

    abilities = Abilities(listeners=True, execution=True, descriptors=True, commands=True, network=True)
    cgroup = ""

    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = {}) -> Child:
        raise AssertionError("it starts nothing")

    def kill(self) -> None:
        raise AssertionError("there is nothing to kill")

    async def clean_up(self) -> None:
        raise AssertionError("there is nothing to clean up")
