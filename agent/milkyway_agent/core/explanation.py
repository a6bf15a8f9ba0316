"""Why a service is in the state that it is in: as a tree of all, and as a chain of reasons for one. From plain values.

Two questions, kept apart: who wanted it, or wanted it no more (its ``Origin``), and what it waits for now (its
obstacles, as ``dependencies`` finds them, each with what that one waits for in turn). What was seen of each service
(``Seen``) is ``api.view``'s to gather; how people read the answer is ``mwctl.views``'.
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
    """Why somebody wants a service, or does not: *who* is a person or the boot, or (not for asked and stopped) a service.

    displaced: *who* was started, with which it conflicts. isolated: *who* failed and asks for that.
    """

    kind: OriginKind = ""
    who: str = ""


class Seen(NamedTuple):
    """What was seen of one service at one moment. ``cause``: of its last change. ``trigger``: what it waits for while armed."""

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
    """One link of a chain: at *depth* 1 *relation* is the asked service's to *service*, at depth 2 that one's, and so on."""

    depth: int
    relation: str
    service: str
    row: str
    since_ms: int
    why: str


class Asker(msgspec.Struct, frozen=True):
    """Who wants *service*: *who*, which is a service itself where *kind* is ``pulled-in``."""

    service: str
    kind: OriginKind
    who: str


class Why(msgspec.Struct, frozen=True):
    """Why one service is in its state. ``because``: what it waits for, and what that waits for, depth first.

    ``wanted_by``: the chain from it to whoever asked. ``needed_by``: who requires or wants it. ``holds_back``: who
    waits for it.
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

    *pulled_in*: those that *names* need up, themselves included, each after its *parts*: what it requires and wants.
    """
    found = {name: Origin("asked", by) for name in names}
    for name in reversed(list(pulled_in)):
        for part in parts(name):
            if part not in found:
                found[part] = Origin("pulled-in", name)
    return found


def tree(seen: Mapping[str, Seen], graph: Graph, rows: Mapping[str, Row], now_ms: int) -> Tree:
    """Return all services with what they need and why they are where they are. *rows*: as they count for others."""
    needed = {part for name in seen for part in graph.parts(name)}
    services = [
        TreeService(
            name=name,
            type=one.kind,
            state=one.row.current,
            row=one.row.label,
            wanted=one.row.wanted,
            since_ms=one.since_ms,
            pid=one.pid,
            restarts=one.restarts,
            why=brief(one, _obstacles(name, one, graph, rows)),
            wanted_by=asked_for(one.origin) if one.row.wanted else "",
            requires=list(one.requires),
            wants=list(one.wants),
        )
        for name, one in seen.items()
    ]
    return Tree(now_ms, [name for name in seen if name not in needed], services)


def why(name: str, seen: Mapping[str, Seen], graph: Graph, rows: Mapping[str, Row], now_ms: int) -> Why:
    """Return the chain of reasons of *name*, which must be there."""
    one = seen[name]
    return Why(
        service=name,
        state=one.row.current,
        row=one.row.label,
        wanted=one.row.wanted,
        since_ms=one.since_ms,
        uptime_ms=now_ms,
        pid=one.pid,
        restarts=one.restarts,
        why=brief(one, _obstacles(name, one, graph, rows)),
        because=_because(name, seen, graph, rows),
        wanted_by=_askers(name, seen),
        needed_by=list(dict.fromkeys((*graph.required_by(name), *graph.wanted_by(name)))),
        holds_back=[
            other
            for other in graph.concerned(name)
            if other in seen and any(each.other == name for each in _obstacles(other, seen[other], graph, rows))
        ],
    )


def brief(one: Seen, obstacles: list[Obstacle]) -> str:
    """Return in one sentence why a service is where it is; *obstacles*: what keeps it from starting."""
    match one.row:
        case Row.STARTED:
            return asked_for(one.origin)
        case Row.COMPLETED:
            return f"{'its parts are up' if one.kind == 'bundle' else 'it did its work'}; {asked_for(one.origin)}"
        case Row.ARMED:
            return f"waits for {one.trigger or 'its trigger'}"
        case Row.STARTING:
            return f"waits until it {one.readiness or 'is ready'}"
        case Row.WAITING | Row.RESTARTING if obstacles:
            shown = [f"{each.relation} {each.other}, which {stands(each.row)}" for each in obstacles[:OBSTACLES_SHOWN]]
            more = len(obstacles) - len(shown)
            return "; ".join([*shown, *([f"and {more} more"] if more else [])])
        case Row.WAITING:
            if one.awaits_permission:
                return "is about to start"
            return f"{one.reason or 'it ended'}; tries again after {one.delay_ms / 1000:g} s"
        case Row.RESTARTING:
            return "a restart was asked for" if one.cause is Event.RESTART_ASKED else "it is started again once it has stopped"
        case Row.FALTERING:
            return one.reason or "it is unwell"
        case Row.FAILED:
            return one.reason or "no reason given"
        case Row.STOPPING | Row.IDLE:
            return _not_wanted(one)


def stands(row: Row | None) -> str:
    """Return where a service is, as what follows "which"; None: there is none."""
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
    """Return for people who wants a service."""
    if origin.kind == "pulled-in":
        return f"pulled in by {origin.who}"
    return f"asked for by {origin.who}" if origin.kind == "asked" and origin.who else "asked for"


def _not_wanted(one: Seen) -> str:
    """Return why a service is stopped, or being stopped."""
    if one.reason:
        return one.reason
    match one.origin.kind:
        case "displaced":
            return f"conflicts with {one.origin.who}, which was started"
        case "isolated":
            return f"{one.origin.who} failed, and only what it needs was to go on"
        case "stopped":
            return f"stopped by {one.origin.who}" if one.origin.who else "it was stopped"
        case "":
            return "nobody has asked for it"
        case "asked" | "pulled-in":
            return "it ended, and is not to run again" if one.cause is Event.FINISHED else "it was stopped"


def _obstacles(name: str, one: Seen, graph: Graph, rows: Mapping[str, Row]) -> list[Obstacle]:
    """Return what *name* waits for: nothing unless it is waiting for others, or being stopped as something was lost."""
    if one.row is Row.WAITING and one.awaits_permission:
        return graph.obstacles(name, rows)
    if one.row is Row.RESTARTING and one.cause is Event.DEPENDENCY_LOST:
        return [each for each in graph.obstacles(name, rows) if each.relation == "requires"]
    return []


def _because(name: str, seen: Mapping[str, Seen], graph: Graph, rows: Mapping[str, Row]) -> list[Reason]:
    found: list[Reason] = []
    entered = {name}
    # Not by recursion: a chain may be longer than Python's stack is deep.
    left = [(1, each) for each in reversed(_obstacles(name, seen[name], graph, rows))]
    while left and len(found) < LONGEST_CHAIN:
        depth, each = left.pop()
        one = seen.get(each.other)
        if one is None:
            found.append(Reason(depth, each.relation, each.other, "", 0, "there is no such service"))
            continue
        further = _obstacles(each.other, one, graph, rows)
        reason = "as above" if each.other in entered else brief(one, further)
        found.append(Reason(depth, each.relation, each.other, one.row.label, one.since_ms, reason))
        if each.other not in entered:
            entered.add(each.other)
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
