"""The engine: feeds events to each service's table, and has the organs carry out the effects that it answers with.

Each service has one queue, and its events are handled one at a time, at once where they arise. Messages say what they
are about: one about an earlier process or a cancelled alarm is dropped. What is beside the table about the meaning of an
event is in ``_event_of``, and nowhere else; what is said about a service (its ``reason``) is written here alone. Whatever
goes wrong while an effect is carried out is logged and makes that service ``failed``; all others go on.

It waits for nothing and asks no kernel: *organs* carry out, *clock* tells the time, *chance* draws from 0 to 1. So it is
the same in the tests' world. What the rows mean is ``core.service_state``'s, who must wait for whom
``core.dependencies``', when to try again ``core.restart``'s.
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

LEAST_DELAY_MS = 1  # after a start that came to nothing at once: starts without end must let others have their turn
_AT_REST = frozenset({Row.IDLE, Row.ARMED, Row.COMPLETED, Row.FAILED})  # no process follows on its own


class Clock(Protocol):
    """The two clocks of the engine, in milliseconds."""

    def now_ms(self) -> int:
        """Return the time of a clock that never goes back, and that alarms go by."""

    def boottime_ms(self) -> int:
        """Return the time since the kernel's start (CLOCK_BOOTTIME), for people."""


class Engine:
    """All services with all that happens to them. ``services``: by name; whoever changes them sets ``graph`` too."""

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

    # --- which services there are --------------------------------------------------------------------------------------

    def new_record(self, definition: Definition) -> ServiceRecord:
        """Return a record of a service that is stopped."""
        return ServiceRecord(definition, self._clock.boottime_ms())

    def forget(self, record: ServiceRecord) -> None:
        """Forget a service that is stopped: what is told of it from now on is told to nobody."""
        del self.services[record.definition.name]
        self._awaiting.pop(record.definition.name, None)

    def hold_back(self, records: Iterable[ServiceRecord]) -> None:
        """Keep services from starting. Undo: ``let_go``, once for each time."""
        for record in records:
            record.held += 1

    def let_go(self, records: Iterable[ServiceRecord]) -> None:
        """Undo ``hold_back``."""
        for record in records:
            record.held -= 1
        self.permit_all()

    # --- what is asked of them -----------------------------------------------------------------------------------------

    def want(self, *names: str) -> None:
        """Want services, and what they require and want, to run; stop what conflicts with any of these."""
        self.pull_in(*names)
        for name in names:
            self.post(self.services[name], Event.WANTED)

    def pull_in(self, *names: str) -> None:
        """Want all that *names* require and want, but not these; stop what conflicts with any of them."""
        for other in self.graph.pulled_in(*names):
            self.displace(other)
            if other not in names:
                self.post(self.services[other], Event.WANTED)

    def displace(self, name: str) -> None:
        """Stop what conflicts with *name*."""
        for rival in self.graph.conflicting(name):
            self.unwant(self.services[rival], Origin("displaced", name))

    def unwant(self, record: ServiceRecord, origin: Origin) -> None:
        """Stop a service, and remember why."""
        if record.row.wanted:
            record.origin = origin
        self.post(record, Event.UNWANTED)

    def restart(self, record: ServiceRecord) -> None:
        """Ask for a fresh start that waits for no trigger; what conflicts is stopped."""
        self.displace(record.definition.name)
        self._tell(record, Message(Event.RESTART_ASKED, at_once=True))

    # --- events --------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether what happens is handled."""
        return self._inbox.is_open

    def open(self) -> None:
        """Handle what happens from now on, what has waited first. Undo: ``close``."""
        self._inbox.open()

    def close(self) -> None:
        """Let what happens wait. Idempotent."""
        self._inbox.close()

    def post(self, record: ServiceRecord, what: Event | Question, source: object | None = None, why: str = "") -> None:
        """Let *what* happen to a service; see ``organs.Post``. Of one that was removed nobody hears."""
        self._tell(record, Message(what, source, why))

    def say(self, record: ServiceRecord, text: str) -> None:
        """Take what a service says that it is at as its reason."""
        record.reason = text

    def fail(self, record: ServiceRecord, error: Exception) -> None:
        """Take note of an error that is not the service's, and make it failed."""
        self.post(record, Event.INTERNAL_ERROR, why=self._failure(record, error))

    def _tell(self, record: ServiceRecord, message: Message) -> None:
        if self.services.get(record.definition.name) is record:
            self._inbox.put(record, message)

    def _handle(self, record: ServiceRecord, message: Message) -> None:
        """Handle one message. Never raises: a bug in one service's life must not end the others'."""
        try:
            event = self._event_of(record, message)
            if event is None:
                return
            if event is message.what and (record.row, event) not in TABLE:  # the sender's bug: the service goes on as it was
                error = f"{event.value!r} has no meaning for a service that is {record.row.label}"
                self._note("event_without_meaning", service=record.definition.name, error=error)
                return
            self._explain(record, event, message)
            self._happen(record, event)
        except Exception as error:  # noqa: BLE001 (see above)
            self._break(record, error)

    def _event_of(self, record: ServiceRecord, message: Message) -> Event | None:
        """Return which event *message* is by now; None: none any more.

        Beside the table, these are all the rules: (1) what is said about a process or an alarm that is history counts for
        nothing; (2) what has a meaning in one row alone comes too late in any other; (3) an end is judged when it is heard,
        and (4) so is whether and how a service may start.
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
        """Write why the service will be where *event* takes it."""
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

    def _happen(self, record: ServiceRecord, event: Event) -> None:
        """Go to the row that *event* leads to and carry out the effects; an effect may itself bring about an event."""
        following = step(record.row, event)
        self.enter(record, following.row, event)
        self._go_on(record, following.effects)

    def _go_on(self, record: ServiceRecord, effects: tuple[Effect, ...]) -> None:
        """Carry out *effects*, as far as they take no time; the rest is for ``_resume``."""
        for index, effect in enumerate(effects):
            event = self._carry_out(record, effect)
            if record.busy:
                record.effects = effects[index + 1 :]
                return
            if event is not None:
                self._happen(record, event)
                return

    def _resume(self, record: ServiceRecord, event: Event | None = None) -> None:
        """Go on after an effect that took its time; *event*: what it brought about."""
        self._inbox.resume(record, partial(self._carry_on, record, event))

    def _carry_on(self, record: ServiceRecord, event: Event | None) -> None:
        record.busy = False
        effects, record.effects = record.effects, ()
        try:
            self._wake_others(record)
            if event is not None:
                self._happen(record, event)
            else:
                self._go_on(record, effects)
        except Exception as error:  # noqa: BLE001 (as in _handle)
            self._break(record, error)

    def enter(self, record: ServiceRecord, row: Row, cause: Event) -> None:
        """Have a service in *row*, note it, and let others go on that waited for that. No effect is carried out."""
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

    # --- effects -------------------------------------------------------------------------------------------------------

    def _carry_out(self, record: ServiceRecord, effect: Effect) -> Event | None:
        """Carry out one effect. Returns the event that it brought about at once; ``record.busy``: it takes its time."""
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
                asked = TIMERS.get(record.row) is Event.STOP_TIMEOUT  # to end before
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
        """Have the service's process started. Returns what comes of it when that is known at once."""
        service = record.definition.service
        record.starts = restart.started(record.starts, self._clock.now_ms(), service.restart)
        if service.type == "bundle":
            return Event.COMPLETED
        try:
            if accepts(service):
                self._organs.open_listeners(record)
                record.starts, record.reason = restart.Starts(), ""
                return Event.REARMED  # it runs for connections alone
            self._organs.count_start(record)
            record.busy = True
            self._organs.start(record, partial(self._started, record))
        except (MilkyWayError, OSError) as error:
            record.busy = False
            return self._not_started(record, error)
        return None

    def _started(self, record: ServiceRecord, outcome: Child | Exception) -> None:
        """Go on with what came of a start. Never raises: whoever tells has others to tell."""
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
        """Have the process that has ended reaped, and return what its end is."""
        assert record.process is not None, "only a process ends"
        code = self._organs.reap(record, record.process)
        record.process = None
        if judges_end(record.row):
            return self._judge(record, code)
        self._organs.count_end(record)
        return Event.ENDED

    def _judge(self, record: ServiceRecord, code: int | None) -> Event:
        """Return the event that an end with *code* is which nobody asked for; None: it could not be started."""
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
        """Make the service failed after an error in handling it. Never raises an Exception."""
        record.reason = self._failure(record, error)
        following = step(record.row, Event.INTERNAL_ERROR)
        record.busy, record.effects = False, ()
        try:
            self.enter(record, following.row, Event.INTERNAL_ERROR)
        except Exception as second:  # noqa: BLE001 (there is nothing left to try; the service stays failed)
            self._note("service_task_failed", service=record.definition.name, error=repr(second))
        for index, effect in enumerate(following.effects):
            try:
                self._carry_out(record, effect)
            except Exception as second:  # noqa: BLE001 (what undoes is tried, each by itself)
                self._note("service_task_failed", service=record.definition.name, error=repr(second))
            if record.busy:
                record.effects = following.effects[index + 1 :]
                return

    def _failure(self, record: ServiceRecord, error: Exception) -> str:
        """Note an error that is not the service's; return it for people."""
        details = "".join(traceback.format_exception(error))
        self._note("service_task_failed", service=record.definition.name, error=repr(error), traceback=details)
        return str(error) if isinstance(error, (MilkyWayError, OSError)) else f"the supervisor failed: {error!r}"

    def _start_alarm(self, record: ServiceRecord, milliseconds: int, event: Event) -> None:
        """Let *event* happen to a service in so many *milliseconds*, instead of what its alarm was set for."""
        self._organs.cancel_alarm(record.alarm)
        alarm = self._organs.set_alarm(milliseconds, lambda: self.post(record, event, alarm))
        record.alarm = alarm

    # --- permission to start -------------------------------------------------------------------------------------------

    def held_back(self, record: ServiceRecord) -> list[str]:
        """Return why a service may not start now; none: it may."""
        if record.held:
            return ["is being stopped with what it requires, or changed"]
        return self.graph.holding_back(record.definition.name, self.rows)

    def _wake_others(self, record: ServiceRecord) -> None:
        """Let others start that need wait no longer: *record* is in another row, or is not ``busy`` any more."""
        if record.row in (Row.IDLE, Row.FAILED, Row.WAITING):
            # What requires it waits in vain, and what merely comes after that one, no neighbour of *record*, may start.
            self.permit_all()
        else:
            self.permit(self.graph.concerned(record.definition.name))

    def permit(self, names: Iterable[str]) -> None:
        """Let those of *names* start that wait for others and need wait no longer."""
        for name in names:
            record = self._awaiting.get(name)
            if record is not None and record.awaits_permission and not self.held_back(record):
                self.post(record, Question.START)

    def _permission(self, record: ServiceRecord) -> Event | None:
        """Return whether and how a service may start; None: it was given up, waits for something else, or is held back anew."""
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
                return Event.PERMITTED  # to be started in vain, and judged and tried again like anything else that can't be
        return event

    # --- going on with what runs already -------------------------------------------------------------------------------

    def adopt(self, record: ServiceRecord, process: MainProcess) -> None:
        """Take *process*, which was started for an idle service before it was supervised, for its own."""
        self.enter(record, Row.WAITING, Event.WANTED)
        self.enter(record, Row.STARTING, Event.PERMITTED)
        record.starts = restart.started(record.starts, self._clock.now_ms(), record.definition.service.restart)
        self._carry_out(record, Effect.START_READY_TIMER)
        self._attend(record, process)

    def go_on(self, record: ServiceRecord, alarm_ms: int | None) -> None:
        """Go on with a service from where a program before this one left it, as its record says.

        *alarm_ms*: what its alarm had left; None: it had none.
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

    def permit_all(self) -> None:
        """Let all start that wait for others and need wait no longer."""
        self.permit(list(self._awaiting))
