"""The supervisor, as the rest of the agent uses it: adding, starting, stopping and replacing services, and their status.

Requests become events, which the ``engine`` feeds to the table of each service.
"""

import random
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from milkyway_agent.core.dependencies import Changes, Graph, changed
from milkyway_agent.core.explanation import Origin, Seen, origins
from milkyway_agent.core.service_state import Event, Row, has_process, satisfies
from milkyway_agent.launching.child import Child
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.activation.timer_stamps import TimerStamps
from milkyway_agent.supervisor.adoption import Adoption
from milkyway_agent.supervisor.definition import Definition, check
from milkyway_agent.supervisor.engine import Engine
from milkyway_agent.supervisor.live_organs import LiveOrgans
from milkyway_agent.supervisor.replacement import Replacement
from milkyway_agent.supervisor.seen import seen_of
from milkyway_agent.supervisor.service_record import ServiceRecord
from milkyway_agent.supervisor.snapshot import KeptService, keep
from milkyway_agent.supervisor.stop_order import end_in_order
from milkyway_agent.supervisor.tasks import ServiceTasks
from milkyway_agent.system import kernel, selinux
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.report import ServiceStatus
from milkyway_formats.service import Service

NOTIFY_DIRECTORY = "/run/milkyway/notify"


class TrioClock:
    """The engine's clocks: trio's, which its alarms use, and *boottime_ms*."""

    def __init__(self, boottime_ms: Callable[[], int]) -> None:
        self.boottime_ms = boottime_ms

    def now_ms(self) -> int:
        """Return the time of trio's clock."""
        return int(trio.current_time() * 1000)


