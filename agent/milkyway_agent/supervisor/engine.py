"""The lives of all services: events are fed to each one's table, and the effects that it answers with are carried out.

Each service has one queue, and its events are handled one at a time, at once where they arise: there is no
task for each service. One epoll watches all descriptors (``runtime.watch``), one heap holds all timers
(``alarms``); a task exists only where something must be waited for (a container's start, clearing away what
survived, a command), and only as long. Messages say what they belong to: one about an earlier process or a
cancelled timer is dropped. Whatever goes wrong while an effect is carried out is logged and makes that
service ``failed``; all others go on.

What the rows mean is ``core.service_state``'s, who must wait for whom ``core.dependencies``', when to
try again ``core.restart``'s, how a process comes to be a ``Starter``'s, what is open for it ``supervisor.process.io``'.
"""

import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import trio

from milkyway_agent.core import restart
from milkyway_agent.core.dependencies import Graph
from milkyway_agent.core.explanation import Origin
from milkyway_agent.core.service_state import (
    ONLY_IN,
    PERMISSIONS,
    TIMERS,
    Effect,
    Event,
    IllegalEventError,
    Row,
    is_lost,
    judges_end,
    step,
)
from milkyway_agent.launching.child import Running, let_go
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.activation.conditions import unmet
from milkyway_agent.supervisor.activation.connections import Connections
from milkyway_agent.supervisor.activation.triggers import ServiceTriggers
from milkyway_agent.supervisor.dependents import SeenRows
from milkyway_agent.supervisor.losses import losses
from milkyway_agent.supervisor.process.cleanup import Burial, clear
from milkyway_agent.supervisor.process.commands import ServiceCommands
from milkyway_agent.supervisor.process.exit_verdict import judge_end
from milkyway_agent.supervisor.process.health import HealthChecks
from milkyway_agent.supervisor.process.io import ServiceRuns
from milkyway_agent.supervisor.process.pressure import PressureWarnings
from milkyway_agent.supervisor.service_record import AT_ONCE, Attended, Change, Message, Run, accepts, is_direct
from milkyway_formats.errors import MilkyWayError, UnavailableError

HISTORY = 1000
_AT_REST = frozenset({Row.IDLE, Row.ARMED, Row.COMPLETED, Row.FAILED})  # no run follows on its own
LEAST_DELAY_MS = 1  # after a start that came to nothing at once: starts without end must let others have their turn


