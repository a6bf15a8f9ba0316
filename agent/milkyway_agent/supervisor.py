"""The supervisor: feeds events to the table of each service and carries out the effects it answers with.

Each service has one mailbox and one task, so its events are handled one at a time; timers, the end
of its process and its readiness are small tasks that post to the mailbox, and say what they belong to:
a message about an earlier process or a cancelled timer is dropped. Whatever goes wrong while an
effect is carried out is logged and makes that service ``failed``; the supervisor itself goes on.

What the rows mean is ``core.service_state``'s, who must wait for whom ``core.dependencies``', when to
try again ``core.restart``'s, how a process comes to be a ``Starter``'s.
"""

import contextlib
import os
import signal
import socket
import traceback
from collections import deque
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import trio

from milkyway_agent.core import dependencies, restart
from milkyway_agent.core.dependencies import Needs
from milkyway_agent.core.service_state import Effect, Event, Row, has_process, judges_end, step
from milkyway_agent.core.shutdown import stop_waves
from milkyway_agent.log import OUTPUT, Log
from milkyway_agent.output import carry_lines
from milkyway_agent.readiness import belongs_to, open_notify, wait_listening, wait_notified
from milkyway_agent.reaping import Reaper
from milkyway_agent.starter import Running, Starter, let_go, notify_path
from milkyway_agent.system import kernel, processes, selinux
from milkyway_formats.errors import MilkyWayError, RefusedError, UnavailableError
from milkyway_formats.report import ServiceStatus
from milkyway_formats.service import (
    ReadyAtOnce,
    ReadyByDescriptor,
    ReadyByExit,
    ReadyByNotify,
    ReadyByProbe,
    ReadyByTcp,
    Service,
)
from milkyway_formats.service_check import check_service

NOTIFY_DIRECTORY = "/run/milkyway/notify"
START_SECONDS = 60.0
BURY_SECONDS = 10.0
HISTORY = 1000


class Definition(NamedTuple):
    """A service to supervise. *name* is its full one ("web/nginx"), as are those in *needs*.

    *users*: who may listen on its port for it to count as ready; None: anybody.
    """

    name: str
    service: Service
    starter: Starter
    needs: Needs = Needs()
    users: Container[int] | None = None


class Change(NamedTuple):
    """One change of row, for the history."""

    name: str
    was: Row
    now: Row
    cause: Event


class _Run:
    """One process of a service, from its start to its burial."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.ended = trio.Event()
        self.tasks = trio.CancelScope()  # its readiness probe


class _Timer:
    """A timer that runs; it is cancelled by its scope."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()


class _Message(NamedTuple):
    """What arrives in a mailbox: an event, or (None) the end of the process. *source*: what it is about, if anything."""

    event: Event | None
    source: object | None = None


