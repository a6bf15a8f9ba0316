"""Services as others depend on them: the row in which each counts, and what the loss of one means to the others."""

from collections.abc import Iterator, Mapping

from milkyway_agent.core.dependencies import Graph
from milkyway_agent.core.service_state import Event, Row, has_process
from milkyway_agent.supervisor.service_record import ServiceRecord


class RowsForOthers(Mapping[str, Row]):
    """The rows of all services by name, as they count for others: a service that is going away is not there any more."""

    def __init__(self, services: Mapping[str, ServiceRecord]) -> None:
        self._services = services

    def __getitem__(self, name: str) -> Row:
        record = self._services[name]
        if record.leaving or record.held:
            return Row.STOPPING
        if record.busy and not has_process(record.row):  # it is still being cleaned up
            return Row.RESTARTING if record.row is Row.WAITING else Row.STOPPING
        return record.row

    def __iter__(self) -> Iterator[str]:
        return iter(self._services)

    def __len__(self) -> int:
        return len(self._services)


def losses(name: str, graph: Graph, services: Mapping[str, ServiceRecord]) -> Iterator[tuple[ServiceRecord, Event]]:
    """Return each service that loses *name*, and which event that is for it."""
    for other in graph.required_by(name):
        if other in services:  # else it was removed
            yield services[other], loss_of(services[other])
    for other in graph.wanted_by(name):
        if other in services and loss_of(services[other]) is Event.PART_LOST:
            yield services[other], Event.PART_LOST


def loss_of(record: ServiceRecord) -> Event:
    """Return which event the loss of a requirement is for a service."""
    return Event.PART_LOST if record.definition.service.type == "bundle" else Event.DEPENDENCY_LOST
