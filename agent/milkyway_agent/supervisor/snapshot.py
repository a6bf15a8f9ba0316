"""What a supervisor hands to the one that replaces it in the same process: everything it knows, as a document.

Processes stay our children over an execution and descriptors stay open, so what is kept is which is whose, where each
service is in its life, and what is left of its timers. ``keep`` reads it off a supervisor that is at rest;
``restore`` puts it into one that has the same definitions and does not run yet. Times are kept as spans, since
trio's clock begins anew.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import field

from milkyway_agent.core.explanation import Origin
from milkyway_agent.core.restart import Starts
from milkyway_agent.core.schedule import Past
from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.core.start_times import Times
from milkyway_agent.launching.child import Running
from milkyway_agent.supervisor.fd_store import FdStore, Stored
from milkyway_agent.supervisor.service_record import Attended, Run
from milkyway_formats.codec import Document
from milkyway_formats.service import Service

ROWS = {row.label: row for row in Row}
# What format 1 calls causes that have plainer names by now: programs of before read what we keep, and we what they kept.
_KEPT_NAMES = {
    Event.DEPENDENCY_LOST: "held",
    Event.PART_LOST: "dissolved",
    Event.START_TIMEOUT: "late",
    Event.STOP_TIMEOUT: "overdue",
    Event.WATCHDOG_TIMEOUT: "hung",
    Event.REARMED: "rested",
    Event.INTERNAL_ERROR: "broken",
}
CAUSES = {_KEPT_NAMES.get(event, event.value): event for event in Event}


class KeptStream(Document, frozen=True):
    """The reading end of one output pipe, and the line that was begun."""

    descriptor: int
    rest: bytes = b""


class KeptStored(Document, frozen=True):
    """One descriptor that the service has left with us."""

    name: str
    descriptor: int
    polled: bool = True


class KeptConnection(Document, frozen=True):
    """One connection's process, and the listener that it came to."""

    listener: str
    pid: int
    pidfd: int


class KeptService(Document, frozen=True):
    """One service. ``starts_ago_ms``: how long ago its starts were that still count; ``alarm_ms``: what its timer has left."""

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
    unwell: int = 0
    cause: str = ""
    origin: Origin = Origin()
    times: Times = Times()
    pasts: list[Past] = field(default_factory=list)


class KeptState(Document, frozen=True):
    """All of a supervisor. ``open_files``: the soft limit that services begin with; 0: the supervisor's own.

    ``api``: the local API's listener; -1: there is none.
    """

    format: Literal["milkyway.supervisor/1"]
    definitions: list[Service]
    services: list[KeptService]
    users: dict[str, int] = field(default_factory=dict)
    open_files: int = 0
    api: int = -1


def descriptors_of(services: Iterable[KeptService]) -> list[int]:
    """Return every descriptor of *services* that must stay open over the execution."""
    found: list[int] = []
    for one in services:
        found += [one.pidfd, one.notify, one.ready_pipe, *one.listeners]
        found += [stream.descriptor for stream in one.streams]
        found += [stored.descriptor for stored in one.stored]
        found += [connection.pidfd for connection in one.connections]
    return [descriptor for descriptor in found if descriptor >= 0]


def keep(services: Iterable[Attended], pasts: dict[str, Sequence[Past]], now: float) -> list[KeptService]:
    """Return what is to be kept of *services*, none of which is busy, at *now* of trio's clock; *pasts*: of their timers."""
    return [_keep(one, pasts.get(one.definition.name, ()), now) for one in services]


def _keep(one: Attended, pasts: Sequence[Past], now: float) -> KeptService:
    assert not one.busy, "whoever keeps waits until nothing is under way"
    run = one.run
    now_ms = int(now * 1000)
    left = one.alarm.at - now if one.alarm is not None and one.alarm.callback is not None else None
    return KeptService(
        name=one.definition.name,
        row=one.row.label,
        pid=run.running.pid if run else 0,
        pidfd=run.running.pidfd if run else -1,
        notify=run.notify if run else -1,
        ready_pipe=run.ready_pipe if run else -1,
        streams=[KeptStream(descriptor=stream.descriptor, rest=stream.rest) for stream in one.streams],
        listeners=list(one.listeners),
        stored=[
            KeptStored(name=stored.name, descriptor=stored.descriptor, polled=stored.polled)
            for stored in (one.store.stored if one.store else ())
        ],
        restarts=one.restarts,
        since_ms=one.since_ms,
        reason=one.reason,
        starts_ago_ms=[now_ms - at for at in one.starts.at],
        failures=one.starts.failures,
        delay_ms=one.delay_ms,
        alarm_ms=None if left is None else max(int(left * 1000), 0),
        awaits_permission=one.awaits_permission,
        unwell=one.failures,
        cause=_KEPT_NAMES.get(one.cause, one.cause.value) if one.cause else "",
        origin=one.origin,
        times=one.times,
        pasts=list(pasts),
    )


def restore(one: Attended, kept: KeptService, now_ms: int) -> None:
    """Make *one* what *kept* says, as far as it is plain values; watching and timers are the supervisor's."""
    one.row = ROWS[kept.row]
    one.restarts, one.since_ms, one.reason = kept.restarts, kept.since_ms, kept.reason
    one.starts = Starts(tuple(now_ms - ago for ago in kept.starts_ago_ms), kept.failures)
    one.delay_ms = kept.delay_ms
    one.cause = CAUSES[kept.cause] if kept.cause else None
    one.origin, one.times = kept.origin, kept.times
    one.awaits_permission = kept.awaits_permission
    one.listeners = tuple(kept.listeners)
    if kept.stored:
        stored = [Stored(entry.name, entry.descriptor, entry.polled) for entry in kept.stored]
        one.store = FdStore(one.definition.service.stored_descriptors, stored)
    if kept.pid:
        run = one.run = Run(Running(kept.pid, kept.pidfd))
        run.notify, run.ready_pipe = kept.notify, kept.ready_pipe