class Lives:
    """All services with all that is done for them. ``services``: by name; whoever changes them sets ``graph`` too."""

    def __init__(
        self,
        log: Log,
        reaper: Reaper,
        *,
        clock_ms: Callable[[], int],
        notify_directory: str,
        chance: Callable[[], float],
        on_reboot: Callable[[str], None],
    ) -> None:
        """See ``Supervisor``."""
        self.history: deque[Change] = deque(maxlen=HISTORY)
        self.keeps_at_end = False
        self.services: dict[str, Attended] = {}
        self.rows: Mapping[str, Row] = SeenRows(self.services)
        self.graph = Graph({})
        self.awaiting: dict[str, Attended] = {}
        self.log = log
        self.reaper = reaper
        self._clock_ms = clock_ms
        self._chance = chance
        self._on_reboot = on_reboot
        self._ready: deque[Attended] = deque()
        self._pumping = False
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._waiting = 0  # for a change
        self._news = False
        self.alarms = Alarms(log.note)
        self.watch = Watch(log.note, self.alarms)
        self.runs = ServiceRuns(self.watch, self.alarms, log, self.post, self._spawn, notify_directory)
        self._commands = ServiceCommands(log, self._spawn)
        self.health = HealthChecks(self.alarms, self.post, self._spawn, log.note, PressureWarnings(self.watch, log.note))
        self.triggers = ServiceTriggers(
            self.watch, self.alarms, log.note, self._triggered, self._spawn, clock_ms=clock_ms, chance=chance
        )
        self.connections = Connections(self.watch, reaper, log.note, self.runs.open_output, self.triggers.room_came)
        self._cut_off: list[tuple[Any, ...]] = []  # what was under way when an agent failed, for the next one to do again
        self._burial = Burial(self.watch, self.runs, reaper, log.note)
        self.runs.on_watchdog = self.health.feed
        self.runs.on_probe = self.health.await_ready
        self.triggers.on_connection = self.connections.serve
        self.triggers.has_room = self.connections.has_room

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Let services live, until cancelled; their processes go on.

        ``keeps_at_end``: what is open for them stays so, and run again, it goes on where it was cut off.
        """
        self._changed = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.watch.run)
                nursery.start_soon(self.alarms.run)
                begun, self._cut_off = self._cut_off, []
                for task in begun:
                    nursery.start_soon(self._guarded, *task)
                self._pump()
                task_status.started()
                with self.watch.dispatching_first():
                    await trio.sleep_forever()
        finally:
            self._nursery = None
            self._changed.set()
            if not self.keeps_at_end:
                self.release()

    def release(self) -> None:
        """Close every descriptor. Twice is the same as once."""
        for one in self.services.values():
            self.runs.let_go(one)
            self.connections.let_go(one)
            self.triggers.close(one)
        self.triggers.close_clock()
        self.health.pressure.close()
        self.watch.close()

    async def change(self) -> None:
        """Wait until something has happened to some service. Raises UnavailableError when nothing will."""
        if self._nursery is None:
            raise UnavailableError("cannot wait for a service: the supervisor does not run")
        self._waiting += 1
        try:
            await self._changed.wait()
        finally:
            self._waiting -= 1

    def forget(self, one: Attended) -> None:
        """Forget a service that is stopped."""
        self.triggers.remove(one)
        self.runs.forget(one)
        del self.services[one.definition.name]
        self.awaiting.pop(one.definition.name, None)

    # --- events --------------------------------------------------------------------------------------------------------

    def post(self, one: Attended, event: Event | None, source: object | None = None) -> None:
        """Let *event* happen to a service: at once, or when what is being done to it is done.

        *source*: what it is about; when that is history by then, so is the event. (``AT_ONCE``: see ``Attended.asked``.)
        """
        if self.services.get(one.definition.name) is not one:
            return  # it was removed
        if one.queue is None:
            one.queue = deque()
        one.queue.append(Message(event, source))
        if not one.queued:
            one.queued = True
            self._ready.append(one)
        if not self._pumping:
            self._pump()

    def unwant(self, one: Attended, origin: Origin) -> None:
        """Stop a service, and remember why."""
        if one.row.wanted:
            one.origin = origin
        self.post(one, Event.UNWANTED)

    def _pump(self) -> None:
        """Handle all that waits to be handled and can be."""
        if self._nursery is None:
            return
        self._pumping = True
        try:
            while self._ready:
                one = self._ready.popleft()
                one.queued = False
                while one.queue and not one.busy:
                    try:
                        self._handle(one, one.queue.popleft())
                    except Exception as error:  # noqa: BLE001 (a bug in one service's life must not end the others')
                        self._break(one, error)
                    self._news = True
                if not one.queue:
                    one.queue = None
        finally:
            self._pumping = False
        if self._news:
            self._news = False
            if self._waiting:
                self._changed.set()
                self._changed = trio.Event()

    def _handle(self, one: Attended, message: Message) -> None:
        event = message.event
        if message.source is not None and message.source not in (one.run, one.alarm, one, AT_ONCE):
            return  # about a process or a timer that is history
        if event is None:
            self._happen(one, self._end_of(one))
            return
        if event in PERMISSIONS and (not one.awaits_permission or one.row is not Row.WAITING or self.held_back(one)):
            return  # it was given up, found waiting for something else, or held back anew meanwhile
        if ONLY_IN.get(event, one.row) is not one.row:
            return
        if event is Event.LATE:
            why = f": {one.run.unready}" if one.run and one.run.unready else ""
            one.reason = f"not ready within {one.definition.service.ready_timeout_ms / 1000:g} s{why}"
        elif event is Event.WANTED:
            one.reason = "" if one.row in (Row.IDLE, Row.FAILED) else one.reason
        elif event in (Event.RESTART_ASKED, Event.UNWANTED):
            one.asked = message.source is AT_ONCE
            one.reason = one.reason if one.row is Row.FALTERING else ""
        elif event is Event.ARM and not self._can_listen(one):
            event = Event.PERMITTED  # to be started in vain, and judged and tried again like anything else that can't be
        try:
            following = step(one.row, event)
        except IllegalEventError as error:  # our bug: not the service's, which goes on as it was
            self.log.note("event_without_meaning", service=one.definition.name, error=str(error))
            return
        self.enter(one, following.row, event)
        self._go_on(one, following.effects)

    def _can_listen(self, one: Attended) -> bool:
        try:
            self.triggers.open(one)
        except (MilkyWayError, OSError):
            return False
        return True

    def _happen(self, one: Attended, event: Event) -> None:
        """Go to the row that *event* leads to and carry out the effects; an effect may itself bring about an event."""
        following = step(one.row, event)
        self.enter(one, following.row, event)
        self._go_on(one, following.effects)

    def _go_on(self, one: Attended, effects: tuple[Effect, ...]) -> None:
        """Carry out *effects*, as far as they take no time; the rest is for ``_resume``."""
        for index, effect in enumerate(effects):
            event = self.carry_out(one, effect)
            if one.busy:
                one.effects = effects[index + 1 :]
                return
            if event is not None:
                self._happen(one, event)
                return

    def _resume(self, one: Attended, event: Event | None = None) -> None:
        """Go on after an effect that took its time; *event*: what it brought about."""
        one.busy = False
        effects, one.effects = one.effects, ()
        try:
            self.permit(self.graph.concerned(one.definition.name))
            if event is not None:
                self._happen(one, event)
            else:
                self._go_on(one, effects)
        except Exception as error:  # noqa: BLE001 (as in _pump)
            self._break(one, error)
        self._news = True
        if one.queue and not one.queued:
            one.queued = True
            self._ready.append(one)
        if not self._pumping:
            self._pump()

    def enter(self, one: Attended, row: Row, cause: Event) -> None:
        """Have a service in *row*, note it, and let others go on that waited for that. No effect is carried out."""
        was, one.row = one.row, row
        if was is row:
            return
        name = one.definition.name
        if row is not Row.WAITING:
            one.awaits_permission = False
            self.awaiting.pop(name, None)
        if row in (Row.STARTING, Row.IDLE, Row.FAILED):
            one.asked = False
        one.since_ms = self._clock_ms()
        one.cause, one.times = cause, one.times.entered(row, one.since_ms)
        self.history.append(Change(name, was, row, cause, one.since_ms))
        facts = {"reason": one.reason} if one.reason else {}
        self.log.note("service_state_changed", service=name, was=was.label, now=row.label, cause=cause.value, **facts)
        if is_lost(was, row):
            for lost, event in losses(name, self.graph, self.services):
                self.post(lost, event)
        if row in _AT_REST:
            self.runs.give_up_output(one)
        if row in (Row.IDLE, Row.FAILED):
            self.triggers.close(one)
            self.runs.forget(one)
        if row is Row.FAILED:
            self.log.note("service_failed", service=name, why=one.reason)
            self._on_failure(one)
        # Who merely comes after one that waits in vain is let go, and need not be a neighbour of the one that makes it vain.
        self.permit(list(self.awaiting) if row in (Row.IDLE, Row.FAILED, Row.WAITING) else self.graph.concerned(name))

    def _on_failure(self, one: Attended) -> None:
        name = one.definition.name
        match one.definition.service.restart.on_failure:
            case "isolate":
                self.log.note("service_isolated", service=name)
                for other in self.graph.isolated(name):
                    self.unwant(self.services[other], Origin("isolated", name))
            case "reboot":
                self.log.note("service_asks_for_reboot", service=name)
                self._on_reboot(name)
            case "nothing":
                pass

    # --- effects -------------------------------------------------------------------------------------------------------

    def carry_out(self, one: Attended, effect: Effect) -> Event | None:
        """Carry out one effect. Returns the event that it brought about at once; ``one.busy``: it takes its time."""
        service, starter = one.definition.service, one.definition.starter
        match effect:
            case Effect.AWAIT_PERMISSION:
                one.awaits_permission = True
                self.awaiting[one.definition.name] = one
                self.permit([one.definition.name])
            case Effect.START:
                return self._start(one)
            case Effect.ARM:
                self.triggers.arm(one)
            case Effect.DISARM:
                self._disarm(one)
            case Effect.START_READY_TIMER:
                if service.ready_timeout_ms:
                    self.start_alarm(one, service.ready_timeout_ms, Event.LATE)
            case Effect.START_STOP_TIMER:
                self.start_alarm(one, service.stop.timeout_ms, Event.OVERDUE)
            case Effect.START_BACKOFF_TIMER:
                if not one.delay_ms:
                    return Event.BACKOFF_OVER
                self.start_alarm(one, one.delay_ms, Event.BACKOFF_OVER)
            case Effect.CANCEL_TIMER:
                self.alarms.cancel(one.alarm)
                one.alarm = None
            case Effect.START_HEALTH_CHECKS:
                self.health.start(one)
            case Effect.STOP_HEALTH_CHECKS:
                self.health.stop(one)
            case Effect.RELOAD:
                self._commands.reload(one)
            case Effect.TERMINATE:
                self._commands.terminate(one)
            case Effect.KILL:
                asked = TIMERS.get(one.row) is Event.OVERDUE  # to end before
                late = {"after_ms": one.definition.service.stop.timeout_ms} if asked else {}
                self.log.note("service_killed", service=one.definition.name, **late)
                starter.kill()
                if one.run is not None:
                    one.run.signal(signal.SIGKILL)
            case Effect.CLEAN_UP:
                self._clean_up(one)
            case Effect.FORGET_STARTS:
                one.starts = restart.Starts()
        return None

    def _start(self, one: Attended) -> Event | None:
        """Have the service's process started. Returns what comes of it when that is known at once."""
        service = one.definition.service
        one.starts = restart.started(one.starts, _now_ms(), service.restart)
        one.last_line = ""
        if service.type == "bundle":
            return Event.COMPLETED
        try:
            if accepts(service):
                self.triggers.open(one)
                one.starts, one.reason = restart.Starts(), ""
                return Event.RESTED  # it runs for connections alone
            self.triggers.started(one)
            one.busy = True
            self.runs.start(one, self.triggers.listeners(one), lambda outcome: self._started(one, outcome))
        except (MilkyWayError, OSError) as error:
            one.busy = False
            return self._not_started(one, error)
        return None

    def _started(self, one: Attended, outcome: Running | Exception) -> None:
        """Go on with what came of a start. Never raises: whoever tells has others to tell."""
        event = None
        try:
            if isinstance(outcome, (MilkyWayError, OSError)):
                event = self._not_started(one, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                self.hold(one, Run(outcome))
        except Exception as error:  # noqa: BLE001 (as in _pump)
            self._log_failure(one, error)
            event = Event.BROKEN
        self._resume(one, event)

    def hold(self, one: Attended, run: Run) -> None:
        """Take *run* as the service's process: watch it for its end and its readiness."""
        one.run = run
        one.times = one.times.with_process(self._clock_ms())
        self.log.note("service_process_started", service=one.definition.name, pid=run.running.pid)
        self.watch.add(run.running.pidfd, partial(self.process_ended, one, run))
        self.runs.watch_readiness(one, run)

    def _not_started(self, one: Attended, error: Exception) -> Event:
        self.runs.drain(one)
        one.reason = f"{error} ({one.last_line})" if one.last_line else str(error)
        self.log.note("service_not_started", service=one.definition.name, reason=one.reason)
        event = self._judged(one, None)
        one.delay_ms = max(one.delay_ms, LEAST_DELAY_MS)
        return event

    def process_ended(self, one: Attended, run: Run, _events: int) -> None:
        """Hear *run* out, and have its end judged. For ``watch`` to call, once."""
        self.watch.remove(run.running.pidfd)
        try:
            self.runs.hear_out(one, run)
        except OSError as error:  # its end must not be missed for it
            self.log.note("last_words_missed", service=one.definition.name, error=str(error))
        run.ended = True
        self.post(one, None, run)

    def _end_of(self, one: Attended) -> Event:
        """Reap the process that has ended, and return what its end is."""
        assert one.run is not None, "only a process ends"
        starter = one.definition.starter
        if is_direct(starter):
            starter.ended()
        code = let_go(one.run.running, self.reaper)
        self.runs.close(one, one.run)
        one.run = None
        if judges_end(one.row):
            return self._judged(one, code)
        self.triggers.ended(one)
        return Event.ENDED

    def _judged(self, one: Attended, code: int | None) -> Event:
        event = judge_end(one, code, _now_ms(), self._chance())
        self.triggers.ended(one)
        return event

    def _disarm(self, one: Attended) -> None:
        self.triggers.disarm(one)
        if accepts(one.definition.service) and (self.connections.serving(one) or not clear(one)):
            one.busy = True
            self._spawn(self._end_connections, one)

    async def _end_connections(self, one: Attended) -> None:
        try:
            await self.connections.end(one)
        except Exception as error:  # noqa: BLE001 (as in _pump; what is left of them is for CLEAN_UP)
            self._log_failure(one, error)
        self._resume(one)

    def _clean_up(self, one: Attended) -> None:
        """Clear away what the service's start made: at once where nothing of it is left, else by a task."""
        if one.run is None and clear(one):
            return
        self.runs.give_up_output(one)  # what is left of it may write until it is gone, and after if it won't
        one.busy = True
        self._spawn(self._bury, one)

    async def _bury(self, one: Attended) -> None:
        await self._burial.bury(one)
        self._resume(one)

    def _break(self, one: Attended, error: Exception) -> None:
        """Make the service failed after an error in handling it. Never raises an Exception."""
        self._log_failure(one, error)
        following = step(one.row, Event.BROKEN)
        one.busy, one.effects = False, ()
        try:
            self.enter(one, following.row, Event.BROKEN)
        except Exception as second:  # noqa: BLE001 (there is nothing left to try; the service stays failed)
            self.log.note("service_task_failed", service=one.definition.name, error=repr(second))
        for index, effect in enumerate(following.effects):
            try:
                self.carry_out(one, effect)
            except Exception as second:  # noqa: BLE001 (what undoes is tried, each by itself)
                self.log.note("service_task_failed", service=one.definition.name, error=repr(second))
            if one.busy:
                one.effects = following.effects[index + 1 :]
                return

    def _log_failure(self, one: Attended, error: Exception) -> None:
        details = "".join(traceback.format_exception(error))
        self.log.note("service_task_failed", service=one.definition.name, error=repr(error), traceback=details)
        is_told = isinstance(error, (MilkyWayError, OSError))
        one.reason = str(error) if is_told else f"the supervisor failed: {error!r}"

    # --- what happens to it by itself --------------------------------------------------------------------------------

    def _spawn(self, task: Callable[..., Any], one: Attended, *arguments: object) -> None:
        """Run *task* for a service, for as long as it takes."""
        assert self._nursery is not None, "services are handled only while the supervisor runs"
        self._nursery.start_soon(self._guarded, task, one, *arguments)

    async def _guarded(self, task: Callable[..., Any], one: Attended, *arguments: object) -> None:
        try:
            await task(one, *arguments)
        except trio.Cancelled:
            self._cut_off.append((task, one, *arguments))  # each may be begun anew, and looks whether it is still meant
            raise
        except Exception as error:  # noqa: BLE001 (told to the service, which it makes failed)
            self._log_failure(one, error)
            self.post(one, Event.BROKEN)

    def start_alarm(self, one: Attended, milliseconds: int, event: Event) -> None:
        """Let *event* happen to a service in so many *milliseconds*, instead of what its timer was set for."""
        self.alarms.cancel(one.alarm)
        alarm = self.alarms.set(milliseconds / 1000, lambda: self.post(one, event, alarm))
        one.alarm = alarm

    def _triggered(self, one: Attended, why: str) -> None:
        self.log.note("service_triggered", service=one.definition.name, why=why)
        self.post(one, Event.TRIGGERED)

    def held_back(self, one: Attended) -> list[str]:
        """Return why a service may not start now; none: it may."""
        if one.held:
            return ["is being stopped with what it requires, or changed"]
        return self.graph.holding_back(one.definition.name, self.rows)

    def permit(self, names: Iterable[str]) -> None:
        """Let those of *names* start that wait for others and need wait no longer."""
        for name in names:
            one = self.awaiting.get(name)
            if one is None or not one.awaits_permission or self.held_back(one):
                continue
            why = unmet(one.definition.service.conditions)
            if why:
                one.reason = why
            self.post(one, restart.permission(one.definition.service, one.starts, not why, asked=one.asked), one)


def _now_ms() -> int:
    return int(trio.current_time() * 1000)
