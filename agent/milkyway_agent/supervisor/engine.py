"""The engine: feeds events to each service's state table, and has the organs carry out the effects that follow.

Each service has one queue; its events are handled one at a time, as soon as they arise. A message names the process or alarm
that it is about, and is dropped if that is not the current one any more. Rules about the meaning of an event that are not in
the table are in ``_event_of`` and nowhere else, and a service's ``reason`` is decided only here. If carrying out an effect
fails in an unexpected way, that is logged and makes the service ``failed``; all others go on.

The engine waits for nothing and makes no system calls: *organs* carry out the effects, *clock* tells the time, *chance* draws
numbers from 0 to 1. So the tests' world runs the same engine. ``core.service_state`` explains the table,
``core.dependencies`` which services wait for which, and ``core.restart`` when a service is tried again.
"""

import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from milkyway_agent.core import restart
from milkyway_agent.core.dependencies import Graph
from milkyway_agent.core.explanation import Origin
from milkyway_agent.core.service_state import (
    ONLY_IN,
    TABLE,
    TIMERS,
    Effect,
    Event,
    Row,
    is_lost,
    judges_end,
    step,
)
from milkyway_agent.launching.child import Child
from milkyway_agent.supervisor.definition import Definition, accepts
from milkyway_agent.supervisor.dependents import RowsForOthers, losses
from milkyway_agent.supervisor.inbox import Inbox
from milkyway_agent.supervisor.organs import Organs
from milkyway_agent.supervisor.service_record import MainProcess, Message, Question, ServiceRecord
from milkyway_formats.errors import MilkyWayError

LEAST_DELAY_MS = 1  # after a start that failed at once: endless restarts must leave time for other tasks
_AT_REST = frozenset({Row.IDLE, Row.ARMED, Row.COMPLETED, Row.FAILED})  # it gets no process without a further event


class Clock(Protocol):
    """The engine's two clocks, in milliseconds."""

    def now_ms(self) -> int:
        """Return the time of a monotonic clock, the one that alarms use."""

    def boottime_ms(self) -> int:
        """Return the time since the kernel's start (CLOCK_BOOTTIME), to show to people."""


