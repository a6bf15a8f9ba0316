"""Health: readiness probes while a service starts, health probes and watchdogs while it is started.

A service's probes run one after the other, never two at once; a probe that can't be run (for lack of a process, say)
counts as a failure like any other. A task exists only while a probe runs.
"""

from collections.abc import Callable
from functools import partial

from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.runtime.alarms import Alarm, Alarms
from milkyway_agent.supervisor.organs import Reports
from milkyway_agent.supervisor.process.pressure import PressureWarnings
from milkyway_agent.supervisor.process.probes import LEAST_INTERVAL, probe
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_formats.service import ReadyByProbe

READY_SECONDS = 1.0  # a readiness probe may take at least so long, however short its interval is


class _Checks:
    """The checks of one started service: alarms of its next probe and its watchdog, and how many probes failed in a row."""

    __slots__ = ("asked", "failures", "watchdog")

    def __init__(self) -> None:
        self.asked: Alarm | None = None
        self.watchdog: Alarm | None = None
        self.failures = 0


class HealthChecks:
    """The readiness probes, health probes and watchdogs of all services."""

    def __init__(
        self, alarms: Alarms, spawn: Callable[..., None], note: Callable[..., None], pressure: PressureWarnings
    ) -> None:
        self._alarms = alarms
        self._spawn = spawn
        self._note = note
        self._pressure = pressure
        self._checks: dict[ServiceRecord, _Checks] = {}
        self.reports: Reports | None = None

    def close(self) -> None:
        """Close every descriptor."""
        self._pressure.close()

    # --- ready? --------------------------------------------------------------------------------------------------------

    def await_ready(self, record: ServiceRecord, process: MainProcess) -> None:
        """Run the readiness probe of a starting service until it succeeds, and post READY then."""
        self._spawn(record, self._ask_ready, record, process)

    async def _ask_ready(self, record: ServiceRecord, process: MainProcess) -> None:
        readiness = record.definition.service.readiness
        if not isinstance(readiness, ReadyByProbe) or record.process is not process or record.row is not Row.STARTING:
            return
        interval = max(readiness.interval_ms / 1000, LEAST_INTERVAL)
        why = await probe(record, process, readiness.probe, max(interval, READY_SECONDS))
        if record.process is not process or process.ended:
            return
        if why:
            process.unready = why
            process.probing = self._alarms.set(interval, partial(self.await_ready, record, process))
        else:
            self._post(record, Event.READY, process)

    # --- well? ---------------------------------------------------------------------------------------------------------

    def start(self, record: ServiceRecord) -> None:
        """Start the checks of a service. Undo: ``stop``."""
        service = record.definition.service
        if service.health is not None or service.watchdog_ms:
            checks = self._checks[record] = _Checks()
            self._ask_later(record, checks)
            self.feed(record)
        self._pressure.start(record)

    def stop(self, record: ServiceRecord) -> None:
        """Stop the checks of a service; the result of a probe that runs now is ignored. Idempotent."""
        checks = self._checks.pop(record, None)
        if checks is not None:
            self._alarms.cancel(checks.asked)
            self._alarms.cancel(checks.watchdog)
        self._pressure.stop(record)

    def feed(self, record: ServiceRecord) -> None:
        """Restart the watchdog timer of a started service, which has sent WATCHDOG=1."""
        milliseconds, checks = record.definition.service.watchdog_ms, self._checks.get(record)
        if milliseconds and checks is not None:
            self._alarms.cancel(checks.watchdog)
            checks.watchdog = self._alarms.set(milliseconds / 1000, partial(self._expired, record, record.process))

    def _expired(self, record: ServiceRecord, process: MainProcess | None) -> None:
        self._note("service_hung", service=record.definition.name)
        seconds = record.definition.service.watchdog_ms / 1000
        self._post(record, Event.WATCHDOG_TIMEOUT, process, f"its watchdog heard nothing for {seconds:g} s")

    def _ask_later(self, record: ServiceRecord, checks: _Checks) -> None:
        health = record.definition.service.health
        if health is not None:
            interval = max(health.interval_ms / 1000, LEAST_INTERVAL)
            checks.asked = self._alarms.set(interval, partial(self._ask, record, checks))

    def _ask(self, record: ServiceRecord, checks: _Checks) -> None:
        self._spawn(record, self._probe, record, record.process, checks)

    async def _probe(self, record: ServiceRecord, process: MainProcess | None, checks: _Checks) -> None:
        health = record.definition.service.health
        if health is None or process is None or self._is_outdated(record, process, checks):
            return
        why = await probe(record, process, health.probe, health.timeout_ms / 1000)
        if self._is_outdated(record, process, checks):
            return  # it has ended, is being stopped, or has new checks
        if not why:
            checks.failures = 0
        else:
            checks.failures += 1
            self._note("service_unwell", service=record.definition.name, why=why, failures=checks.failures)
        if checks.failures >= health.failures:
            self._post(record, Event.UNHEALTHY, process, f"unwell: {why} ({checks.failures} times)")
        else:
            self._ask_later(record, checks)

    def _is_outdated(self, record: ServiceRecord, process: MainProcess, checks: _Checks) -> bool:
        return self._checks.get(record) is not checks or record.process is not process or process.ended

    def _post(self, record: ServiceRecord, event: Event, process: MainProcess | None, why: str = "") -> None:
        assert self.reports is not None, "report_to is called first"
        self.reports.post(record, event, process, why)