class _Attended:
    """One service with all that the supervisor knows of it."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.row = Row.IDLE
        self.post_box, self.mailbox = trio.open_memory_channel[_Message](float("inf"))
        self.run: _Run | None = None
        self.timer: _Timer | None = None
        self.awaits_permission = False
        self.busy = False  # effects of its last step are still being carried out
        self.leaving = False  # others are being stopped so that this one can
        self.starts = restart.Starts()
        self.delay_ms = 0
        self.restarts = 0
        self.since_ms = 0
        self.reason = ""
        self.last_line = ""
        self.scope = trio.CancelScope()
        self.gone = trio.Event()

    def is_without_processes(self) -> bool:
        return not has_process(self.row) and not self.busy

    def post(self, event: Event | None, source: object | None = None) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self.post_box.send_nowait(_Message(event, source))


class Supervisor:
    """Supervises services while ``run`` runs. Methods raise RefusedError for a name that is not there."""

    def __init__(
        self,
        log: Log,
        reaper: Reaper,
        *,
        clock_ms: Callable[[], int] = kernel.boottime_ms,
        notify_directory: str = NOTIFY_DIRECTORY,
    ) -> None:
        self.history: deque[Change] = deque(maxlen=HISTORY)
        self._log = log
        self._reaper = reaper
        self._clock_ms = clock_ms
        self._notify_directory = notify_directory
        self._services: dict[str, _Attended] = {}
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()

    # --- what others ask of it -----------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise, until cancelled. Processes are left as they are then: ``stop_all`` comes first where they shouldn't."""
        Path(self._notify_directory).mkdir(mode=0o711, parents=True, exist_ok=True)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for one in self._services.values():
                nursery.start_soon(self._attend, one)
            task_status.started()
            await trio.sleep_forever()

    def add(self, definition: Definition) -> None:
        """Take a service under supervision, stopped. Undo: ``remove``.

        Raises RefusedError when its name is taken, it would wait for itself, or it could never be ready.
        """
        name, service = definition.name, definition.service
        if name in self._services:
            raise RefusedError(f"cannot supervise {name}: there is a service of that name")
        check_service(service)
        dependencies.waves({**self._needs(), name: definition.needs})
        one = self._services[name] = _Attended(definition)
        one.since_ms = self._clock_ms()
        if self._nursery is not None:
            self._nursery.start_soon(self._attend, one)
        self._permit()

    async def remove(self, name: str) -> None:
        """Stop a service and forget it. Undo of ``add``."""
        one = self._find(name)
        await self.stop(name)
        one.scope.cancel()
        if self._nursery is not None:
            await one.gone.wait()
        del self._services[name]
        self._permit()

    def start(self, name: str) -> None:
        """Want a service, and what it requires and wants, to run."""
        self._find(name)
        for other in dependencies.pulled_in(name, self._needs()):
            self._services[other].post(Event.WANTED)

    async def stop(self, name: str) -> None:
        """Stop a service, after those that can't run without it; return when it is stopped."""
        one = self._find(name)
        one.leaving = True
        try:
            for other in dependencies.dependents(name, self._needs()):
                self._services[other].post(Event.HELD)
                await self._wait_for(other, _Attended.is_without_processes)
            one.post(Event.UNWANTED)
            await self._wait_for(name, _is_idle)
        finally:
            one.leaving = False
            self._permit()

    def restart(self, name: str) -> None:
        """Stop and start a service; one that does not run is started."""
        self._find(name).post(Event.RESTART_ASKED)

    async def stop_all(self, names: Container[str] | None = None) -> None:
        """Stop all services (or those *names*), each before those that it needs. Cancel it to stop waiting."""
        for wave in stop_waves(self._needs()):
            ours = [name for name in wave if names is None or name in names]
            for name in ours:
                self._services[name].post(Event.UNWANTED)
            for name in ours:
                await self._wait_for(name, _is_idle)

    def names(self) -> list[str]:
        """Return the names of all services."""
        return list(self._services)

    def row(self, name: str) -> Row:
        """Return where the service is in its life."""
        return self._find(name).row

    async def wait_state(self, name: str, *states: str) -> str:
        """Return when the service is in one of *states* ("started", "failed"…), with the one it is in.

        A state without processes is reached when what the last one left behind is cleared away too.
        """

        def is_there(one: _Attended) -> bool:
            return one.row.current in states and (has_process(one.row) or not one.busy)

        await self._wait_for(name, is_there)
        return self._find(name).row.current

    async def wait_settled(self, name: str, *, tries: int) -> str:
        """Return when the service is started or failed, or ended by itself *tries* times from now on; with its state."""
        limit = self._find(name).restarts + tries

        def is_there(one: _Attended) -> bool:
            return one.row.current == "started" or (not one.busy and (one.row is Row.FAILED or one.restarts >= limit))

        await self._wait_for(name, is_there)
        return self._find(name).row.current

    def status(self) -> list[ServiceStatus]:
        """Return all services as they are now."""
        return [self._status(one) for one in self._services.values()]

    def status_of(self, name: str) -> ServiceStatus:
        """Return one service as it is now."""
        return self._status(self._find(name))

    # --- one service ---------------------------------------------------------------------------------------------------

    async def _attend(self, one: _Attended) -> None:
        """Handle the messages to one service, one after the other."""
        try:
            with one.scope:
                async for message in one.mailbox:
                    one.busy = True
                    try:
                        await self._handle(one, message)
                    except Exception as error:  # noqa: BLE001 (a bug in one service's life must not end the others')
                        await self._break(one, error)
                    one.busy = False
                    self._announce()
        finally:
            one.post_box.close()
            one.gone.set()

    async def _handle(self, one: _Attended, message: _Message) -> None:
        if message.source is not None and message.source not in (one.run, one.timer, one):
            return  # about a process or a timer that is history
        event = message.event
        if event is Event.PERMITTED and not (one.row is Row.WAITING and one.awaits_permission):
            return  # it was given up or found waiting for something else meanwhile
        if event is Event.PERMITTED and self._holding_back(one):
            return  # no longer so; it goes on waiting
        if event is None:
            assert one.run is not None, "only a process ends"
            code = let_go(one.run.running, self._reaper)
            one.run.tasks.cancel()
            one.run = None
            event = self._judged(one, code) if judges_end(one.row) else Event.ENDED
        elif event is Event.LATE:
            one.reason = f"not ready within {one.definition.service.ready_timeout_ms / 1000:g} s"
        elif event in (Event.WANTED, Event.RESTART_ASKED, Event.UNWANTED) and one.row is not Row.FALTERING:
            one.reason = ""
        await self._happen(one, event)

    async def _happen(self, one: _Attended, event: Event | None) -> None:
        """Go to the row that *event* leads to, carry out the effects; an effect may itself bring about an event."""
        while event is not None:
            following = step(one.row, event)
            self._enter(one, following.row, event)
            event = None
            for effect in following.effects:
                event = await self._carry_out(one, effect)
                if event is not None:
                    break

    def _enter(self, one: _Attended, row: Row, cause: Event) -> None:
        was, one.row = one.row, row
        if was is row:
            return
        name = one.definition.name
        if row is not Row.WAITING:
            one.awaits_permission = False
        one.since_ms = self._clock_ms()
        self.history.append(Change(name, was, row, cause))
        facts = {"reason": one.reason} if one.reason else {}
        self._log.note("service_state_changed", service=name, was=was.label, now=row.label, cause=cause.value, **facts)
        if was in (Row.STARTED, Row.COMPLETED) and row not in (Row.STARTED, Row.COMPLETED):
            for other in self._services.values():
                if name in other.definition.needs.requires:
                    other.post(Event.HELD)
        self._permit()
        self._announce()

    def _announce(self) -> None:
        """Have those who wait for a state look again."""
        self._changed.set()
        self._changed = trio.Event()

    async def _carry_out(self, one: _Attended, effect: Effect) -> Event | None:
        """Carry out one effect. Returns the event that it brought about at once, if it did."""
        service, starter = one.definition.service, one.definition.starter
        match effect:
            case Effect.AWAIT_PERMISSION:
                one.awaits_permission = True
                self._permit()
            case Effect.START:
                return await self._start(one)
            case Effect.START_READY_TIMER:
                if service.ready_timeout_ms:
                    self._start_timer(one, service.ready_timeout_ms, Event.LATE)
            case Effect.START_STOP_TIMER:
                self._start_timer(one, service.stop.timeout_ms, Event.OVERDUE)
            case Effect.START_BACKOFF_TIMER:
                self._start_timer(one, one.delay_ms, Event.BACKOFF_OVER)
            case Effect.CANCEL_TIMER:
                if one.timer is not None:
                    one.timer.scope.cancel()
                    one.timer = None
            case Effect.TERMINATE:
                if one.run is not None and not processes.has_ended(one.run.running.pidfd):
                    number = signal.Signals[f"SIG{service.stop.signal}"]
                    processes.pidfd_send_signal(one.run.running.pidfd, number)
            case Effect.KILL:
                self._log.note("service_killed", service=one.definition.name)
                starter.kill()
                if one.run is not None and not processes.has_ended(one.run.running.pidfd):
                    processes.pidfd_send_signal(one.run.running.pidfd, signal.SIGKILL)
            case Effect.CLEAN_UP:
                await self._bury(one)
            case Effect.FORGET_STARTS:
                one.starts = restart.Starts()
        return None

    async def _start(self, one: _Attended) -> Event | None:
        """Start the service's process, and the tasks that watch it. Returns what its failure is judged to be."""
        definition = one.definition
        one.starts = restart.started(one.starts, _now_ms(), definition.service.restart)
        one.last_line = ""
        with contextlib.ExitStack() as opened:
            notify, listening = None, None
            if isinstance(definition.service.readiness, ReadyByNotify):
                notify = notify_path(self._notify_directory, definition.name)
                listening = opened.enter_context(open_notify(notify))
            reading, writing = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reading, False)
            self._spawn(one, self._carry_output, one, reading)
            try:
                with trio.fail_after(START_SECONDS):
                    running = await definition.starter.start(writing, notify)
            except (MilkyWayError, OSError, trio.TooSlowError) as error:
                os.close(writing)
                await self._read_last_line(one)
                cause = str(error) or "cannot start it: it takes too long"
                one.reason = f"{cause} ({one.last_line})" if one.last_line else cause
                self._log.note("service_not_started", service=definition.name, reason=one.reason)
                return self._judged(one, None)
            except BaseException:
                os.close(writing)
                raise
            os.close(writing)
            run = one.run = _Run(running)
            self._log.note("service_process_started", service=definition.name, pid=running.pid)
            self._spawn(one, self._await_end, one, run)
            self._spawn(one, self._await_readiness, one, run, listening, opened.pop_all())
        return None

    def _judged(self, one: _Attended, code: int | None) -> Event:
        """Return what an end that nobody asked for is judged to be, and note why."""
        verdict = restart.judge(one.definition.service, code, one.starts, _now_ms())
        one.starts, one.delay_ms = verdict.starts, verdict.delay_ms
        if verdict.event is Event.RETRIED:
            one.restarts += 1
        if one.row is Row.FALTERING or code is None:
            detail = verdict.reason.partition("; ")[2]
            one.reason = f"{one.reason}; {detail}" if detail else one.reason
        else:
            one.reason = "" if verdict.event is Event.COMPLETED else verdict.reason
        return verdict.event

    async def _bury(self, one: _Attended) -> None:
        """Clear away what the service's start made, whatever is left of it. Never takes longer than its deadline."""
        name = one.definition.name
        with trio.move_on_after(BURY_SECONDS, shield=True) as scope:
            try:
                if one.run is not None:
                    one.definition.starter.kill()
                    await one.run.ended.wait()
                    let_go(one.run.running, self._reaper)
                    one.run.tasks.cancel()
                    one.run = None
                await one.definition.starter.clean_up()
            except (MilkyWayError, OSError) as error:
                self._log.note("cleaning_up_failed", service=name, error=str(error))
        if scope.cancelled_caught:
            self._log.note("cleaning_up_failed", service=name, error=f"not done within {BURY_SECONDS:g} s")

    async def _break(self, one: _Attended, error: Exception) -> None:
        """Make the service failed after an error in handling it. Never raises an Exception."""
        details = "".join(traceback.format_exception(error))
        self._log.note("service_task_failed", service=one.definition.name, error=repr(error), traceback=details)
        one.reason = f"the supervisor failed: {error!r}"
        try:
            await self._happen(one, Event.BROKEN)
        except Exception as second:  # noqa: BLE001 (there is nothing left to try; the service stays failed)
            self._log.note("service_task_failed", service=one.definition.name, error=repr(second))

    # --- the small tasks that post to its mailbox ------------------------------------------------------------------------

    def _spawn(self, one: _Attended, task: Callable[..., Any], *arguments: object) -> None:
        assert self._nursery is not None, "services are handled only while the supervisor runs"
        self._nursery.start_soon(self._guarded, one, task, *arguments)

    async def _guarded(self, one: _Attended, task: Callable[..., Any], *arguments: object) -> None:
        try:
            await task(*arguments)
        except Exception as error:  # noqa: BLE001 (told to the service, whose task makes it failed)
            self._log.note("service_task_failed", service=one.definition.name, error=repr(error))
            one.post(Event.BROKEN)

    def _start_timer(self, one: _Attended, milliseconds: int, event: Event) -> None:
        if one.timer is not None:
            one.timer.scope.cancel()
        one.timer = _Timer()
        self._spawn(one, self._count_down, one, one.timer, milliseconds, event)

    async def _count_down(self, one: _Attended, timer: _Timer, milliseconds: int, event: Event) -> None:
        with timer.scope:
            await trio.sleep(milliseconds / 1000)
            one.post(event, timer)

    async def _await_end(self, one: _Attended, run: _Run) -> None:
        await trio.lowlevel.wait_readable(run.running.pidfd)
        run.ended.set()
        one.post(None, run)

    async def _await_readiness(
        self, one: _Attended, run: _Run, listening: socket.socket | None, opened: contextlib.ExitStack
    ) -> None:
        with opened, run.tasks:
            match one.definition.service.readiness:
                case ReadyAtOnce():
                    pass
                case ReadyByExit():
                    return
                case ReadyByTcp(port=port, interval_ms=interval):
                    await wait_listening(run.running, port, max(interval, 10) / 1000, one.definition.users)
                case ReadyByNotify():
                    assert listening is not None, "opened before the start"
                    belongs = belongs_to(run.running, one.definition.starter.cgroup)
                    await wait_notified(listening, belongs, lambda text: setattr(one, "reason", text))
                case ReadyByDescriptor() | ReadyByProbe():
                    return  # never ready
            one.post(Event.READY, run)

    async def _carry_output(self, one: _Attended, reading: int) -> None:
        name = one.definition.name
        try:
            await carry_lines(reading, name, self._log)
        finally:
            os.close(reading)

    async def _read_last_line(self, one: _Attended) -> None:
        """Learn the last line that a start which failed has written; its pipe has no writer any more."""
        await trio.sleep(0.01)
        for record in reversed(self._log.ring.records):
            if record.service == one.definition.name:
                one.last_line = str(record.facts.get("line", ""))[:200] if record.event == OUTPUT else ""
                return

    # --- all of them -------------------------------------------------------------------------------------------------------

    def _needs(self) -> dict[str, Needs]:
        return {name: one.definition.needs for name, one in self._services.items()}

    def _rows(self) -> Mapping[str, Row]:
        return {name: Row.STOPPING if one.leaving else one.row for name, one in self._services.items()}

    def _holding_back(self, one: _Attended) -> list[str]:
        return dependencies.holding_back(one.definition.name, self._needs(), self._rows())

    def _permit(self) -> None:
        """Let those start that wait for others and need wait no longer."""
        for one in self._services.values():
            if one.awaits_permission and not self._holding_back(one):
                one.post(Event.PERMITTED, one)

    def _find(self, name: str) -> _Attended:
        try:
            return self._services[name]
        except KeyError:
            raise RefusedError(f"cannot find service {name}: there is none of that name") from None

    async def _wait_for(self, name: str, is_there: Callable[[_Attended], bool]) -> None:
        while not is_there(self._find(name)):
            if self._nursery is None:
                raise UnavailableError(f"cannot wait for {name}: the supervisor does not run")
            await self._changed.wait()

    def _status(self, one: _Attended) -> ServiceStatus:
        pid = one.run.running.pid if one.run else 0
        context = ""
        with contextlib.suppress(OSError):
            context = selinux.getcon(pid) if pid else ""
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


def _is_idle(one: _Attended) -> bool:
    return one.row is Row.IDLE and not one.busy


def _now_ms() -> int:
    return int(trio.current_time() * 1000)