class Supervisor:
    """Supervises services while ``run`` runs. Methods raise RefusedError for an unknown name."""

    def __init__(
        self,
        log: Log,
        reaper: Reaper,
        *,
        alarms: Alarms | None = None,
        watch: Watch | None = None,
        clock_ms: Callable[[], int] = kernel.boottime_ms,
        notify_directory: str = NOTIFY_DIRECTORY,
        chance: Callable[[], float] = random.random,
        on_reboot: Callable[[str], None] = lambda _: None,
    ) -> None:
        """*alarms* and *watch*: passed if other code, such as the link to a launcher, uses them, too; the watch is closed here.

        *on_reboot*: called when a service fails whose definition asks for a reboot then.
        """
        self.keeps_at_end = False  # descriptors stay open after ``run``, for the next one
        self._notify_directory = notify_directory
        self._alarms = alarms or Alarms(log.note)
        self._watch = watch or Watch(log.note, self._alarms)
        self._tasks = ServiceTasks(lambda record, error: self._engine.fail(record, error))
        self._organs = LiveOrgans(
            log,
            reaper,
            self._watch,
            self._alarms,
            self._tasks.spawn,
            notify_directory=notify_directory,
            clock_ms=clock_ms,
            chance=chance,
            on_reboot=on_reboot,
        )
        self._engine = Engine(self._organs, TrioClock(clock_ms), chance, note=log.note, on_change=self._wake_waiting)
        self._services = self._engine.services
        self._adoption = Adoption(self._engine, self._organs, log)
        self._replacing = False
        self._changed = trio.Event()
        self._waiting = 0  # how many calls wait for a change

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until cancelled. Processes go on then: call ``stop_all`` first to end them.

        With ``keeps_at_end``, descriptors stay open, too, and another call of ``run`` goes on where this was cut off.
        """
        Path(self._notify_directory).mkdir(mode=0o711, parents=True, exist_ok=True)
        self._changed = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch.run)
                nursery.start_soon(self._alarms.run)
                await nursery.start(self._tasks.run)
                self._engine.open()
                task_status.started()
                with self._watch.dispatching_first():
                    await trio.sleep_forever()
        finally:
            self._engine.close()
            self._changed.set()
            if not self.keeps_at_end:
                self.release()

    def release(self) -> None:
        """Close every descriptor. Processes that still run go on without supervision. Idempotent."""
        for record in self._services.values():
            self._organs.detach(record)
            record.process = None
        self._organs.close()
        self._watch.close()

    # --- taking over, and being taken over -------------------------------------------------------------------------------

    def adopt(self, name: str, child: Child, output: int, writing: int = -1) -> None:
        """Take over a process that was started for a service before this supervisor; *output*: the read end of its pipe.

        *writing*: the write end, if it is kept for the next process.
        """
        self._adoption.adopt(self._find(name), child, output, writing)

    async def wait_at_rest(self) -> None:
        """Return when no service is being started or cleaned up."""
        await self._organs.connections.wait_answered()
        while any(record.busy for record in self._services.values()):
            await self._change()
            await self._organs.connections.wait_answered()

    def keep(self, now: float) -> list[KeptService]:
        """Return the whole state at *now* (trio's clock), for ``restore`` in the program that replaces this one.

        It lacks services that are being started or cleaned up: await ``wait_at_rest`` first, if there is time.
        """
        return keep([record for record in self._services.values() if not record.busy], self._organs, now)

    def restore(self, services: Iterable[KeptService]) -> None:
        """Go on from what ``keep`` returned. The same services were added, the supervisor runs, and it has started nothing."""
        now_ms = int(trio.current_time() * 1000)
        for kept in services:
            self._adoption.go_on(self._find(kept.name), kept, now_ms)
        self._engine.permit_all()

    @property
    def keeps_stamps(self) -> bool:
        """Whether persistent timers keep their last starts."""
        return self._organs.triggers.timers.keeps_stamps

    def keep_stamps(self, stamps: TimerStamps) -> None:
        """Make persistent timers keep their last starts in *stamps*: before that, it is not known which starts were missed."""
        self._organs.triggers.timers.keep_stamps(stamps)

    def forget_stale_stamps(self) -> None:
        """Forget the last starts of timers whose services don't exist any more."""
        self._organs.triggers.timers.forget_stale()

    # --- which services there are --------------------------------------------------------------------------------------

    def add(self, *definitions: Definition) -> None:
        """Supervise further services, all or none of *definitions*; they are stopped. Undo: ``remove``.

        Raises RefusedError if a name is taken, or a service would wait for itself or could never be ready.
        """
        self._refuse_while_replacing()
        added: dict[str, ServiceRecord] = {}
        for definition in definitions:
            if definition.name in self._services or definition.name in added:
                raise RefusedError(f"cannot supervise {definition.name}: there is a service of that name")
            check(definition)
            added[definition.name] = self._engine.new_record(definition)
        graph = _checked_graph({name: record.definition for name, record in (self._services | added).items()})
        self._services.update(added)
        self._engine.graph = graph
        for record in added.values():
            self._organs.triggers.timers.add(record)
        self._engine.permit_all()

    async def remove(self, name: str) -> None:
        """Undo ``add``: stop a service and forget it."""
        self._refuse_while_replacing()
        record = self._find(name)
        await self.stop(name)
        if self._services.get(name) is record:  # and was not removed by another call meanwhile
            self._organs.remove(record)
            self._engine.forget(record)
            self._engine.graph = _graph({name: other.definition for name, other in self._services.items()})
            self._engine.permit_all()

    async def replace(self, definitions: Mapping[str, Definition]) -> Changes:
        """Supervise *definitions*, by name, and nothing else; return how they differ from the old ones.

        Services that are not among them are stopped and forgotten. Those that must restart do so, if they are wanted (a
        service with a trigger waits for that again). All others go on with their new definitions and old starters; if they
        now need services that are not there, they wait for them. New services are stopped, as after ``add``.

        Raises RefusedError if the new set is refused, and UnavailableError while another replacement is under way; then
        nothing was done. If cancelled while it waits, it leaves the old set, which goes on.
        """
        if self._replacing:
            raise UnavailableError("cannot replace the services: they are already being replaced")
        for name, definition in definitions.items():
            assert name == definition.name, "the keys are the names of the definitions"
            check(definition)
        graph = _checked_graph(definitions)
        old = {name: record.definition.service for name, record in self._services.items()}
        changes = changed(old, {name: definition.service for name, definition in definitions.items()})
        self._replacing = True
        try:
            async with self._held({*changes.removed, *changes.restarted}):
                replacement = Replacement(self._engine, self._organs, definitions, graph, changes)
                replacement.put_in_place()
                replacement.follow()
        finally:
            self._replacing = False
        return changes

    def _refuse_while_replacing(self) -> None:
        if self._replacing:
            raise RefusedError("cannot change the services: they are being replaced")

    @asynccontextmanager
    async def _held(self, names: Collection[str]) -> AsyncIterator[None]:
        """Keep *names*, and all that require them, without processes inside; the latter are stopped first."""
        concerned = {name: self._services[name] for name in self._with_dependents(names)}
        self._engine.hold_back(concerned.values())
        try:
            await self._end_in_order(concerned, Event.DEPENDENCY_LOST, ServiceRecord.is_without_processes)
            yield
        finally:
            self._engine.let_go(concerned.values())

    # --- what they do --------------------------------------------------------------------------------------------------

    def start(self, *names: str, by: str = "") -> None:
        """Start services with what they require and want; stop what they conflict with. *by*: who asks."""
        for name in names:
            self._find(name)
        for other, origin in origins(names, self.graph.pulled_in(*names), self.graph.parts, by).items():
            record = self._services[other]
            if origin.kind == "asked" or not record.row.wanted or not record.origin.kind:
                record.origin = origin
        self._engine.want(*names)

    async def stop(self, name: str, by: str = "") -> None:
        """Stop a service, after those that require it; return when it is stopped. *by*: who asks."""
        record = self._find(name)
        record.origin = Origin("stopped", by)
        async with self._held(self._with_dependents([name]) - {name}):
            record.leaving += 1
            try:
                self._engine.post(record, Event.UNWANTED)
                await self._wait_for(record, ServiceRecord.is_idle)
            finally:
                record.leaving -= 1

    def _with_dependents(self, names: Collection[str]) -> set[str]:
        return {*names, *(other for name in names for other in self.graph.dependents(name))}

    def restart(self, name: str, by: str = "") -> None:
        """Restart a service without waiting for its trigger; if it does not run, start it. *by*: who asks."""
        record = self._find(name)
        if not record.row.wanted:
            record.origin = Origin("asked", by)
        self._engine.restart(record)

    async def restart_and_wait(self, name: str, by: str = "") -> None:
        """Restart a service as ``restart`` does; return and raise as ``start_and_wait`` does."""
        self.restart(name, by)
        record = self._find(name)

        def has_begun(record: ServiceRecord) -> bool:
            return record.row.current in ("stopping", "starting", "failed") or self._is_stuck(record)

        if record.definition.service.type != "bundle":  # a bundle is back at once, as it has no process
            await self._wait_for(record, has_begun)
        await self._wait_started(record)

    async def start_and_wait(self, name: str, by: str = "") -> None:
        """Start a service; return when it is started, waits for its trigger, or has failed.

        Raises UnavailableError if it is not started: a condition does not hold, or what it requires is stopped or failed.
        """
        self.start(name, by=by)
        await self._wait_started(self._find(name))

    async def _wait_started(self, record: ServiceRecord) -> None:
        def is_reached(record: ServiceRecord) -> bool:
            state = record.row.current
            return state == "started" or (state in ("failed", "armed") and not record.busy) or self._is_stuck(record)

        await self._wait_for(record, is_reached)
        if self._is_stuck(record):
            why = self._status(record).reason or "what it needs is stopped or failed"
            raise UnavailableError(f"cannot start {record.definition.name}: {why}")

    def _is_stuck(self, record: ServiceRecord) -> bool:
        """Tell whether it will not start without a further request."""
        return (record.row is Row.IDLE and record.cause is Event.SKIPPED) or self.graph.is_stuck(
            record.definition.name, self.rows
        )

    async def reload(self, name: str) -> None:
        """Make a service read its configuration again; return when its command has ended, or its signal was sent.

        Raises RefusedError if it is not started, UnavailableError if its command fails.
        """
        record = self._find(name)
        last = self._organs.commands.last_reload(record)
        self._engine.post(record, Event.RELOAD_ASKED)
        reload = self._organs.commands.last_reload(record)
        if reload is None or reload is last:
            raise RefusedError(f"cannot reload {name}: it is {record.row.label}", hint="only a started service can be reloaded")
        await reload.over.wait()
        if reload.why:
            raise UnavailableError(
                f"cannot reload {name}: its command failed: {reload.why}", hint=f"`mwctl logs {name}` shows what it said"
            )

    async def stop_all(self, names: Container[str] | None = None) -> None:
        """Stop all services (or only *names*), each before those that it needs. Cancel it to stop waiting."""
        ours = {name: record for name, record in self._services.items() if names is None or name in names}
        await self._end_in_order(ours, Event.UNWANTED, ServiceRecord.is_idle)

    async def _end_in_order(
        self, ours: Mapping[str, ServiceRecord], event: Event, is_over: Callable[[ServiceRecord], bool]
    ) -> None:
        await end_in_order(self._engine, self._change, ours, event, is_over)

    def kill(self, name: str) -> None:
        """Send SIGKILL to all of a service's processes, including those of a start that is under way."""
        self._find(name).definition.starter.kill()

    # --- how they are --------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of all services."""
        return list(self._services)

    def definitions(self) -> list[Service]:
        """Return the definitions of all services."""
        return [record.definition.service for record in self._services.values()]

    @property
    def rows(self) -> Mapping[str, Row]:
        """The rows of all services, as they count for services that wait for them."""
        return self._engine.rows

    def row(self, name: str) -> Row:
        """Return the row of a service."""
        return self._find(name).row

    @property
    def graph(self) -> Graph:
        """Which services need which."""
        return self._engine.graph

    def seen(self) -> dict[str, Seen]:
        """Return what is known of all services now, to explain it."""
        return {name: seen_of(record) for name, record in self._services.items()}

    def groups(self) -> dict[str, str]:
        """Return the control groups of all services that have a process, by the services' names."""
        records = self._services.items()
        return {
            name: record.definition.starter.cgroup
            for name, record in records
            if record.pid and record.definition.starter.cgroup
        }

    def status(self) -> list[ServiceStatus]:
        """Return the status of all services."""
        return [self._status(record) for record in self._services.values()]

    def status_of(self, name: str) -> ServiceStatus:
        """Return the status of one service."""
        return self._status(self._find(name))

    async def wait_state(self, name: str, *states: str) -> str:
        """Return when the service is in one of *states* ("started", "failed"…); return which.

        A state without processes is only reached once what the last process left behind is cleaned up.
        """

        def is_reached(record: ServiceRecord) -> bool:
            return record.row.current in states and (has_process(record.row) or not record.busy)

        return await self._wait_for(self._find(name), is_reached)

    async def wait_settled(self, name: str, *, tries: int) -> str:
        """Return when the service is started or failed, or has ended by itself *tries* times from now; return its state."""
        limit = self._find(name).restarts + tries

        def is_reached(record: ServiceRecord) -> bool:
            return satisfies(record.row) or (not record.busy and (record.row is Row.FAILED or record.restarts >= limit))

        return await self._wait_for(self._find(name), is_reached)

    def _find(self, name: str) -> ServiceRecord:
        try:
            return self._services[name]
        except KeyError:
            raise RefusedError(f"cannot find service {name}: there is none of that name") from None

    async def _wait_for(self, record: ServiceRecord, is_reached: Callable[[ServiceRecord], bool]) -> str:
        """Return the state of a service once *is_reached* returns true for it, or it was removed."""
        while not is_reached(record) and self._services.get(record.definition.name) is record:
            await self._change()
        return record.row.current

    async def _change(self) -> None:
        """Wait until something has happened to any service. Raises UnavailableError if the supervisor does not run."""
        if not self._tasks.are_run:
            raise UnavailableError("cannot wait for a service: the supervisor does not run")
        self._waiting += 1
        try:
            await self._changed.wait()
        finally:
            self._waiting -= 1

    def _wake_waiting(self) -> None:
        if self._waiting:
            self._changed.set()
            self._changed = trio.Event()

    def _status(self, record: ServiceRecord) -> ServiceStatus:
        pid = record.pid
        context = ""
        if pid:
            try:
                context = selinux.getcon(pid)
            except OSError:
                context = ""
        reason = record.reason
        if record.row is Row.WAITING and record.awaits_permission and not reason:
            reason = "; ".join(self._engine.held_back(record))
        return ServiceStatus(
            name=record.definition.name,
            state=record.row.current,
            wanted=record.row.wanted,
            pid=pid,
            context=context,
            restarts=record.restarts,
            since_ms=record.since_ms,
            reason=reason,
        )


def _graph(definitions: Mapping[str, Definition]) -> Graph:
    return Graph({name: definition.needs for name, definition in definitions.items()})


def _checked_graph(definitions: Mapping[str, Definition]) -> Graph:
    graph = _graph(definitions)
    graph.check()
    return graph
