"""Services whose processes exist before the supervisor runs: started early, or by the program before a re-execution."""

from milkyway_agent.launching.child import Child
from milkyway_agent.log.log import Log
from milkyway_agent.log.service_output import Stream
from milkyway_agent.supervisor.engine import Engine
from milkyway_agent.supervisor.fd_store import Stored
from milkyway_agent.supervisor.live_organs import LiveOrgans
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_agent.supervisor.snapshot import KeptService, restore


class Adoption:
    """Takes over running services: gives the organs what is open for them, and the engine their state."""

    def __init__(self, engine: Engine, organs: LiveOrgans, log: Log) -> None:
        self._engine = engine
        self._organs = organs
        self._log = log

    def adopt(self, record: ServiceRecord, child: Child, output: int, writing: int) -> None:
        """Take over a process of an idle service that was started before it was supervised; *output*: its pipe's read end.

        *writing*: the write end, if it is kept for the next process; else -1.
        """
        self._organs.output.read(record, Stream(output, record.definition.name, self._log))
        if writing >= 0:
            self._organs.output.keep(record, writing)
        record.definition.starter.adopt(child)
        self._engine.adopt(record, MainProcess(child))

    def go_on(self, record: ServiceRecord, kept: KeptService, now_ms: int) -> None:
        """Go on with a service where the program before this one left it."""
        organs = self._organs
        restore(record, kept, now_ms)
        organs.triggers.timers.restore(record, kept.pasts)
        organs.triggers.sockets.restore(record, kept.listeners)
        for stream in kept.streams:
            organs.output.read(record, Stream(stream.descriptor, kept.name, self._log, rest=stream.rest))
        if kept.stored:
            organs.notify.restore(record, [Stored(entry.name, entry.descriptor, entry.polled) for entry in kept.stored])
        for connection in kept.connections:
            organs.connections.adopt(record, connection.listener, Child(connection.pid, connection.pidfd))
        self._engine.go_on(record, kept.alarm_ms)
