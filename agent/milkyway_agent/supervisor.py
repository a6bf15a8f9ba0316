"""The supervisor: feeds events to the table of each service and carries out the effects it answers with.

Each service has one queue, and its events are handled one at a time, at once where they arise: there is no
task for each service. One epoll watches all descriptors (``watching``), one heap holds all timers
(``alarms``); a task exists only where something must be waited for (a container's start, clearing away what
survived, a command), and only as long. Messages say what they belong to: one about an earlier process or a
cancelled timer is dropped. Whatever goes wrong while an effect is carried out is logged and makes that
service ``failed``; the supervisor itself goes on.

What the rows mean is ``core.service_state``'s, who must wait for whom ``core.dependencies``', when to
try again ``core.restart``'s, how a process comes to be a ``Starter``'s, what is open for it ``service_runs``'.
"""

import random
import signal
import traceback
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from milkyway_agent.alarms import Alarms
from milkyway_agent.attended import Attended, Change, Message, Run, is_direct
from milkyway_agent.attended import Definition as Definition
from milkyway_agent.conditions import unmet
from milkyway_agent.core import restart
from milkyway_agent.core.dependencies import Graph
from milkyway_agent.core.explanation import Origin, origins
from milkyway_agent.core.service_state import Effect, Event, Row, has_process, is_lost, judges_end, satisfies, step
from milkyway_agent.health_checks import HealthChecks
from milkyway_agent.kept_state import KeptService, keep, restore
from milkyway_agent.log import Log
from milkyway_agent.output import Stream
from milkyway_agent.reaping import Reaper
from milkyway_agent.service_runs import ServiceRuns
from milkyway_agent.service_triggers import ServiceTriggers
from milkyway_agent.starter import Running, let_go
from milkyway_agent.system import kernel, selinux
from milkyway_agent.timer_stamps import TimerStamps
from milkyway_agent.watching import Watch
from milkyway_formats.errors import MilkyWayError, RefusedError, UnavailableError
from milkyway_formats.report import ServiceStatus
from milkyway_formats.service_check import check_service

NOTIFY_DIRECTORY = "/run/milkyway/notify"
BURY_SECONDS = 10.0
HISTORY = 1000
_UNDOING = frozenset({Effect.CANCEL_TIMER, Effect.DISARM, Effect.STOP_HEALTH_CHECKS, Effect.KILL, Effect.CLEAN_UP})
# The timer that may run in a row, by what it brings about.
_ALARMS = {
    Row.WAITING: Event.BACKOFF_OVER,
    Row.STARTING: Event.LATE,
    Row.STOPPING: Event.OVERDUE,
    Row.RESTARTING: Event.OVERDUE,
    Row.FALTERING: Event.OVERDUE,
}
_PERMISSIONS = frozenset({Event.PERMITTED, Event.ARM, Event.SKIPPED})


