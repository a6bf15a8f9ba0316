"""The state that a supervisor hands over to the program that replaces it in the same process, as a document.

Across an execution processes stay our children and descriptors stay open, so the document says which belong to which
service, the state of each service, and what is left of its timers. ``keep`` collects it from a supervisor that is at rest;
``restore`` puts it into one with the same definitions. Times are kept as durations, since trio's clock begins anew.
"""

from collections.abc import Iterable
from typing import Literal

from msgspec import field

from milkyway_agent.core.explanation import Origin
from milkyway_agent.core.restart import Starts
from milkyway_agent.core.schedule import Past
from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.core.start_times import Times
from milkyway_agent.launching.child import Child
from milkyway_agent.supervisor.live_organs import LiveOrgans
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_formats.codec import Document
from milkyway_formats.service import Service

ROWS = {row.label: row for row in Row}
# The names of events in format 1, where they differ: earlier programs read our state, and we read theirs.
_KEPT_NAMES = {
    Event.DEPENDENCY_LOST: "held",
    Event.PART_LOST: "dissolved",
    Event.START_TIMEOUT: "late",
    Event.STOP_TIMEOUT: "overdue",
    Event.WATCHDOG_TIMEOUT: "hung",
    Event.REARMED: "rested",
    Event.INTERNAL_ERROR: "broken",
    Event.ARM_FAILED: "gave up",  # the nearest that earlier programs know
}
CAUSES = {_KEPT_NAMES.get(event, event.value): event for event in Event if event is not Event.ARM_FAILED}


class KeptStream(Document, frozen=True):
    """The read end of an output pipe, and the beginning of a line that is not complete."""

    descriptor: int
    rest: bytes = b""


class KeptStored(Document, frozen=True):
    """A descriptor that the service has stored with us."""

    name: str
    descriptor: int
    polled: bool = True


class KeptConnection(Document, frozen=True):
    """The process of one connection, and the listener to which the connection was made."""

    listener: str
    pid: int
    pidfd: int


class KeptService(Document, frozen=True):
    """One service. ``starts_ago_ms``: how long ago the starts that still count were; ``alarm_ms``: what its alarm has left."""

    name: str
    row: str
    pid: int = 0
    pidfd: int = -1
    notify: int = -1
    ready_pipe: int = -1
    streams: list[KeptStream] = field(default_factory=list)
    listeners: list[int] = field(default_factory=list)
    stored: list[KeptStored] = field(default_factory=list)
    connections: list[KeptConnection] = field(default_factory=list)
    restarts: int = 0
    since_ms: int = 0
    reason: str = ""
    starts_ago_ms: list[int] = field(default_factory=list)
    failures: int = 0
    delay_ms: int = 0
    alarm_ms: int | None = None
    awaits_permission: bool = False
    unwell: int = 0  # earlier programs wrote it; nothing reads it
    cause: str = ""
    origin: Origin = Origin()
    times: Times = Times()
    pasts: list[Past] = field(default_factory=list)


class KeptState(Document, frozen=True):
    """The state of a supervisor. ``open_files``: the soft limit of services; 0: the supervisor's own.

    ``api``: the local API's listener; -1: there is none.
    """

    format: Literal["milkyway.supervisor/1"]
    definitions: list[Service]
    services: list[KeptService]
    users: dict[str, int] = field(default_factory=dict)
    open_files: int = 0
    api: int = -1


def descriptors_of(services: Iterable[KeptService]) -> list[int]:
    """Return every descriptor of *services* that must stay open across the execution."""
    found: list[int] = []
    for service in services:
        found += [service.pidfd, service.notify, service.ready_pipe, *service.listeners]
        found += [stream.descriptor for stream in service.streams]
        found += [stored.descriptor for stored in service.stored]
        found += [connection.pidfd for connection in service.connections]
    return [descriptor for descriptor in found if descriptor >= 0]


def keep(records: Iterable[ServiceRecord], organs: LiveOrgans, now: float) -> list[KeptService]:
    """Return the state of services, none of which is busy, at *now* (seconds of trio's clock)."""
    return [_keep(record, organs, now) for record in records]


def _keep(record: ServiceRecord, organs: LiveOrgans, now: float) -> KeptService:
    assert not record.busy, "the caller leaves out busy services"
    process = record.process
    now_ms = int(now * 1000)
    left = record.alarm.at - now if record.alarm is not None and record.alarm.callback is not None else None
    return KeptService(
        name=record.definition.name,
        row=record.row.label,
        pid=process.child.pid if process else 0,
        pidfd=process.child.pidfd if process else -1,
        notify=process.notify if process else -1,
        ready_pipe=process.ready_pipe if process else -1,
        streams=[KeptStream(descriptor=stream.descriptor, rest=stream.rest) for stream in organs.output.streams(record)],
        listeners=list(organs.triggers.sockets.descriptors(record)),
        stored=[
            KeptStored(name=entry.name, descriptor=entry.descriptor, polled=entry.polled)
            for entry in organs.notify.stored(record)
        ],
        connections=[
            KeptConnection(listener=connection.listener, pid=connection.child.pid, pidfd=connection.child.pidfd)
            for connection in organs.connections.serving(record)
            if connection.child
        ],
        restarts=record.restarts,
        since_ms=record.since_ms,
        reason=record.reason,
        starts_ago_ms=[now_ms - at for at in record.starts.at],
        failures=record.starts.failures,
        delay_ms=record.delay_ms,
        alarm_ms=None if left is None else max(int(left * 1000), 0),
        awaits_permission=record.awaits_permission,
        cause=_KEPT_NAMES.get(record.cause, record.cause.value) if record.cause else "",
        origin=record.origin,
        times=record.times,
        pasts=list(organs.triggers.timers.pasts(record)),
    )


def restore(record: ServiceRecord, kept: KeptService, now_ms: int) -> None:
    """Put what *kept* says into *record*, except what the organs keep; *now_ms*: of the engine's clock."""
    record.row = ROWS[kept.row]
    record.restarts, record.since_ms, record.reason = kept.restarts, kept.since_ms, kept.reason
    record.starts = Starts(tuple(now_ms - ago for ago in kept.starts_ago_ms), kept.failures)
    record.delay_ms = kept.delay_ms
    record.cause = CAUSES[kept.cause] if kept.cause else None
    record.origin, record.times = kept.origin, kept.times
    record.awaits_permission = kept.awaits_permission
    if kept.pid:
        process = record.process = MainProcess(Child(kept.pid, kept.pidfd))
        process.notify, process.ready_pipe = kept.notify, kept.ready_pipe
