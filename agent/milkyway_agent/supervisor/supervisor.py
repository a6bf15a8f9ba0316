"""The supervisor: what others ask of services: to take them over, to start, stop and replace them, to say how they are.

What is asked for becomes events, which the ``engine`` feeds to the table of each service.
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
    """The engine's clocks: trio's, by which its alarms go, and *boottime_ms*."""

    def __init__(self, boottime_ms: Callable[[], int]) -> None:
        self.boottime_ms = boottime_ms

    def now_ms(self) -> int:
        """Return trio's time."""
        return int(trio.current_time() * 1000)


class Supervisor:
    """Supervises services while ``run`` runs. Methods raise RefusedError for a name that is not there."""

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
        """*alarms* and *watch*: given where others, such as the line to a launcher, go by them too; the watch is closed here.

        *on_reboot*: called for a failure that asks for one.
        """
        self.keeps_at_end = False  # descriptors stay open after ``run``, for whoever takes over
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
        self._engine = Engine(self._organs, TrioClock(clock_ms), chance, note=log.note, on_change=self._tell_waiting)
        self._services = self._engine.services
        self._adoption = Adoption(self._engine, self._organs, log)
        self._replacing = False
        self._changed = trio.Event()
        self._waiting = 0  # for a change

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise, until cancelled. Processes are left as they are then: ``stop_all`` comes first where they shouldn't.

        ``keeps_at_end``: what is open for them stays so, and run again, this goes on where it was cut off.
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
        """Close every descriptor. Processes that still run go on, and nobody supervises them. Idempotent."""
        for record in self._services.values():
            self._organs.detach(record)
            record.process = None
        self._organs.close()
        self._watch.close()

    # --- taking over, and being taken over -------------------------------------------------------------------------------

    def adopt(self, name: str, child: Child, output: int, writing: int = -1) -> None:
        """Take a process that was started for a service before there was a supervisor; *output*: its pipe's reading end.

        *writing*: the other end, if that is kept for its next process.
        """
        self._adoption.adopt(self._find(name), child, output, writing)

    async def wait_at_rest(self) -> None:
        """Return when no start and no clearing away is under way."""
        await self._organs.connections.wait_answered()
        while any(record.busy for record in self._services.values()):
            await self._change()
            await self._organs.connections.wait_answered()

    def keep(self, now: float) -> list[KeptService]:
        """Return all that is known at *now* of trio's clock, for ``restore`` in the program that replaces this one.

        What is under way is not in it: wait for ``wait_at_rest`` before, if there is time.
        """
        return keep([record for record in self._services.values() if not record.busy], self._organs, now)

    def restore(self, services: Iterable[KeptService]) -> None:
        """Go on from what ``keep`` returned. The same services were added; the supervisor runs, and has started nothing."""
        now_ms = int(trio.current_time() * 1000)
        for kept in services:
            self._adoption.go_on(self._find(kept.name), kept, now_ms)
        self._engine.permit_all()

    @property
    def keeps_stamps(self) -> bool:
        """Whether persistent timers keep their last starts."""
        return self._organs.triggers.timers.keeps_stamps

    def keep_stamps(self, stamps: TimerStamps) -> None:
        """Have persistent timers keep their last starts in *stamps*: until then, what they miss is not known."""
        self._organs.triggers.timers.keep_stamps(stamps)

    def forget_stale_stamps(self) -> None:
        """Forget when timers last started services that there are no more."""
        self._organs.triggers.timers.forget_stale()

    # --- which services there are --------------------------------------------------------------------------------------

    def add(self, *definitions: Definition) -> None:
        """Take services under supervision, stopped; all or none. Undo: ``remove``.

        Raises RefusedError when a name is taken, one would wait for itself, or could never be ready.
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
        """Stop a service and forget it. Undo of ``add``."""
        self._refuse_while_replacing()
        record = self._find(name)
        await self.stop(name)
        if self._services.get(name) is record:  # and not removed by somebody else meanwhile
            self._organs.remove(record)
            self._engine.forget(record)
            self._engine.graph = _graph({name: other.definition for name, other in self._services.items()})
            self._engine.permit_all()

    async def replace(self, definitions: Mapping[str, Definition]) -> Changes:
        """Supervise *definitions*, by name, and nothing else; return how they differ from those before.

        What is gone is stopped and forgotten. What must be restarted is, if it is wanted (one with a trigger waits for
        that again). All others go on as they are, by their new definitions and with their old starters; one that needs
        others now that are not there waits for them. What was added is stopped, as after ``add``.

        Raises RefusedError when the new set is refused, and UnavailableError while another is being put in place; then
        nothing was done. Cancelled while it waits, it leaves the old set, which goes on.
        """
        if self._replacing:
            raise UnavailableError("cannot replace the services: they are being replaced")
        for name, definition in definitions.items():
            assert name == definition.name, "each is found by its own name"
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
        """Have *names*, and before them all that can't run without them, wait without processes."""
        concerned = {name: self._services[name] for name in self._with_dependents(names)}
        self._engine.hold_back(concerned.values())
        try:
            await self._end_in_order(concerned, Event.DEPENDENCY_LOST, ServiceRecord.is_without_processes)
            yield
        finally:
            self._engine.let_go(concerned.values())

    # --- what they do --------------------------------------------------------------------------------------------------

    def start(self, *names: str, by: str = "") -> None:
        """Want services, and what they require and want, to run; what they conflict with is stopped. *by*: who asks."""
        for name in names:
            self._find(name)
        for other, origin in origins(names, self.graph.pulled_in(*names), self.graph.parts, by).items():
            record = self._services[other]
            if origin.kind == "asked" or not record.row.wanted or not record.origin.kind:
                record.origin = origin
        self._engine.want(*names)

    async def stop(self, name: str, by: str = "") -> None:
        """Stop a service, after those that can't run without it; return when it is stopped. *by*: who asks."""
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
        """Stop and start a service, not waiting for its trigger; one that does not run is started. *by*: who asks."""
        record = self._find(name)
        if not record.row.wanted:
            record.origin = Origin("asked", by)
        self._engine.restart(record)

    async def restart_and_wait(self, name: str, by: str = "") -> None:
        """Restart a service as ``restart`` does; return as ``start_and_wait`` does."""
        self.restart(name, by)
        record = self._find(name)

        def has_begun(record: ServiceRecord) -> bool:
            return record.row.current in ("stopping", "starting", "failed") or self._is_vain(record)

        if record.definition.service.type != "bundle":  # which is back at once, having no process
            await self._wait_for(record, has_begun)
        await self._wait_started(record)

    async def start_and_wait(self, name: str, by: str = "") -> None:
        """Start a service; return when it is started, waits for its trigger, or has failed.

        Raises UnavailableError where it does not start: what it requires is given up, or a condition does not hold.
        """
        self.start(name, by=by)
        await self._wait_started(self._find(name))

    async def _wait_started(self, record: ServiceRecord) -> None:
        def is_there(record: ServiceRecord) -> bool:
            state = record.row.current
            return state == "started" or (state in ("failed", "armed") and not record.busy) or self._is_vain(record)

        await self._wait_for(record, is_there)
        if self._is_vain(record):
            why = self._status(record).reason or "what it needs is given up"
            raise UnavailableError(f"cannot start {record.definition.name}: {why}")

    def _is_vain(self, record: ServiceRecord) -> bool:
        """Tell whether nothing that is under way will start it."""
        return (record.row is Row.IDLE and record.cause is Event.SKIPPED) or self.graph.is_stuck(
            record.definition.name, self.rows
        )

    async def reload(self, name: str) -> None:
        """Have a service read its configuration again; return when its command has done so, or its signal was sent.

        Raises RefusedError when it is not started, UnavailableError when its command fails.
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
        """Stop all services (or those *names*), each before those that it needs. Cancel it to stop waiting."""
        ours = {name: record for name, record in self._services.items() if names is None or name in names}
        await self._end_in_order(ours, Event.UNWANTED, ServiceRecord.is_idle)

    async def _end_in_order(
        self, ours: Mapping[str, ServiceRecord], event: Event, is_over: Callable[[ServiceRecord], bool]
    ) -> None:
        await end_in_order(self._engine, self._change, ours, event, is_over)

    def kill(self, name: str) -> None:
        """Send SIGKILL to all of a service's processes, also to those of a start that nobody has heard of yet."""
        self._find(name).definition.starter.kill()

    # --- how they are --------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of all services."""
        return list(self._services)

    def definitions(self) -> list[Service]:
        """Return all services as they are defined."""
        return [record.definition.service for record in self._services.values()]

    @property
    def rows(self) -> Mapping[str, Row]:
        """Where all services are, as it counts for others that wait."""
        return self._engine.rows

    def row(self, name: str) -> Row:
        """Return where the service is in its life."""
        return self._find(name).row

    @property
    def graph(self) -> Graph:
        """Who needs whom, of all services."""
        return self._engine.graph

    def seen(self) -> dict[str, Seen]:
        """Return all services as they are now, for those that explain them."""
        return {name: seen_of(record) for name, record in self._services.items()}

    def groups(self) -> dict[str, str]:
        """Return the control groups of all services that have a process, by name."""
        records = self._services.items()
        return {
            name: record.definition.starter.cgroup
            for name, record in records
            if record.process is not None and record.definition.starter.cgroup
        }

    def status(self) -> list[ServiceStatus]:
        """Return all services as they are now."""
        return [self._status(record) for record in self._services.values()]

    def status_of(self, name: str) -> ServiceStatus:
        """Return one service as it is now."""
        return self._status(self._find(name))

    async def wait_state(self, name: str, *states: str) -> str:
        """Return when the service is in one of *states* ("started", "failed"…), with the one it is in.

        A state without processes is reached when what the last one left behind is cleared away too.
        """

        def is_there(record: ServiceRecord) -> bool:
            return record.row.current in states and (has_process(record.row) or not record.busy)

        return await self._wait_for(self._find(name), is_there)

    async def wait_settled(self, name: str, *, tries: int) -> str:
        """Return when the service is started or failed, or ended by itself *tries* times from now on; with its state."""
        limit = self._find(name).restarts + tries

        def is_there(record: ServiceRecord) -> bool:
            return satisfies(record.row) or (not record.busy and (record.row is Row.FAILED or record.restarts >= limit))

        return await self._wait_for(self._find(name), is_there)

    def _find(self, name: str) -> ServiceRecord:
        try:
            return self._services[name]
        except KeyError:
            raise RefusedError(f"cannot find service {name}: there is none of that name") from None

    async def _wait_for(self, record: ServiceRecord, is_there: Callable[[ServiceRecord], bool]) -> str:
        """Return the state of a service once it is as it should be, or was removed."""
        while not is_there(record) and self._services.get(record.definition.name) is record:
            await self._change()
        return record.row.current

    async def _change(self) -> None:
        """Wait until something has happened to some service. Raises UnavailableError when nothing will."""
        if not self._tasks.are_run:
            raise UnavailableError("cannot wait for a service: the supervisor does not run")
        self._waiting += 1
        try:
            await self._changed.wait()
        finally:
            self._waiting -= 1

    def _tell_waiting(self) -> None:
        if self._waiting:
            self._changed.set()
            self._changed = trio.Event()

    def _status(self, record: ServiceRecord) -> ServiceStatus:
        pid = record.process.child.pid if record.process else 0
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
