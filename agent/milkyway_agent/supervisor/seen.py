"""What is known about a service, as plain values, to show and explain it."""

from milkyway_agent.core.explanation import Seen
from milkyway_agent.core.restart import is_on_demand
from milkyway_agent.supervisor.service_record import ServiceRecord
from milkyway_formats.service import (
    ReadyAtOnce,
    ReadyByDescriptor,
    ReadyByExit,
    ReadyByNotify,
    ReadyByProbe,
    ReadyByTcp,
    Service,
)


def seen_of(record: ServiceRecord) -> Seen:
    """Return what is known about a service now."""
    service, needs = record.definition.service, record.definition.needs
    return Seen(
        row=record.row,
        since_ms=record.since_ms,
        kind=service.type,
        pid=record.pid,
        restarts=record.restarts,
        reason=record.reason,
        cause=record.cause,
        origin=record.origin,
        times=record.times,
        awaits_permission=record.awaits_permission,
        delay_ms=record.delay_ms,
        trigger=_trigger(service),
        readiness=_readiness(service),
        requires=needs.requires,
        wants=needs.wants,
    )


def _trigger(service: Service) -> str:
    """Return what *service* waits for while it is armed; "": it has no trigger."""
    by_client = is_on_demand(service)
    if service.timers:
        return "a client, or its time" if by_client else "its time"
    return "a client" if by_client else ""


def _readiness(service: Service) -> str:
    """Return what a start of *service* waits for, as a phrase that follows "until it"."""
    match service.readiness:
        case ReadyAtOnce():
            return "is executed" if service.type != "oneshot" else "has ended"
        case ReadyByExit():
            return "has ended"
        case ReadyByNotify():
            return "says READY=1"
        case ReadyByDescriptor(descriptor=descriptor):
            return f"writes a line to descriptor {descriptor}"
        case ReadyByTcp(port=port):
            return f"listens on TCP port {port}"
        case ReadyByProbe():
            return "passes its readiness probe"
