"""The supervisor: what others ask of services: to take them over, to start, stop and replace them, to say how they are.

What is asked for becomes events, which ``supervisor.engine`` feeds to the table of each service.
"""

import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from msgspec.structs import replace

from milkyway_agent.core.dependencies import Changes, Graph, changed
from milkyway_agent.core.explanation import Origin, origins
from milkyway_agent.core.service_state import Event, Row, has_process, satisfies
from milkyway_agent.launching.child import Running
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor import adoption
from milkyway_agent.supervisor.activation.connections import Connections
from milkyway_agent.supervisor.activation.triggers import ServiceTriggers
from milkyway_agent.supervisor.definition_checks import check
from milkyway_agent.supervisor.dependents import loss_of
from milkyway_agent.supervisor.engine import Lives
from milkyway_agent.supervisor.process.io import ServiceRuns
from milkyway_agent.supervisor.service_record import AT_ONCE, Attended, Change, Run
from milkyway_agent.supervisor.service_record import Definition as Definition
from milkyway_agent.supervisor.snapshot import KeptConnection, KeptService, keep
from milkyway_agent.supervisor.stop_order import end_in_order
from milkyway_agent.system import kernel, selinux
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.report import ServiceStatus
from milkyway_formats.service import Service

NOTIFY_DIRECTORY = "/run/milkyway/notify"


