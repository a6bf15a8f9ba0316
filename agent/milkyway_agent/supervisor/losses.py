"""Who must be told that a service is lost, and what it is to them."""

from collections.abc import Iterator, Mapping

from milkyway_agent.core.dependencies import Graph
from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.supervisor.service_record import Attended


def losses(name: str, graph: Graph, services: Mapping[str, Attended]) -> Iterator[tuple[Attended, Event]]:
    """Return each service that loses something with *name*: who requires it is HELD, a bundle of it is DISSOLVED."""
    for one in (services[other] for other in graph.required_by(name) if other in services):  # else it is gone already
        yield one, Event.DISSOLVED if _is_up_as_bundle(one) else Event.HELD
    for one in (services[other] for other in graph.wanted_by(name) if other in services):
        if _is_up_as_bundle(one):
            yield one, Event.DISSOLVED


def _is_up_as_bundle(one: Attended) -> bool:
    return one.definition.service.type == "bundle" and one.row is Row.COMPLETED
