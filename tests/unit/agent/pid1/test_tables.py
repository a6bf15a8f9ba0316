"""Each phase of the boot and of the way down has a deed, and each deed a phase."""

from milkyway_agent.core.boot import BOOT
from milkyway_agent.core.shutdown import SHUTDOWN
from milkyway_agent.log.log import Log
from milkyway_agent.pid1 import shutdown
from milkyway_agent.pid1.agent import Agent
from milkyway_agent.pid1.state import ServerState


def test_the_boot_does_what_its_table_says_and_nothing_else() -> None:
    assert sorted(Agent(ServerState(Log(lambda: 0), 0)).deeds.table()) == sorted(phase.name for phase in BOOT)


def test_the_way_down_does_what_its_table_says_and_nothing_else() -> None:
    assert sorted(shutdown.deeds(ServerState(Log(lambda: 0), 0))) == sorted(phase.name for phase in SHUTDOWN)