class Supervisor:
    """Supervises services while ``run`` runs. Methods raise RefusedError for a name that is not there."""

    def __init__(
        self,
        log: Log,
        reaper: Reaper,
        *,
        clock_ms: Callable[[], int] = kernel.boottime_ms,
        notify_directory: str = NOTIFY_DIRECTORY,
        chance: Callable[[], float] = random.random,
        on_reboot: Callable[[str], None] = lambda _: None,
    ) -> None:
        """*on_reboot*: called for a failure that asks for one."""
        self._clock_ms = clock_ms
        self._notify_directory = notify_directory
        self._replacing = False
        self._lives = Lives(
            log,
            reaper,
            clock_ms=clock_ms,
            notify_directory=notify_directory,
            chance=chance,
            on_reboot=on_reboot,
        )
        self._services = self._lives.services

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise, until cancelled. Processes are left as they are then: ``stop_all`` comes first where they shouldn't."""
        Path(self._notify_directory).mkdir(mode=0o711, parents=True, exist_ok=True)
        await self._lives.run(task_status)

    @property
    def keeps_at_end(self) -> bool:
        """Whether descriptors stay open after ``run``, for whoever takes over."""
        return self._lives.keeps_at_end

    @keeps_at_end.setter
    def keeps_at_end(self, keeps: bool) -> None:
        self._lives.keeps_at_end = keeps

    def release(self) -> None:
        """Close every descriptor. Processes that still run go on, and nobody supervises them."""
        self._lives.release()

    # --- taking over, and being taken over -------------------------------------------------------------------------------

    def adopt(self, name: str, running: Running, output: int, writing: int = -1) -> None:
        """Take a process that was started for a service before there was a supervisor; *output*: its pipe's reading end.

        *writing*: the other end, if that is kept for its next run.
        """
        adoption.adopt(self._lives, self._find(name), running, output, writing)

    async def wait_at_rest(self) -> None:
        """Return when no start and no clearing away is under way."""
        await self._lives.connections.wait_answered()
        while any(one.busy for one in self._services.values()):
            await self._lives.change()
            await self._lives.connections.wait_answered()

    def keep(self, now: float) -> list[KeptService]:
        """Return all that is known at *now* of trio's clock, for ``restore`` in the program that replaces this one.

        What is under way is not in it: wait for ``wait_at_rest`` before, if there is time.
        """
        pasts = {name: self._lives.triggers.pasts(one) for name, one in self._services.items()}
        kept = keep([one for one in self._services.values() if not one.busy], pasts, now)
        return [replace(one, connections=self._connections_of(one.name)) for one in kept]

    def _connections_of(self, name: str) -> list[KeptConnection]:
        serving = self._lives.connections.serving(self._services[name])
        return [
            KeptConnection(listener=one.listener, pid=one.running.pid, pidfd=one.running.pidfd)
            for one in serving
            if one.running
        ]

    def restore(self, services: Iterable[KeptService]) -> None:
        """Go on from what ``keep`` returned. The same services were added; the supervisor runs, and has started nothing."""
        for kept in services:
            adoption.go_on(self._lives, self._find(kept.name), kept)
        self._lives.permit(list(self._lives.awaiting))

    # --- which services there are --------------------------------------------------------------------------------------

    def add(self, *definitions: Definition) -> None:
        """Take services under supervision, stopped; all or none. Undo: ``remove``.

        Raises RefusedError when a name is taken, one would wait for itself, or could never be ready.
        """
        self._refuse_while_replacing()
        added: dict[str, Attended] = {}
        for definition in definitions:
            if definition.name in self._services or definition.name in added:
                raise RefusedError(f"cannot supervise {definition.name}: there is a service of that name")
            check(definition)
            added[definition.name] = Attended(definition, self._clock_ms())
        graph = _checked_graph({name: one.definition for name, one in (self._services | added).items()})
        self._services.update(added)
        self._lives.graph = graph
        for one in added.values():
            self._lives.triggers.add(one)
        self._lives.permit(list(self._lives.awaiting))

    async def remove(self, name: str) -> None:
        """Stop a service and forget it. Undo of ``add``."""
        self._refuse_while_replacing()
        one = self._find(name)
        await self.stop(name)
        if self._services.get(name) is one:  # and not removed by somebody else meanwhile
            self._lives.forget(one)
            self._lives.graph = _graph({name: one.definition for name, one in self._services.items()})
            self._lives.permit(list(self._lives.awaiting))

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
        old = {name: one.definition for name, one in self._services.items()}
        changes = changed(_services(old), _services(definitions))
        self._replacing = True
        try:
            async with self._held({*changes.removed, *changes.restarted}):
                self._put_in_place(definitions, graph, changes)
                self._follow(old, changes)
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
        for one in concerned.values():
            one.held += 1
        try:
            await end_in_order(self._lives, concerned, Event.DEPENDENCY_LOST, Attended.is_without_processes)
            yield
        finally:
            for one in concerned.values():
                one.held -= 1
            self._lives.permit(list(self._lives.awaiting))

    def _put_in_place(self, definitions: Mapping[str, Definition], graph: Graph, changes: Changes) -> None:
        """Put the new definitions where the old were. What was removed or must restart has no processes."""
        for name in changes.removed:
            self._lives.post(self._services[name], Event.UNWANTED)
            self._lives.forget(self._services[name])
        for name in changes.restarted:
            one, new = self._services[name], definitions[name].service
            was = one.definition.service
            if was.listeners != new.listeners:
                self._lives.triggers.close(one)
            if was.stored_descriptors != new.stored_descriptors:
                self._lives.runs.forget(one)
            one.definition = definitions[name]
            if was.timers != new.timers:
                self._lives.triggers.recount(one)
        ordered: dict[str, Attended] = {}
        for name, new_one in definitions.items():
            attended = self._services.get(name)
            if attended is None:
                attended = Attended(new_one, self._clock_ms())
                self._lives.triggers.add(attended)
            elif name not in changes.restarted:
                self._adopt(attended, new_one)
            ordered[name] = attended
        self._services.clear()
        self._services.update(ordered)
        self._lives.graph = graph

    def _adopt(self, one: Attended, definition: Definition) -> None:
        """Go on with a service by a new definition, which says the same about its process."""
        was = one.definition.service
        one.definition = definition._replace(starter=one.definition.starter)  # the one that knows what there is to clear
        if was.timers != definition.service.timers:
            self._lives.triggers.recount(one)
        if one.row is Row.STARTED and was != definition.service:
            self._lives.health.stop(one)
            self._lives.health.start(one)

    def _follow(self, old: Mapping[str, Definition], changes: Changes) -> None:
        """Start again what must be restarted, and see to it that what goes on has all that it requires now."""
        for name in changes.restarted:
            one = self._services[name]
            if one.row.wanted:
                self._pull_in(name)
                self._lives.post(one, Event.RESTART_ASKED)
        for name, one in self._services.items():
            if name not in old or name in changes.restarted or old[name].needs == one.definition.needs or not one.row.wanted:
                continue
            self._pull_in(name)
            if not all(satisfies(row) for row in self._required_rows(one)):
                self._lives.post(one, loss_of(one))

    def _required_rows(self, one: Attended) -> list[Row]:
        rows = self._lives.rows
        return [rows[other] if other in self._services else Row.IDLE for other in one.definition.needs.requires]

    # --- what they do --------------------------------------------------------------------------------------------------

    def start(self, *names: str, by: str = "") -> None:
        """Want services, and what they require and want, to run; what they conflict with is stopped. *by*: who asks."""
        for name in names:
            self._find(name)
        for other, origin in origins(names, self.graph.pulled_in(*names), self.graph.parts, by).items():
            one = self._services[other]
            if origin.kind == "asked" or not one.row.wanted or not one.origin.kind:
                one.origin = origin
        self._pull_in(*names)
        for name in names:
            self._lives.post(self._services[name], Event.WANTED)

    def _pull_in(self, *names: str) -> None:
        """Want all that *names* require and want, but not these; stop what conflicts with any of them."""
        for other in self.graph.pulled_in(*names):
            self._displace(other)
            if other not in names:
                self._lives.post(self._services[other], Event.WANTED)

    async def stop(self, name: str, by: str = "") -> None:
        """Stop a service, after those that can't run without it; return when it is stopped. *by*: who asks."""
        one = self._find(name)
        one.origin = Origin("stopped", by)
        async with self._held(self._with_dependents([name]) - {name}):
            one.leaving += 1
            try:
                self._lives.post(one, Event.UNWANTED)
                await self._wait_for(one, Attended.is_idle)
            finally:
                one.leaving -= 1

    def _with_dependents(self, names: Collection[str]) -> set[str]:
        return {*names, *(other for name in names for other in self.graph.dependents(name))}

    def restart(self, name: str, by: str = "") -> None:
        """Stop and start a service, not waiting for its trigger; one that does not run is started. *by*: who asks."""
        one = self._find(name)
        if not one.row.wanted:
            one.origin = Origin("asked", by)
        self._displace(name)
        self._lives.post(one, Event.RESTART_ASKED, AT_ONCE)

    async def restart_and_wait(self, name: str, by: str = "") -> None:
        """Restart a service as ``restart`` does; return as ``start_and_wait`` does."""
        self.restart(name, by)
        one = self._find(name)
        if one.definition.service.type != "bundle":  # which is back at once, having no process
            await self._wait_for(one, lambda one: one.row.current in ("stopping", "starting", "failed") or self._is_vain(one))
        await self._wait_started(one)

    async def start_and_wait(self, name: str, by: str = "") -> None:
        """Start a service; return when it is started, waits for its trigger, or has failed.

        Raises UnavailableError where it does not start: what it requires is given up, or a condition does not hold.
        """
        self.start(name, by=by)
        await self._wait_started(self._find(name))

    async def _wait_started(self, one: Attended) -> None:
        def is_there(one: Attended) -> bool:
            state = one.row.current
            return state == "started" or (state in ("failed", "armed") and not one.busy) or self._is_vain(one)

        await self._wait_for(one, is_there)
        if self._is_vain(one):
            why = self._status(one).reason or "what it needs is given up"
            raise UnavailableError(f"cannot start {one.definition.name}: {why}")

    def _is_vain(self, one: Attended) -> bool:
        """Tell whether nothing that is under way will start it."""
        return (one.row is Row.IDLE and one.cause is Event.SKIPPED) or self.graph.is_stuck(one.definition.name, self.rows)

    async def reload(self, name: str) -> None:
        """Have a service read its configuration again; return when its command has done so, or its signal was sent.

        Raises RefusedError when it is not started, UnavailableError when its command fails.
        """
        one = self._find(name)
        last = one.reload
        self._lives.post(one, Event.RELOAD_ASKED)
        if one.reload is None or one.reload is last:
            raise RefusedError(f"cannot reload {name}: it is {one.row.label}", hint="only a started service can be reloaded")
        reload = one.reload
        await reload.over.wait()
        if reload.why:
            raise UnavailableError(
                f"cannot reload {name}: its command failed: {reload.why}", hint=f"`mwctl logs {name}` shows what it said"
            )

    async def stop_all(self, names: Container[str] | None = None) -> None:
        """Stop all services (or those *names*), each before those that it needs. Cancel it to stop waiting."""
        ours = {name: one for name, one in self._services.items() if names is None or name in names}
        await end_in_order(self._lives, ours, Event.UNWANTED, Attended.is_idle)

    def _displace(self, name: str) -> None:
        """Stop what conflicts with *name*."""
        for rival in self.graph.conflicting(name):
            self._lives.unwant(self._services[rival], Origin("displaced", name))

    # --- how they are --------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of all services."""
        return list(self._services)

    @property
    def rows(self) -> Mapping[str, Row]:
        """Where all services are, as it counts for others that wait."""
        return self._lives.rows

    def row(self, name: str) -> Row:
        """Return where the service is in its life."""
        return self._find(name).row

    @property
    def history(self) -> deque[Change]:
        """The last changes of rows, of all services."""
        return self._lives.history

    @property
    def graph(self) -> Graph:
        """Who needs whom, of all services."""
        return self._lives.graph

    async def wait_state(self, name: str, *states: str) -> str:
        """Return when the service is in one of *states* ("started", "failed"…), with the one it is in.

        A state without processes is reached when what the last one left behind is cleared away too.
        """

        def is_there(one: Attended) -> bool:
            return one.row.current in states and (has_process(one.row) or not one.busy)

        return await self._wait_for(self._find(name), is_there)

    async def wait_settled(self, name: str, *, tries: int) -> str:
        """Return when the service is started or failed, or ended by itself *tries* times from now on; with its state."""
        limit = self._find(name).restarts + tries

        def is_there(one: Attended) -> bool:
            return satisfies(one.row) or (not one.busy and (one.row is Row.FAILED or one.restarts >= limit))

        return await self._wait_for(self._find(name), is_there)

    def status(self) -> list[ServiceStatus]:
        """Return all services as they are now."""
        return [self._status(one) for one in self._services.values()]

    def status_of(self, name: str) -> ServiceStatus:
        """Return one service as it is now."""
        return self._status(self._find(name))

    # --- for those that show, keep or add to what is there -----------------------------------------------------------

    def attended(self, name: str) -> Attended:
        """Return what is known of a service."""
        return self._find(name)

    def hold(self, one: Attended, run: Run) -> None:
        """Take *run* as the service's process: watch it for its end and its readiness."""
        self._lives.hold(one, run)

    @property
    def watch(self) -> Watch:
        """What is watched by epoll."""
        return self._lives.watch

    @property
    def alarms(self) -> Alarms:
        """All timers."""
        return self._lives.alarms

    @property
    def runs(self) -> ServiceRuns:
        """What is open for runs of services."""
        return self._lives.runs

    @property
    def triggers(self) -> ServiceTriggers:
        """Listeners and timers of services."""
        return self._lives.triggers

    @property
    def connections(self) -> Connections:
        """Processes for connections."""
        return self._lives.connections

    def _find(self, name: str) -> Attended:
        try:
            return self._services[name]
        except KeyError:
            raise RefusedError(f"cannot find service {name}: there is none of that name") from None

    async def _wait_for(self, one: Attended, is_there: Callable[[Attended], bool]) -> str:
        """Return the state of a service once it is as it should be, or was removed."""
        while not is_there(one) and self._services.get(one.definition.name) is one:
            await self._lives.change()
        return one.row.current

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
            reason = "; ".join(self._lives.held_back(one))
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


def _services(definitions: Mapping[str, Definition]) -> dict[str, Service]:
    return {name: definition.service for name, definition in definitions.items()}


def _graph(definitions: Mapping[str, Definition]) -> Graph:
    return Graph({name: definition.needs for name, definition in definitions.items()})


def _checked_graph(definitions: Mapping[str, Definition]) -> Graph:
    graph = _graph(definitions)
    graph.check()
    return graph