class Supervisor:
    """Supervises services while ``run`` runs. Methods raise RefusedError for a name that is not there."""

    def __init__(
        self,
        log: Log,
        reaper: Reaper,
        *,
        clock_ms: Callable[[], int] = kernel.boottime_ms,
        notify_directory: str = NOTIFY_DIRECTORY,
        stamps: TimerStamps | None = None,
        chance: Callable[[], float] = random.random,
        on_reboot: Callable[[str], None] = lambda _: None,
    ) -> None:
        """*stamps*: where persistent timers keep their last start. *on_reboot*: called for a failure that asks for one."""
        self.history: deque[Change] = deque(maxlen=HISTORY)
        self.keeps_at_end = False  # whether descriptors stay open after ``run``, for whoever takes over
        self._log = log
        self._reaper = reaper
        self._clock_ms = clock_ms
        self._notify_directory = notify_directory
        self._chance = chance
        self._on_reboot = on_reboot
        self._services: dict[str, Attended] = {}
        self._rows = _Rows(self._services)
        self._graph: Graph | None = Graph({})
        self._awaiting: dict[str, Attended] = {}
        self._ready: deque[Attended] = deque()
        self._pumping = False
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._news = False
        self._watch = Watch(log.note)
        self._alarms = Alarms(log.note)
        self._runs = ServiceRuns(self._watch, self._alarms, log, self._post, self._spawn, notify_directory)
        self._health = HealthChecks(self._alarms, self._post, self._spawn, log.note)
        self._runs.on_watchdog = self._health.feed
        self._triggers = ServiceTriggers(
            self._watch, self._alarms, log.note, self._triggered, stamps=stamps, clock_ms=clock_ms, chance=chance
        )

    # --- what others ask of it -----------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise, until cancelled. Processes are left as they are then: ``stop_all`` comes first where they shouldn't."""
        Path(self._notify_directory).mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._watch.run)
                nursery.start_soon(self._alarms.run)
                self._pump()
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            if not self.keeps_at_end:
                self.release()

    def release(self) -> None:
        """Close every descriptor. Processes that still run go on, and nobody supervises them."""
        for one in self._services.values():
            self._runs.let_go(one)
            self._triggers.close(one)
        self._triggers.close_clock()
        self._watch.close()

    # --- taking over, and being taken over -------------------------------------------------------------------------------

    def adopt(self, name: str, running: Running, output: int) -> None:
        """Take a process that was started for a service before there was a supervisor; *output*: its pipe's reading end."""
        one = self._find(name)
        self._enter(one, Row.WAITING, Event.WANTED)
        self._enter(one, Row.STARTING, Event.PERMITTED)
        one.starts = restart.started(one.starts, _now_ms(), one.definition.service.restart)
        if one.definition.service.ready_timeout_ms:
            self._start_alarm(one, one.definition.service.ready_timeout_ms, Event.LATE)
        self._runs.read_output(one, Stream(output, name, self._log))
        self.hold(one, Run(running))

    async def wait_at_rest(self) -> None:
        """Return when no start and no clearing away is under way."""
        while any(one.busy for one in self._services.values()):
            await self._changed.wait()

    def keep(self) -> list[KeptService]:
        """Return all that is known, for ``restore`` in the program that replaces this one. Nothing may be under way."""
        pasts = {name: self._triggers.pasts(one) for name, one in self._services.items()}
        return keep([one for one in self._services.values() if not one.busy], pasts)

    def restore(self, services: Iterable[KeptService]) -> None:
        """Go on from what ``keep`` returned. The same services were added; the supervisor runs, and has started nothing."""
        for kept in services:
            one = self._find(kept.name)
            restore(one, kept, _now_ms())
            self._triggers.restore(one, kept.pasts)
            for stream in kept.streams:
                self._runs.read_output(one, Stream(stream.descriptor, kept.name, self._log, rest=stream.rest))
            if one.store is not None:
                self._runs.watch_stored(one)
            if one.run is not None:
                run = one.run
                self._reaper.claim(run.running.pid)
                self._watch.add(run.running.pidfd, partial(self._process_ended, one, run))
                self._runs.watch_again(one, run, is_ready=one.row is not Row.STARTING)
            if kept.alarm_ms is not None and one.row in _ALARMS:
                self._start_alarm(one, kept.alarm_ms, _ALARMS[one.row])
            if one.row is Row.ARMED:
                self._triggers.arm(one)
            elif one.row is Row.STARTED:
                self._health.start(one)
            elif one.awaits_permission:
                self._awaiting[kept.name] = one
        self._permit(list(self._awaiting))

    @property
    def watch(self) -> Watch:
        """What is watched by epoll: others may add what belongs to a service's start."""
        return self._watch

    def add(self, *definitions: Definition) -> None:
        """Take services under supervision, stopped; all or none. Undo: ``remove``.

        Raises RefusedError when a name is taken, one would wait for itself, or could never be ready.
        """
        added: dict[str, Attended] = {}
        for definition in definitions:
            name, service = definition.name, definition.service
            if name in self._services or name in added:
                raise RefusedError(f"cannot supervise {name}: there is a service of that name")
            check_service(service)
            if not is_direct(definition.starter) and _asks_for_more(definition):
                raise RefusedError(f"cannot supervise {name}: its starter gives it no listeners, probes or commands")
            added[name] = Attended(definition, self._clock_ms())
        needs = {name: one.definition.needs for name, one in (self._services | added).items()}
        graph = Graph(needs)
        graph.check()
        self._services.update(added)
        self._graph = graph
        for one in added.values():
            self._triggers.add(one)
        self._permit(list(self._awaiting))

    async def remove(self, name: str) -> None:
        """Stop a service and forget it. Undo of ``add``."""
        one = self._find(name)
        await self.stop(name)
        self._triggers.remove(one)
        self._runs.forget(one)
        del self._services[name]
        self._awaiting.pop(name, None)
        self._graph = None
        self._permit(list(self._awaiting))

    def start(self, *names: str, by: str = "") -> None:
        """Want services, and what they require and want, to run; what they conflict with is stopped. *by*: who asks."""
        for name in names:
            self._find(name)
        pulled_in = self.graph.pulled_in(*names)
        for other, origin in origins(names, pulled_in, self.graph.parts, by).items():
            one = self._services[other]
            if origin.kind == "asked" or not one.row.wanted or not one.origin.kind:
                one.origin = origin
        for other in pulled_in:
            self._displace(other)
            self._post(self._services[other], Event.WANTED)

    async def stop(self, name: str, by: str = "") -> None:
        """Stop a service, after those that can't run without it; return when it is stopped. *by*: who asks."""
        one = self._find(name)
        one.origin = Origin("stopped", by)
        one.leaving = True
        try:
            for other in self.graph.dependents(name):
                self._post(self._services[other], Event.HELD)
                await self._wait_for(other, Attended.is_without_processes)
            self._post(one, Event.UNWANTED)
            await self._wait_for(name, Attended.is_idle)
        finally:
            one.leaving = False
            self._permit(list(self._awaiting))

    def restart(self, name: str, by: str = "") -> None:
        """Stop and start a service; one that does not run is started. *by*: who asks."""
        one = self._find(name)
        if not one.row.wanted:
            one.origin = Origin("asked", by)
        self._displace(name)
        self._post(one, Event.RESTART_ASKED)

    def reload(self, name: str) -> None:
        """Have a service read its configuration again. Raises RefusedError when it is not started."""
        one = self._find(name)
        if one.row is not Row.STARTED:
            raise RefusedError(f"cannot reload {name}: it is {one.row.label}", hint="only a started service can be reloaded")
        self._post(one, Event.RELOAD_ASKED)

    async def stop_all(self, names: Container[str] | None = None) -> None:
        """Stop all services (or those *names*), each before those that it needs. Cancel it to stop waiting."""
        for wave in reversed(self.graph.waves()):
            ours = [name for name in reversed(wave) if names is None or name in names]
            for name in ours:
                self._post(self._services[name], Event.UNWANTED)
            for name in ours:
                await self._wait_for(name, Attended.is_idle)

    def names(self) -> list[str]:
        """Return the names of all services."""
        return list(self._services)

    @property
    def rows(self) -> Mapping[str, Row]:
        """Where all services are, as it counts for others that wait."""
        return self._rows

    def row(self, name: str) -> Row:
        """Return where the service is in its life."""
        return self._find(name).row

    @property
    def graph(self) -> Graph:
        """Who needs whom, of all services."""
        if self._graph is None:
            self._graph = Graph({name: one.definition.needs for name, one in self._services.items()})
        return self._graph

    async def wait_state(self, name: str, *states: str) -> str:
        """Return when the service is in one of *states* ("started", "failed"…), with the one it is in.

        A state without processes is reached when what the last one left behind is cleared away too.
        """

        def is_there(one: Attended) -> bool:
            return one.row.current in states and (has_process(one.row) or not one.busy)

        await self._wait_for(name, is_there)
        return self._find(name).row.current

    async def wait_settled(self, name: str, *, tries: int) -> str:
        """Return when the service is started or failed, or ended by itself *tries* times from now on; with its state."""
        limit = self._find(name).restarts + tries

        def is_there(one: Attended) -> bool:
            return satisfies(one.row) or (not one.busy and (one.row is Row.FAILED or one.restarts >= limit))

        await self._wait_for(name, is_there)
        return self._find(name).row.current

    def status(self) -> list[ServiceStatus]:
        """Return all services as they are now."""
        return [self._status(one) for one in self._services.values()]

    def status_of(self, name: str) -> ServiceStatus:
        """Return one service as it is now."""
        return self._status(self._find(name))

    def attended(self, name: str) -> Attended:
        """Return what is known of a service: for those that show or keep it."""
        return self._find(name)

    def _displace(self, name: str) -> None:
        """Stop what conflicts with *name*."""
        for rival in self.graph.conflicting(name):
            self._unwant(rival, Origin("displaced", name))

    def _unwant(self, name: str, origin: Origin) -> None:
        """Stop a service, and remember why."""
        one = self._services[name]
        if one.row.wanted:
            one.origin = origin
        self._post(one, Event.UNWANTED)

    # --- one service ---------------------------------------------------------------------------------------------------

    def _post(self, one: Attended, event: Event | None, source: object | None = None) -> None:
        """Let *event* happen to a service: at once, or when what is being done to it is done.

        *source*: what it is about; when that is history by then, so is the event.
        """
        if one.queue is None:
            one.queue = deque()
        one.queue.append(Message(event, source))
        if not one.queued:
            one.queued = True
            self._ready.append(one)
        if not self._pumping:
            self._pump()

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
            self._changed.set()
            self._changed = trio.Event()

    def _handle(self, one: Attended, message: Message) -> None:
        event = message.event
        if message.source is not None and message.source not in (one.run, one.alarm, one):
            return  # about a process or a timer that is history
        if event in _PERMISSIONS and (not one.awaits_permission or one.row is not Row.WAITING or self._holding_back(one)):
            return  # it was given up, found waiting for something else, or held back anew meanwhile
        if event is None:
            event = self._end_of(one)
        elif event is Event.LATE:
            one.reason = f"not ready within {one.definition.service.ready_timeout_ms / 1000:g} s"
        elif event in (Event.WANTED, Event.RESTART_ASKED, Event.UNWANTED) and one.row is not Row.FALTERING:
            one.reason = ""
        if event is Event.TRIGGERED and one.row is not Row.ARMED:
            return  # it was started or given up otherwise
        self._happen(one, event)

    def _happen(self, one: Attended, event: Event) -> None:
        """Go to the row that *event* leads to and carry out the effects; an effect may itself bring about an event."""
        following = step(one.row, event)
        self._enter(one, following.row, event)
        self._go_on(one, following.effects)

    def _go_on(self, one: Attended, effects: tuple[Effect, ...]) -> None:
        """Carry out *effects*, as far as they take no time; the rest is for ``_resume``."""
        for index, effect in enumerate(effects):
            event = self._carry_out(one, effect)
            if one.busy:
                one.effects = effects[index + 1 :]
                return
            if event is not None:
                self._happen(one, event)
                return

    def _resume(self, one: Attended, event: Event | None = None) -> None:
        """Go on after an effect that took its time; *event*: what it brought about."""
        one.busy = False
        self._permit(self.graph.concerned(one.definition.name))
        effects, one.effects = one.effects, ()
        try:
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

    def _enter(self, one: Attended, row: Row, cause: Event) -> None:
        was, one.row = one.row, row
        if was is row:
            return
        name = one.definition.name
        if row is not Row.WAITING:
            one.awaits_permission = False
            self._awaiting.pop(name, None)
        one.since_ms = self._clock_ms()
        one.cause, one.times = cause, one.times.entered(row, one.since_ms)
        self.history.append(Change(name, was, row, cause, one.since_ms))
        facts = {"reason": one.reason} if one.reason else {}
        self._log.note("service_state_changed", service=name, was=was.label, now=row.label, cause=cause.value, **facts)
        if is_lost(was, row):
            self._tell_loss(name)
        if row in (Row.IDLE, Row.FAILED):
            self._triggers.close(one)
            self._runs.forget(one)
        if row is Row.FAILED:
            self._on_failure(one)
        self._permit(self.graph.concerned(name))

    def _tell_loss(self, name: str) -> None:
        for other in self.graph.required_by(name):
            one = self._services[other]
            is_bundle = one.definition.service.type == "bundle" and one.row is Row.COMPLETED
            self._post(one, Event.DISSOLVED if is_bundle else Event.HELD)
        for other in self.graph.wanted_by(name):
            one = self._services[other]
            if one.definition.service.type == "bundle" and one.row is Row.COMPLETED:
                self._post(one, Event.DISSOLVED)

    def _on_failure(self, one: Attended) -> None:
        name = one.definition.name
        match one.definition.service.restart.on_failure:
            case "isolate":
                self._log.note("service_isolated", service=name)
                for other in self.graph.isolated(name):
                    self._unwant(other, Origin("isolated", name))
            case "reboot":
                self._log.note("service_asks_for_reboot", service=name)
                self._on_reboot(name)
            case "nothing":
                pass

    def _carry_out(self, one: Attended, effect: Effect) -> Event | None:
        """Carry out one effect. Returns the event that it brought about at once; ``one.busy``: it takes its time."""
        service, starter = one.definition.service, one.definition.starter
        match effect:
            case Effect.AWAIT_PERMISSION:
                one.awaits_permission = True
                self._awaiting[one.definition.name] = one
                self._permit([one.definition.name])
            case Effect.START:
                return self._start(one)
            case Effect.ARM:
                self._triggers.arm(one)
            case Effect.DISARM:
                self._triggers.disarm(one)
            case Effect.START_READY_TIMER:
                if service.ready_timeout_ms:
                    self._start_alarm(one, service.ready_timeout_ms, Event.LATE)
            case Effect.START_STOP_TIMER:
                self._start_alarm(one, service.stop.timeout_ms, Event.OVERDUE)
            case Effect.START_BACKOFF_TIMER:
                if not one.delay_ms:
                    return Event.BACKOFF_OVER
                self._start_alarm(one, one.delay_ms, Event.BACKOFF_OVER)
            case Effect.CANCEL_TIMER:
                self._alarms.cancel(one.alarm)
                one.alarm = None
            case Effect.START_HEALTH_CHECKS:
                self._health.start(one)
            case Effect.STOP_HEALTH_CHECKS:
                self._health.stop(one)
            case Effect.RELOAD:
                self._runs.reload(one)
            case Effect.TERMINATE:
                self._runs.terminate(one)
            case Effect.KILL:
                self._log.note("service_killed", service=one.definition.name)
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
        self._triggers.started(one)
        one.busy = True
        try:
            self._runs.start(one, self._triggers.listeners(one), lambda outcome: self._started(one, outcome))
        except (MilkyWayError, OSError) as error:
            one.busy = False
            return self._not_started(one, error)
        return None

    def _started(self, one: Attended, outcome: Running | Exception) -> None:
        if isinstance(outcome, (MilkyWayError, OSError)):
            self._resume(one, self._not_started(one, outcome))
        elif isinstance(outcome, Exception):
            self._log_failure(one, outcome)
            self._resume(one, Event.BROKEN)
        else:
            self.hold(one, Run(outcome))
            self._resume(one)

    def hold(self, one: Attended, run: Run) -> None:
        """Take *run* as the service's process: watch it for its end and its readiness."""
        one.run = run
        one.times = one.times.with_process(self._clock_ms())
        self._log.note("service_process_started", service=one.definition.name, pid=run.running.pid)
        self._watch.add(run.running.pidfd, partial(self._process_ended, one, run))
        self._runs.watch_readiness(one, run)

    def _not_started(self, one: Attended, error: Exception) -> Event:
        self._runs.drain(one)
        one.reason = f"{error} ({one.last_line})" if one.last_line else str(error)
        self._log.note("service_not_started", service=one.definition.name, reason=one.reason)
        return self._judged(one, None)

    def _process_ended(self, one: Attended, run: Run, _events: int) -> None:
        self._watch.remove(run.running.pidfd)
        run.ended = True
        self._post(one, None, run)

    def _end_of(self, one: Attended) -> Event:
        """Reap the process that has ended, and return what its end is."""
        assert one.run is not None, "only a process ends"
        code = let_go(one.run.running, self._reaper)
        self._runs.close(one, one.run)
        one.run = None
        return self._judged(one, code) if judges_end(one.row) else Event.ENDED

    def _judged(self, one: Attended, code: int | None) -> Event:
        """Return what an end that nobody asked for is judged to be, and note why."""
        service = one.definition.service
        # What is being stopped because it was late, unhealthy or hung has failed, however it ends; a oneshot is done.
        judged = None if one.row is Row.FALTERING and service.type != "oneshot" else code
        verdict = restart.judge(service, judged, one.starts, _now_ms(), self._chance(), restart.is_triggered(service))
        one.starts, one.delay_ms = verdict.starts, verdict.delay_ms
        if verdict.event is Event.RETRIED:
            one.restarts += 1
        self._triggers.ended(one)
        if one.row is Row.FALTERING or code is None:
            detail = verdict.reason.partition("; ")[2]
            one.reason = f"{one.reason}; {detail}" if detail else one.reason
        else:
            one.reason = "" if verdict.event in (Event.COMPLETED, Event.RESTED) and code == 0 else verdict.reason
        return verdict.event

    def _clean_up(self, one: Attended) -> None:
        """Clear away what the service's start made: at once where nothing of it is left, else by a task."""
        starter = one.definition.starter
        if one.run is None and is_direct(starter) and starter.clear():
            return
        one.busy = True
        self._spawn(self._bury, one)

    async def _bury(self, one: Attended) -> None:
        """Clear away whatever is left. Never takes longer than its deadline."""
        name = one.definition.name
        with trio.move_on_after(BURY_SECONDS, shield=True) as scope:
            try:
                if one.run is not None:
                    one.definition.starter.kill()
                    self._watch.remove(one.run.running.pidfd)
                    await trio.lowlevel.wait_readable(one.run.running.pidfd)
                    let_go(one.run.running, self._reaper)
                    self._runs.close(one, one.run)
                    one.run = None
                await one.definition.starter.clean_up()
            except Exception as error:  # noqa: BLE001 (BROKEN would only clean up again)
                self._log.note("cleaning_up_failed", service=name, error=str(error))
        if scope.cancelled_caught:
            self._log.note("cleaning_up_failed", service=name, error=f"not done within {BURY_SECONDS:g} s")
        self._resume(one)

    def _break(self, one: Attended, error: Exception) -> None:
        """Make the service failed after an error in handling it. Never raises an Exception."""
        self._log_failure(one, error)
        following = step(one.row, Event.BROKEN)
        one.busy, one.effects = False, ()
        try:
            self._enter(one, following.row, Event.BROKEN)
        except Exception as second:  # noqa: BLE001 (there is nothing left to try; the service stays failed)
            self._log.note("service_task_failed", service=one.definition.name, error=repr(second))
        for effect in following.effects:
            try:
                self._carry_out(one, effect)
            except Exception as second:  # noqa: BLE001 (what undoes is tried, each by itself)
                self._log.note("service_task_failed", service=one.definition.name, error=repr(second))

    def _log_failure(self, one: Attended, error: Exception) -> None:
        details = "".join(traceback.format_exception(error))
        self._log.note("service_task_failed", service=one.definition.name, error=repr(error), traceback=details)
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
        except Exception as error:  # noqa: BLE001 (told to the service, which it makes failed)
            self._break(one, error)
            self._resume_if_idle(one)

    def _resume_if_idle(self, one: Attended) -> None:
        if not one.busy:
            self._resume(one)

    def _start_alarm(self, one: Attended, milliseconds: int, event: Event) -> None:
        self._alarms.cancel(one.alarm)
        alarm = self._alarms.set(milliseconds / 1000, lambda: self._post(one, event, alarm))
        one.alarm = alarm

    def _triggered(self, one: Attended, why: str) -> None:
        self._log.note("service_triggered", service=one.definition.name, why=why)
        self._post(one, Event.TRIGGERED)

    # --- all of them ---------------------------------------------------------------------------------------------------

    def _holding_back(self, one: Attended) -> list[str]:
        return self.graph.holding_back(one.definition.name, self._rows)

    def _permit(self, names: Iterable[str]) -> None:
        """Let those of *names* start that wait for others and need wait no longer."""
        for name in names:
            one = self._awaiting.get(name)
            if one is None or not one.awaits_permission or self._holding_back(one):
                continue
            why = unmet(one.definition.service.conditions)
            if why:
                one.reason = why
            self._post(one, restart.permission(one.definition.service, one.starts, not why), one)

    def _find(self, name: str) -> Attended:
        try:
            return self._services[name]
        except KeyError:
            raise RefusedError(f"cannot find service {name}: there is none of that name") from None

    async def _wait_for(self, name: str, is_there: Callable[[Attended], bool]) -> None:
        while not is_there(self._find(name)):
            if self._nursery is None:
                raise UnavailableError(f"cannot wait for {name}: the supervisor does not run")
            await self._changed.wait()

    def _status(self, one: Attended) -> ServiceStatus:
        pid = one.run.running.pid if one.run else 0
        context = ""
        if pid:
            try:
                context = selinux.getcon(pid)
            except OSError:
                context = ""
        reason = one.reason
        if one.row is Row.WAITING and one.awaits_permission and not reason:
            reason = "; ".join(self._holding_back(one))
        return ServiceStatus(
            name=one.definition.name,
            state=one.row.current,
            wanted=one.row.wanted,
            pid=pid,
            context=context,
            restarts=one.restarts,
            since_ms=one.since_ms,
            reason=reason,
        )


class _Rows(Mapping[str, Row]):
    """The rows of all services by name; one that others are being stopped for counts as stopping."""

    def __init__(self, services: Mapping[str, Attended]) -> None:
        self._services = services

    def __getitem__(self, name: str) -> Row:
        one = self._services[name]
        if one.leaving:
            return Row.STOPPING
        if one.busy and not has_process(one.row):  # what it left is still being cleared away
            return Row.RESTARTING if one.row is Row.WAITING else Row.STOPPING
        return one.row

    def __iter__(self) -> Iterator[str]:
        return iter(self._services)

    def __len__(self) -> int:
        return len(self._services)


def _asks_for_more(definition: Definition) -> bool:
    """Tell whether the service needs a starter that takes descriptors and runs commands."""
    service = definition.service
    return bool(
        service.listeners
        or service.health
        or service.stored_descriptors
        or service.stop.command
        or service.reload.command
        or service.readiness.__class__.__name__ in ("ReadyByDescriptor", "ReadyByProbe")
    )


def _now_ms() -> int:
    return int(trio.current_time() * 1000)
