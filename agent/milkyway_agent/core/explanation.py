"""Why services are in the states that they are in: a tree of all, and a chain of reasons for one. From plain values.

Two questions are kept apart: who started or stopped it last (its ``Origin``), and what it waits for now (its obstacles, as
``dependencies`` finds them, and what those wait for in turn). ``api.view`` gathers what is known of each service
(``Seen``); ``mwctl.views`` shows the answers to people.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from milkyway_agent.core.dependencies import Graph, Obstacle
from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.core.start_times import Times
from milkyway_formats.report import ServiceState

LONGEST_CHAIN = 100
OBSTACLES_SHOWN = 2  # in one sentence; ``Why.because`` has all
OriginKind = Literal["", "asked", "pulled-in", "stopped", "displaced", "isolated"]


class Origin(NamedTuple):
    """Why a service is wanted, or is not. *who*: a person or the boot if it was asked for or stopped, else another service.

    displaced: it conflicts with *who*, which was started. isolated: *who* failed, and that stops all that it does not need.
    """

    kind: OriginKind = ""
    who: str = ""


class Seen(NamedTuple):
    """What is known of one service at one moment. ``cause``: of its last change. ``trigger``: what it waits for while armed."""

    row: Row = Row.IDLE
    since_ms: int = 0
    kind: str = "longrun"
    pid: int = 0
    restarts: int = 0
    reason: str = ""
    cause: Event | None = None
    origin: Origin = Origin()
    times: Times = Times()
    awaits_permission: bool = False
    delay_ms: int = 0
    trigger: str = ""
    readiness: str = ""
    requires: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()


class TreeService(msgspec.Struct, frozen=True):
    """One service of the tree. ``row`` is finer than ``state``; ``why`` and ``wanted_by`` are for people."""

    name: str
    type: str
    state: ServiceState
    row: str
    wanted: bool
    since_ms: int
    pid: int
    restarts: int
    why: str
    wanted_by: str
    requires: list[str]
    wants: list[str]


class Tree(msgspec.Struct, frozen=True):
    """All services, and which of them no other needs: the ``roots`` to begin with."""

    uptime_ms: int
    roots: list[str]
    services: list[TreeService]


class Reason(msgspec.Struct, frozen=True):
    """One link of a chain. *relation*: to *service*; of the explained service at *depth* 1, of the link above it at others."""

    depth: int
    relation: str
    service: str
    row: str
    since_ms: int
    why: str


class Asker(msgspec.Struct, frozen=True):
    """Who wants *service*. *who*: a service if *kind* is ``pulled-in``, else a person or the boot."""

    service: str
    kind: OriginKind
    who: str


class Why(msgspec.Struct, frozen=True):
    """Why one service is in its state. ``because``: what it waits for, and what that waits for, depth first.

    ``wanted_by``: the chain from it to the person who asked. ``needed_by``: services that require or want it.
    ``holds_back``: services that wait for it.
    """

    service: str
    state: ServiceState
    row: str
    wanted: bool
    since_ms: int
    uptime_ms: int
    pid: int
    restarts: int
    why: str
    because: list[Reason]
    wanted_by: list[Asker]
    needed_by: list[str]
    holds_back: list[str]


def origins(
    names: Iterable[str], pulled_in: Iterable[str], parts: Callable[[str], Iterable[str]], by: str
) -> dict[str, Origin]:
    """Return why each of *pulled_in* is wanted when *names* are asked for *by* somebody.

    *pulled_in*: all that must be started for *names*, themselves included, each after its *parts* (what it requires and
    wants).
    """
    found = {name: Origin("asked", by) for name in names}
    for name in reversed(list(pulled_in)):
        for part in parts(name):
            if part not in found:
                found[part] = Origin("pulled-in", name)
    return found


def tree(seen: Mapping[str, Seen], graph: Graph, rows: Mapping[str, Row], now_ms: int) -> Tree:
    """Return all services, with what they need and why they are in their states. *rows*: as other services see them."""
    needed = {part for name in seen for part in graph.parts(name)}
    services = [
        TreeService(
            name=name,
            type=service.kind,
            state=service.row.current,
            row=service.row.label,
            wanted=service.row.wanted,
            since_ms=service.since_ms,
            pid=service.pid,
            restarts=service.restarts,
            why=brief(service, _obstacles(name, service, graph, rows)),
            wanted_by=asked_for(service.origin) if service.row.wanted else "",
            requires=list(service.requires),
            wants=list(service.wants),
        )
        for name, service in seen.items()
    ]
    return Tree(now_ms, [name for name in seen if name not in needed], services)


def why(name: str, seen: Mapping[str, Seen], graph: Graph, rows: Mapping[str, Row], now_ms: int) -> Why:
    """Return the chain of reasons for the state of *name*, which must exist."""
    service = seen[name]
    return Why(
        service=name,
        state=service.row.current,
        row=service.row.label,
        wanted=service.row.wanted,
        since_ms=service.since_ms,
        uptime_ms=now_ms,
        pid=service.pid,
        restarts=service.restarts,
        why=brief(service, _obstacles(name, service, graph, rows)),
        because=_because(name, seen, graph, rows),
        wanted_by=_askers(name, seen),
        needed_by=list(dict.fromkeys((*graph.required_by(name), *graph.wanted_by(name)))),
        holds_back=[
            other
            for other in graph.concerned(name)
            if other in seen and any(obstacle.other == name for obstacle in _obstacles(other, seen[other], graph, rows))
        ],
    )


def brief(service: Seen, obstacles: list[Obstacle]) -> str:
    """Return in one sentence why a service is in its state; *obstacles*: what keeps it from starting."""
    match service.row:
        case Row.STARTED:
            return asked_for(service.origin)
        case Row.COMPLETED:
            return f"{'its parts are up' if service.kind == 'bundle' else 'it did its work'}; {asked_for(service.origin)}"
        case Row.ARMED:
            return f"waits for {service.trigger or 'its trigger'}"
        case Row.STARTING:
            return f"waits until it {service.readiness or 'is ready'}"
        case Row.WAITING | Row.RESTARTING if obstacles:
            shown = [f"{relation} {other}, which {state_clause(row)}" for relation, other, row in obstacles[:OBSTACLES_SHOWN]]
            more = len(obstacles) - len(shown)
            return "; ".join([*shown, *([f"and {more} more"] if more else [])])
        case Row.WAITING:
            if service.awaits_permission:
                return "is about to start"
            return f"{service.reason or 'it ended'}; tries again after {service.delay_ms / 1000:g} s"
        case Row.RESTARTING:
            return (
                "a restart was asked for" if service.cause is Event.RESTART_ASKED else "it is started again once it has stopped"
            )
        case Row.FALTERING:
            return service.reason or "it is unwell"
        case Row.FAILED:
            return service.reason or "no reason given"
        case Row.STOPPING | Row.IDLE:
            return _not_wanted(service)


def state_clause(row: Row | None) -> str:
    """Return the state of a service as a clause that follows "which"; None: there is no such service."""
    match row:
        case None:
            return "is not there"
        case Row.IDLE:
            return "is stopped"
        case Row.FAILED:
            return "has failed"
        case _:
            return f"is {row.label}"


def asked_for(origin: Origin) -> str:
    """Return who wants a service, for people."""
    if origin.kind == "pulled-in":
        return f"pulled in by {origin.who}"
    return f"asked for by {origin.who}" if origin.kind == "asked" and origin.who else "asked for"


def _not_wanted(service: Seen) -> str:
    """Return why a service is stopped, or being stopped."""
    if service.reason:
        return service.reason
    match service.origin.kind:
        case "displaced":
            return f"conflicts with {service.origin.who}, which was started"
        case "isolated":
            return f"{service.origin.who} failed, and only what it needs was to go on"
        case "stopped":
            return f"stopped by {service.origin.who}" if service.origin.who else "it was stopped"
        case "":
            return "nobody has asked for it"
        case "asked" | "pulled-in":
            return "it ended, and is not to run again" if service.cause is Event.FINISHED else "it was stopped"


def _obstacles(name: str, service: Seen, graph: Graph, rows: Mapping[str, Row]) -> list[Obstacle]:
    """Return what *name* waits for: nothing unless it waits for others, or is being stopped because it lost a requirement."""
    if service.row is Row.WAITING and service.awaits_permission:
        return graph.obstacles(name, rows)
    if service.row is Row.RESTARTING and service.cause is Event.DEPENDENCY_LOST:
        return [obstacle for obstacle in graph.obstacles(name, rows) if obstacle.relation == "requires"]
    return []


def _because(name: str, seen: Mapping[str, Seen], graph: Graph, rows: Mapping[str, Row]) -> list[Reason]:
    found: list[Reason] = []
    entered = {name}
    # Not by recursion: a chain may be longer than Python's stack is deep.
    left = [(1, obstacle) for obstacle in reversed(_obstacles(name, seen[name], graph, rows))]
    while left and len(found) < LONGEST_CHAIN:
        depth, obstacle = left.pop()
        service = seen.get(obstacle.other)
        if service is None:
            found.append(Reason(depth, obstacle.relation, obstacle.other, "", 0, "there is no such service"))
            continue
        further = _obstacles(obstacle.other, service, graph, rows)
        reason = "as above" if obstacle.other in entered else brief(service, further)
        found.append(Reason(depth, obstacle.relation, obstacle.other, service.row.label, service.since_ms, reason))
        if obstacle.other not in entered:
            entered.add(obstacle.other)
            left += [(depth + 1, more) for more in reversed(further)]
    return found


def _askers(name: str, seen: Mapping[str, Seen]) -> list[Asker]:
    found: list[Asker] = []
    entered: set[str] = set()
    while name in seen and name not in entered and seen[name].origin.kind:
        entered.add(name)
        origin = seen[name].origin
        found.append(Asker(name, origin.kind, origin.who))
        if origin.kind == "asked" or origin.kind == "stopped":
            break
        name = origin.who
    return found
