"""Health: a started service is probed, and its watchdog listened for; what is not well is told to its table.

Probes of a service are asked one after the other, never two at once; a probe that can't be asked (no process to be
had, say) counts as a failure like any other.
"""

from collections.abc import Callable
from functools import partial

from milkyway_agent.alarms import Alarms
from milkyway_agent.attended import Attended, Run
from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.probes import probe

Post = Callable[[Attended, Event | None, object | None], None]


class HealthChecks:
    """Health probes and watchdogs of all services."""

    def __init__(self, alarms: Alarms, post: Post, spawn: Callable[..., None], note: Callable[..., None]) -> None:
        self._alarms = alarms
        self._post = post
        self._spawn = spawn
        self._note = note

    def start(self, one: Attended) -> None:
        """Begin to ask and to listen. Undo: ``stop``."""
        one.failures = 0
        health = one.definition.service.health
        if health is not None:
            one.health = self._alarms.set(health.interval_ms / 1000, partial(self._ask, one))
        self.feed(one)

    def stop(self, one: Attended) -> None:
        """Ask and listen no more. Twice is the same as once."""
        self._alarms.cancel(one.health)
        self._alarms.cancel(one.watchdog)
        one.health = one.watchdog = None

    def feed(self, one: Attended) -> None:
        """Take a sign of life (WATCHDOG=1): the watchdog of a started service counts anew."""
        milliseconds = one.definition.service.watchdog_ms
        if milliseconds and one.row is Row.STARTED:
            self._alarms.cancel(one.watchdog)
            one.watchdog = self._alarms.set(milliseconds / 1000, partial(self._hung, one, one.run))

    def _hung(self, one: Attended, run: Run | None) -> None:
        one.reason = f"its watchdog heard nothing for {one.definition.service.watchdog_ms / 1000:g} s"
        self._note("service_hung", service=one.definition.name)
        self._post(one, Event.HUNG, run)

    def _ask(self, one: Attended) -> None:
        self._spawn(self._probe, one, one.run)

    async def _probe(self, one: Attended, run: Run | None) -> None:
        health = one.definition.service.health
        if health is None or run is None or one.run is not run or one.row is not Row.STARTED:
            return
        why = await probe(one, run, health.probe, health.timeout_ms / 1000)
        if one.run is not run or one.row is not Row.STARTED:
            return  # it has ended or is being stopped; whoever comes next has checks of its own
        if not why:
            one.failures = 0
        else:
            one.failures += 1
            self._note("service_unwell", service=one.definition.name, why=why, failures=one.failures)
        if one.failures >= health.failures:
            one.reason = f"unwell: {why} ({one.failures} times)"
            self._post(one, Event.UNHEALTHY, run)
        else:
            one.health = self._alarms.set(health.interval_ms / 1000, partial(self._ask, one))
