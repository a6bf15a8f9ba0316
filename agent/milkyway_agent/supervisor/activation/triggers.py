"""What triggers armed services: clients on their listeners (``socket_triggers``), and their timers (``timers``)."""

from collections.abc import Callable

from milkyway_agent.core.service_state import Event
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.activation.socket_triggers import SocketTriggers
from milkyway_agent.supervisor.activation.timers import ServiceTimers
from milkyway_agent.supervisor.organs import Reports
from milkyway_agent.supervisor.service_record import ServiceRecord


class Triggers:
    """Arms and disarms services. *spawn* runs a task for a service."""

    def __init__(
        self,
        watch: Watch,
        alarms: Alarms,
        note: Callable[..., None],
        spawn: Callable[..., None],
        *,
        clock_ms: Callable[[], int],
        chance: Callable[[], float],
    ) -> None:
        self._note = note
        self.sockets = SocketTriggers(watch, alarms, note, self._trigger)
        self.timers = ServiceTimers(watch, alarms, note, self._trigger, spawn, clock_ms=clock_ms, chance=chance)
        self.reports: Reports | None = None

    def arm(self, record: ServiceRecord) -> None:
        """Watch its listeners and set its timers to their next times. Undo: ``disarm``."""
        self.sockets.watch(record)
        self.timers.arm(record)

    def disarm(self, record: ServiceRecord) -> None:
        """Undo ``arm``. Idempotent. Listeners stay open."""
        self.sockets.unwatch(record)
        self.timers.disarm(record)

    def remove(self, record: ServiceRecord) -> None:
        """Forget a service: its timers, and its listeners, which are closed."""
        self.sockets.unwatch(record)
        self.timers.remove(record)
        self.sockets.close(record)

    def _trigger(self, record: ServiceRecord, why: str) -> None:
        assert self.reports is not None, "report_to is called first"
        self._note("service_triggered", service=record.definition.name, why=why)
        self.reports.post(record, Event.TRIGGERED)
