"""New definitions for the supervised services: what each change means for services that run."""

from collections.abc import Mapping

from milkyway_agent.core.dependencies import Changes, Graph
from milkyway_agent.core.service_state import Event, Row, satisfies
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.supervisor.dependents import loss_of
from milkyway_agent.supervisor.engine import Engine
from milkyway_agent.supervisor.live_organs import LiveOrgans
from milkyway_agent.supervisor.service_record import ServiceRecord


class Replacement:
    """Replaces all definitions by *definitions*, whose *graph* was checked; *changes*: how they differ.

    First the caller stops the processes of all that was removed or must restart; then it calls ``put_in_place``, then
    ``follow``.
    """

    def __init__(
        self, engine: Engine, organs: LiveOrgans, definitions: Mapping[str, Definition], graph: Graph, changes: Changes
    ) -> None:
        self._engine = engine
        self._organs = organs
        self._old = {name: record.definition for name, record in engine.services.items()}
        self._new = definitions
        self._graph = graph
        self._changes = changes

    def put_in_place(self) -> None:
        """Give every service its new definition. Services that were removed or must restart have no processes."""
        services = self._engine.services
        for name in self._changes.removed:
            record = services[name]
            self._engine.post(record, Event.UNWANTED)
            self._organs.remove(record)
            self._engine.forget(record)
        for name in self._changes.restarted:
            self._redefine(services[name], self._new[name])
        ordered: dict[str, ServiceRecord] = {}
        for name, definition in self._new.items():
            known = services.get(name)
            if known is None:
                record = ordered[name] = self._engine.new_record(definition)
                self._organs.triggers.timers.add(record)
            else:
                ordered[name] = known
                if name not in self._changes.restarted:
                    self._adopt(known, definition)
        services.clear()
        services.update(ordered)
        self._engine.graph = self._graph

    def follow(self) -> None:
        """Start again what must restart, and make sure that all others have what they now require."""
        for name in self._changes.restarted:
            record = self._engine.services[name]
            if record.row.wanted:
                self._engine.pull_in(name)
                self._engine.post(record, Event.RESTART_ASKED)
        for name, record in self._engine.services.items():
            if name not in self._old or name in self._changes.restarted or not record.row.wanted:
                continue
            if self._old[name].needs == record.definition.needs:
                continue
            self._engine.pull_in(name)
            if not all(satisfies(row) for row in self._required_rows(record)):
                self._engine.post(record, loss_of(record))

    def _redefine(self, record: ServiceRecord, definition: Definition) -> None:
        """Give a service without processes a new definition; what was opened for the old one is closed."""
        was, new = record.definition.service, definition.service
        if was.listeners != new.listeners:
            self._organs.triggers.sockets.close(record)
        if was.stored_descriptors != new.stored_descriptors:
            self._organs.notify.forget_stored(record)
        record.definition = definition
        if was.timers != new.timers:
            self._organs.triggers.timers.recount(record)

    def _adopt(self, record: ServiceRecord, definition: Definition) -> None:
        """Go on with a service under a new definition, in which nothing differs on which its process depends."""
        was = record.definition.service
        # Keep the old starter: it knows what must be cleaned up.
        record.definition = definition._replace(starter=record.definition.starter)
        if was.timers != definition.service.timers:
            self._organs.triggers.timers.recount(record)
        if record.row is Row.STARTED and was != definition.service:
            self._organs.health.stop(record)
            self._organs.health.start(record)

    def _required_rows(self, record: ServiceRecord) -> list[Row]:
        rows = self._engine.rows
        return [rows[other] if other in self._engine.services else Row.IDLE for other in record.definition.needs.requires]