class Engine:
    """All services and what happens to them. ``services``: by name; code that changes them must set ``graph``, too."""

    def __init__(
        self,
        organs: Organs,
        clock: Clock,
        chance: Callable[[], float],
        *,
        note: Callable[..., None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """*note* logs an event; *on_change* is called after something has happened."""
        self.services: dict[str, ServiceRecord] = {}
        self.rows: Mapping[str, Row] = RowsForOthers(self.services)
        self.graph = Graph({})
        self._organs = organs
        self._clock = clock
        self._chance = chance
        self._note = note
        self._awaiting: dict[str, ServiceRecord] = {}
        self._inbox = Inbox(self._handle, on_change)
        organs.report_to(self)

    # --- which services there are -------------------------------------------------------------------------------------

    def new_record(self, definition: Definition) -> ServiceRecord:
        """Return the record of a new service, which is stopped."""
        return ServiceRecord(definition, self._clock.boottime_ms())

    def forget(self, record: ServiceRecord) -> None:
        """Forget a service that is stopped: messages for it are dropped from now on."""
        del self.services[record.definition.name]
        self._awaiting.pop(record.definition.name, None)

    def hold_back(self, records: Iterable[ServiceRecord]) -> None:
        """Keep services from starting. Undo: ``let_go``, once for each call."""
        for record in records:
            record.held += 1

    def let_go(self, records: Iterable[ServiceRecord]) -> None:
        """Undo ``hold_back``."""
        for record in records:
            record.held -= 1
        self.permit_all()

    # --- requests -----------------------------------------------------------------------------------------------------

    def want(self, *names: str) -> None:
        """Start services with all that they require and want; stop what conflicts with any of these."""
        self.pull_in(*names)
        for name in names:
            self.post(self.services[name], Event.WANTED)

    def pull_in(self, *names: str) -> None:
        """Start all that *names* require and want, but not these; stop what conflicts with any of them."""
        for other in self.graph.pulled_in(*names):
            self.displace(other)
            if other not in names:
                self.post(self.services[other], Event.WANTED)

    def displace(self, name: str) -> None:
        """Stop what conflicts with *name*."""
        for rival in self.graph.conflicting(name):
            self.unwant(self.services[rival], Origin("displaced", name))

    def unwant(self, record: ServiceRecord, origin: Origin) -> None:
        """Stop a service; *origin*: why."""
        if record.row.wanted:
            record.origin = origin
        self.post(record, Event.UNWANTED)

    def restart(self, record: ServiceRecord) -> None:
        """Restart a service without waiting for its trigger; stop what conflicts with it."""
        self.displace(record.definition.name)
        self._send(record, Message(Event.RESTART_ASKED, at_once=True))

    # --- events -------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether messages are handled."""
        return self._inbox.is_open

    def open(self) -> None:
        """Handle messages from now on, beginning with those that wait. Undo: ``close``."""
        self._inbox.open()

    def close(self) -> None:
        """Let messages wait. Idempotent."""
        self._inbox.close()

    def post(self, record: ServiceRecord, what: Event | Question, source: object | None = None, why: str = "") -> None:
        """Let *what* happen to a service; see ``organs.Post``. Does nothing if the service was removed."""
        self._send(record, Message(what, source, why))

    def report_status(self, record: ServiceRecord, text: str) -> None:
        """Show the status that a service reports as its reason."""
        record.reason = text

    def fail(self, record: ServiceRecord, error: Exception) -> None:
        """Log an error that is not the service's fault, and make the service failed."""
        self.post(record, Event.INTERNAL_ERROR, why=self._failure(record, error))

    def _send(self, record: ServiceRecord, message: Message) -> None:
        if self.services.get(record.definition.name) is record:
            self._inbox.put(record, message)

    def _handle(self, record: ServiceRecord, message: Message) -> None:
        """Handle one message. Never raises: a bug that one service meets must not affect the others."""
        try:
            event = self._event_of(record, message)
            if event is None:
                return
            if event is message.what and (record.row, event) not in TABLE:  # a bug of the sender: nothing changes
                error = f"{event.value!r} has no meaning for a service that is {record.row.label}"
                self._note("event_without_meaning", service=record.definition.name, error=error)
                return
            self._explain(record, event, message)
            self._apply(record, event)
        except Exception as error:  # noqa: BLE001 (see above)
            self._break(record, error)

    def _event_of(self, record: ServiceRecord, message: Message) -> Event | None:
        """Return which event *message* means now; None: it has no meaning any more.

        Besides the table, these are all the rules: (1) a message about a process or alarm that is not the current one is
        dropped; (2) an event that has a meaning in one row alone comes too late in any other; (3) the end of a process is
        judged when its message is handled, and so is (4) whether and how a service may start.
        """
        what = message.what
        if message.source is not None and message.source not in (record.process, record.alarm):
            return None
        if what is Question.END:
            return self._end_of(record)
        if what is Question.START:
            return self._permission(record)
        return what if ONLY_IN.get(what, record.row) is record.row else None

    def _explain(self, record: ServiceRecord, event: Event, message: Message) -> None:
        """Write the reason for the row that *event* leads to."""
        match event:
            case Event.START_TIMEOUT:
                unready = f": {record.process.unready}" if record.process and record.process.unready else ""
                record.reason = f"not ready within {record.definition.service.ready_timeout_ms / 1000:g} s{unready}"
            case Event.WANTED:
                record.reason = "" if record.row in (Row.IDLE, Row.FAILED) else record.reason
            case Event.RESTART_ASKED | Event.UNWANTED:
                record.at_once = message.at_once
                record.reason = record.reason if record.row is Row.FALTERING else ""
            case _:
                record.reason = message.why or record.reason

    def _apply(self, record: ServiceRecord, event: Event) -> None:
        """Enter the row that *event* leads to, and carry out the effects; these may bring about further events."""
        following = step(record.row, event)
        self.enter(record, following.row, event)
        self._carry_out_all(record, following.effects)

    def _carry_out_all(self, record: ServiceRecord, effects: tuple[Effect, ...]) -> None:
        """Carry out *effects* until one takes time; ``_continue`` carries out the rest."""
        for index, effect in enumerate(effects):
            event = self._carry_out(record, effect)
            if record.busy:
                record.effects = effects[index + 1 :]
                return
            if event is not None:
                self._apply(record, event)
                return

    def _resume(self, record: ServiceRecord, event: Event | None = None) -> None:
        """Continue after an effect that took time; *event*: what it brought about."""
        self._inbox.resume(record, partial(self._continue, record, event))

    def _continue(self, record: ServiceRecord, event: Event | None) -> None:
        record.busy = False
        effects, record.effects = record.effects, ()
        try:
            self._wake_others(record)
            if event is not None:
                self._apply(record, event)
            else:
                self._carry_out_all(record, effects)
        except Exception as error:  # noqa: BLE001 (as in _handle)
            self._break(record, error)

    def enter(self, record: ServiceRecord, row: Row, cause: Event) -> None:
        """Put a service into *row*, log that, and tell the services that it concerns. No effect is carried out."""
        was, record.row = record.row, row
        if was is row:
            return
        name = record.definition.name
        if row is not Row.WAITING:
            record.awaits_permission = False
            self._awaiting.pop(name, None)
        if row in (Row.STARTING, Row.IDLE, Row.FAILED):
            record.at_once = False
        record.since_ms = self._clock.boottime_ms()
        record.cause, record.times = cause, record.times.entered(row, record.since_ms)
        facts = {"reason": record.reason} if record.reason else {}
        self._note("service_state_changed", service=name, was=was.label, now=row.label, cause=cause.value, **facts)
        if is_lost(was, row):
            for other, loss in losses(name, self.graph, self.services):
                self.post(other, loss)
        if row in _AT_REST:
            self._organs.rest(record)
        if row in (Row.IDLE, Row.FAILED):
            self._organs.forget(record)
        if row is Row.FAILED:
            self._note("service_failed", service=name, why=record.reason)
            self._on_failure(record)
        self._wake_others(record)

    def _on_failure(self, record: ServiceRecord) -> None:
        name = record.definition.name
        match record.definition.service.restart.on_failure:
            case "isolate":
                self._note("service_isolated", service=name)
                for other in self.graph.isolated(name):
                    self.unwant(self.services[other], Origin("isolated", name))
            case "reboot":
                self._note("service_asks_for_reboot", service=name)
                self._organs.ask_for_reboot(name)
            case "nothing":
                pass

    # --- effects ------------------------------------------------------------------------------------------------------

    def _carry_out(self, record: ServiceRecord, effect: Effect) -> Event | None:
        """Carry out one effect; sets ``record.busy`` if that takes time. Returns the event that it brings about at once."""
        service, organs = record.definition.service, self._organs
        match effect:
            case Effect.AWAIT_PERMISSION:
                record.awaits_permission = True
                self._awaiting[record.definition.name] = record
                self.permit([record.definition.name])
            case Effect.START:
                return self._start(record)
            case Effect.ARM:
                try:
                    organs.arm(record)
                except (MilkyWayError, OSError) as error:
                    record.reason = str(error)
                    return Event.ARM_FAILED
            case Effect.DISARM:
                record.busy = not organs.disarm(record, partial(self._resume, record))
            case Effect.START_READY_TIMER:
                if service.ready_timeout_ms:
                    self._start_alarm(record, service.ready_timeout_ms, Event.START_TIMEOUT)
            case Effect.START_STOP_TIMER:
                self._start_alarm(record, service.stop.timeout_ms, Event.STOP_TIMEOUT)
            case Effect.START_BACKOFF_TIMER:
                if not record.delay_ms:
                    return Event.BACKOFF_OVER
                self._start_alarm(record, record.delay_ms, Event.BACKOFF_OVER)
            case Effect.CANCEL_TIMER:
                organs.cancel_alarm(record.alarm)
                record.alarm = None
            case Effect.START_HEALTH_CHECKS:
                organs.start_health_checks(record)
            case Effect.STOP_HEALTH_CHECKS:
                organs.stop_health_checks(record)
            case Effect.RELOAD:
                organs.reload(record)
            case Effect.TERMINATE:
                organs.terminate(record)
            case Effect.KILL:
                asked = TIMERS.get(record.row) is Event.STOP_TIMEOUT  # it was asked to end before
                late = {"after_ms": service.stop.timeout_ms} if asked else {}
                self._note("service_killed", service=record.definition.name, **late)
                organs.kill(record)
            case Effect.CLEAN_UP:
                record.busy = not organs.clean_up(record, partial(self._cleaned_up, record))
                if not record.busy:
                    record.process = None
            case Effect.FORGET_STARTS:
                record.starts = restart.Starts()
        return None

    def _start(self, record: ServiceRecord) -> Event | None:
        """Start the service's process. Returns the outcome if it is known at once."""
        service = record.definition.service
        record.starts = restart.started(record.starts, self._clock.now_ms(), service.restart)
        if service.type == "bundle":
            return Event.COMPLETED
        try:
            if accepts(service):
                self._organs.open_listeners(record)
                record.starts, record.reason = restart.Starts(), ""
                return Event.REARMED  # it only runs processes for connections
            self._organs.count_start(record)
            record.busy = True
            self._organs.start(record, partial(self._started, record))
        except (MilkyWayError, OSError) as error:
            record.busy = False
            return self._not_started(record, error)
        return None

    def _started(self, record: ServiceRecord, outcome: Child | Exception) -> None:
        """Continue with the outcome of a start. Never raises: the caller has other outcomes to report."""
        event = None
        try:
            if isinstance(outcome, (MilkyWayError, OSError)):
                event = self._not_started(record, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                self._attend(record, MainProcess(outcome))
        except Exception as error:  # noqa: BLE001 (as in _handle)
            record.reason = self._failure(record, error)
            event = Event.INTERNAL_ERROR
        self._resume(record, event)

    def _attend(self, record: ServiceRecord, process: MainProcess) -> None:
        record.process = process
        record.times = record.times.with_process(self._clock.boottime_ms())
        self._note("service_process_started", service=record.definition.name, pid=process.child.pid)
        self._organs.attend(record, process)

    def _not_started(self, record: ServiceRecord, error: Exception) -> Event:
        line = self._organs.last_words(record)
        record.reason = f"{error} ({line})" if line else str(error)
        self._note("service_not_started", service=record.definition.name, reason=record.reason)
        event = self._judge(record, None)
        record.delay_ms = max(record.delay_ms, LEAST_DELAY_MS)
        return event

    def _end_of(self, record: ServiceRecord) -> Event:
        """Reap the process that has ended, and return which event that is."""
        assert record.process is not None, "a process has ended"
        code = self._organs.reap(record, record.process)
        record.process = None
        if judges_end(record.row):
            return self._judge(record, code)
        self._organs.count_end(record)
        return Event.ENDED

    def _judge(self, record: ServiceRecord, code: int | None) -> Event:
        """Return which event an end is that was not asked for. *code*: None if the process could not be started."""
        faltered = record.row is Row.FALTERING
        service = record.definition.service
        verdict = restart.judge(service, code, record.starts, self._clock.now_ms(), self._chance(), faltered=faltered)
        record.starts, record.delay_ms = verdict.starts, verdict.delay_ms
        if verdict.event is Event.RETRIED:
            record.restarts += 1
        if faltered or code is None:
            detail = verdict.reason.partition("; ")[2]
            record.reason = f"{record.reason}; {detail}" if detail else record.reason
        else:
            record.reason = "" if verdict.event in (Event.COMPLETED, Event.REARMED) and code == 0 else verdict.reason
        self._organs.count_end(record)
        return verdict.event

    def _cleaned_up(self, record: ServiceRecord) -> None:
        record.process = None
        self._resume(record)

    def _break(self, record: ServiceRecord, error: Exception) -> None:
        """Make the service failed, after an error while handling it. Never raises an Exception."""
        record.reason = self._failure(record, error)
        following = step(record.row, Event.INTERNAL_ERROR)
        record.busy, record.effects = False, ()
        try:
            self.enter(record, following.row, Event.INTERNAL_ERROR)
        except Exception as second:  # noqa: BLE001 (nothing is left to try; the service stays failed)
            self._note("service_task_failed", service=record.definition.name, error=repr(second))
        for index, effect in enumerate(following.effects):
            try:
                self._carry_out(record, effect)
            except Exception as second:  # noqa: BLE001 (each undoing effect is tried separately)
                self._note("service_task_failed", service=record.definition.name, error=repr(second))
            if record.busy:
                record.effects = following.effects[index + 1 :]
                return

    def _failure(self, record: ServiceRecord, error: Exception) -> str:
        """Log an error that is not the service's fault; return it for people."""
        details = "".join(traceback.format_exception(error))
        self._note("service_task_failed", service=record.definition.name, error=repr(error), traceback=details)
        return str(error) if isinstance(error, (MilkyWayError, OSError)) else f"the supervisor failed: {error!r}"

    def _start_alarm(self, record: ServiceRecord, milliseconds: int, event: Event) -> None:
        """Let *event* happen to a service in so many *milliseconds*; what its alarm was set for before has happened."""
        alarm = self._organs.set_alarm(milliseconds, lambda: self.post(record, event, alarm))
        record.alarm = alarm

    # --- permission to start ------------------------------------------------------------------------------------------

    def held_back(self, record: ServiceRecord) -> list[str]:
        """Return why a service may not start now; nothing if it may."""
        if record.held:
            return ["is being changed, or stopped with what it requires"]
        return self.graph.holding_back(record.definition.name, self.rows)

    def _wake_others(self, record: ServiceRecord) -> None:
        """Let other services start that *record* held back until now: its row has changed, or it is not ``busy`` any more."""
        if record.row in (Row.IDLE, Row.FAILED, Row.WAITING):
            # Services that require it wait in vain, and services that merely come after those may start now.
            self.permit_all()
        else:
            self.permit(self.graph.concerned(record.definition.name))

    def permit(self, names: Iterable[str]) -> None:
        """Let those of *names* start that wait for permission, as far as nothing holds them back."""
        for name in names:
            record = self._awaiting.get(name)
            if record is not None and record.awaits_permission and not self.held_back(record):
                self.post(record, Question.START)

    def permit_all(self) -> None:
        """Let all services start that wait for permission, as far as nothing holds them back."""
        self.permit(list(self._awaiting))

    def _permission(self, record: ServiceRecord) -> Event | None:
        """Return whether and how a service may start; None if it does not wait for that any more, or is held back again."""
        if not record.awaits_permission or record.row is not Row.WAITING or self.held_back(record):
            return None
        why = self._organs.unmet_condition(record)
        if why:
            record.reason = why
        event = restart.permission(record.definition.service, record.starts, not why, at_once=record.at_once)
        if event is Event.ARM:
            try:
                self._organs.open_listeners(record)
            except (MilkyWayError, OSError):
                return Event.PERMITTED  # its start will fail, be judged and tried again like any other
        return event

    # --- going on with what runs already ------------------------------------------------------------------------------

    def adopt(self, record: ServiceRecord, process: MainProcess) -> None:
        """Take *process*, which was started before the service was supervised, as the main process of an idle service."""
        self.enter(record, Row.WAITING, Event.WANTED)
        self.enter(record, Row.STARTING, Event.PERMITTED)
        record.starts = restart.started(record.starts, self._clock.now_ms(), record.definition.service.restart)
        self._carry_out(record, Effect.START_READY_TIMER)
        self._attend(record, process)

    def go_on(self, record: ServiceRecord, alarm_ms: int | None) -> None:
        """Go on with a service where an earlier program left it, as its record says.

        *alarm_ms*: the time that its alarm had left; None: it had none.
        """
        if record.process is not None:
            self._organs.attend_again(record, record.process, is_ready=record.row is not Row.STARTING)
        if alarm_ms is not None and record.row in TIMERS:
            self._start_alarm(record, alarm_ms, TIMERS[record.row])
        if record.row is Row.ARMED:
            self._organs.arm(record)
        elif record.row is Row.STARTED:
            self._organs.start_health_checks(record)
        elif record.awaits_permission:
            self._awaiting[record.definition.name] = record
