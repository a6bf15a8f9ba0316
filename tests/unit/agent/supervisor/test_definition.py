"""A definition that can't be supervised is refused with the reason, before any of its programs runs."""

import pytest

from milkyway_agent.launching.direct import DirectStarter
from milkyway_agent.launching.program import Program
from milkyway_agent.launching.spawned import SpawnedStarter
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.supervisor.definition import Definition, check
from milkyway_formats.errors import RefusedError
from milkyway_formats.listener import Listener, Tcp
from milkyway_formats.service import ReadyByDescriptor, Reload, Service, Stop
from milkyway_formats.timer import Timer

EACH = Listener(name="each", address=Tcp(port=80), accept=True)
ONE = Listener(name="one", address=Tcp(port=81))
COMMAND = ["/bin/true"]


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (
            Service(name="a", command=COMMAND, listeners=[EACH, ONE]),
            "either all of its listeners accept connections, or none",
        ),
        (Service(name="a", command=COMMAND, listeners=[EACH], timers=[Timer(calendar=["daily"])]), "not at certain times"),
        (
            Service(name="a", command=COMMAND, listeners=[EACH], stop=Stop(command=COMMAND)),
            "for which of its connections",
        ),
        (
            Service(name="a", command=COMMAND, listeners=[EACH], reload=Reload(command=COMMAND)),
            "for which of its connections",
        ),
        (
            Service(name="a", command=COMMAND, listeners=[ONE], readiness=ReadyByDescriptor(descriptor=3)),
            "descriptor 3 is for a listener, or for a stored descriptor",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(service: Service, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        check(Definition("a", service, DirectStarter.__new__(DirectStarter)))


def test_a_service_with_listeners_needs_a_starter_that_passes_them() -> None:
    log = Log(lambda: 0)
    starter = SpawnedStarter(Program(("/bin/true",)), "/nowhere", Reaper(log))
    with pytest.raises(RefusedError, match="its starter passes no listeners"):
        check(Definition("a", Service(name="a", command=COMMAND, listeners=[ONE]), starter))
