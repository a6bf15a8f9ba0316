"""Health: a service that starts is asked until it is ready, a started one whether it is well; its watchdog is listened for.

Probes of a service are asked one after the other, never two at once; a probe that can't be asked (no process to be
had, say) counts as a failure like any other. A task exists only while a probe is under way.
"""

from collections.abc import Callable
from functools import partial

from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.supervisor.process.pressure import PressureWarnings
from milkyway_agent.supervisor.process.probes import LEAST_INTERVAL, probe
from milkyway_agent.supervisor.service_record import Attended, Run
from milkyway_formats.service import ReadyByProbe

Post = Callable[[Attended, Event | None, object | None], None]
READY_SECONDS = 1.0  # what an answer about readiness may take at least, however often it is asked for


class HealthChecks:
    """Readiness probes, health probes and watchdogs of all services."""

    def __init__(
        self, alarms: Alarms, post: Post, spawn: Callable[..., None], note: Callable[..., None], pressure: PressureWarnings
    ) -> None:
        self._alarms = alarms
        self._post = post
        self._spawn = spawn
        self._note = note
        self.pressure = pressure

    # --- ready? --------------------------------------------------------------------------------------------------------

    def await_ready(self, one: Attended, run: Run) -> None:
        """Ask the readiness probe of a starting service until it is well, and post READY then."""
        self._spawn(self._ask_ready, one, run)

    async def _ask_ready(self, one: Attended, run: Run) -> None:
        readiness = one.definition.service.readiness
        if not isinstance(readiness, ReadyByProbe) or one.run is not run or one.row is not Row.STARTING:
            return
        interval = max(readiness.interval_ms / 1000, LEAST_INTERVAL)
        why = await probe(one, run, readiness.probe, max(interval, READY_SECONDS))
        if one.run is not run or run.ended:
            return
        if why:
            run.unready = why
            run.probing = self._alarms.set(interval, partial(self.await_ready, one, run))
        else:
            self._post(one, Event.READY, run)

    # --- well? ---------------------------------------------------------------------------------------------------------

    def start(self, one: Attended) -> None:
        """Begin to ask and to listen. Undo: ``stop``."""
        one.failures = 0
        self._ask_later(one)
        self.feed(one)
        self.pressure.start(one)

    def stop(self, one: Attended) -> None:
        """Ask and listen no more; the answer to what was asked counts for nothing. Twice is the same as once."""
        self._alarms.cancel(one.health)
        self._alarms.cancel(one.watchdog)
        one.health = one.watchdog = None
        self.pressure.stop(one)

    def feed(self, one: Attended) -> None:
        """Take a sign of life (WATCHDOG=1): the watchdog of a started service counts anew."""
        milliseconds = one.definition.service.watchdog_ms
        if milliseconds and one.row is Row.STARTED:
            self._alarms.cancel(one.watchdog)
            one.watchdog = self._alarms.set(milliseconds / 1000, partial(self._hung, one, one.run))

    def _hung(self, one: Attended, run: Run | None) -> None:
        one.reason = f"its watchdog heard nothing for {one.definition.service.watchdog_ms / 1000:g} s"
        self._note("service_hung", service=one.definition.name)
        self._post(one, Event.WATCHDOG_TIMEOUT, run)

    def _ask_later(self, one: Attended) -> None:
        health = one.definition.service.health
        if health is not None:
            one.health = self._alarms.set(max(health.interval_ms / 1000, LEAST_INTERVAL), partial(self._ask, one))

    def _ask(self, one: Attended) -> None:
        self._spawn(self._probe, one, one.run)

    async def _probe(self, one: Attended, run: Run | None) -> None:
        health, asked = one.definition.service.health, one.health
        if health is None or asked is None or run is None or one.run is not run or run.ended:
            return
        why = await probe(one, run, health.probe, health.timeout_ms / 1000)
        if one.health is not asked or one.run is not run or run.ended:
            return  # it has ended or is being stopped, or is asked otherwise by now; whoever comes next has its own checks
        if not why:
            one.failures = 0
        else:
            one.failures += 1
            self._note("service_unwell", service=one.definition.name, why=why, failures=one.failures)
        if one.failures >= health.failures:
            one.reason = f"unwell: {why} ({one.failures} times)"
            self._post(one, Event.UNHEALTHY, run)
        else:
            self._ask_later(one)
