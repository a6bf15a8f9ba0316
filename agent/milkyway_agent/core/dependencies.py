"""Who needs whom: in which order services start and stop, and what holds one back.

Four relations, by the names of the services: ``requires`` (must be started, or this one does
not run), ``wants`` (is tried first; its failure holds nobody back), ``after`` and ``before``
(order alone: they pull nobody in). The first two order as well.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from milkyway_agent.core.service_state import Row
from milkyway_formats.errors import RefusedError


class Needs(NamedTuple):
    """What one service needs of others."""

    requires: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


class CycleError(RefusedError):
    """Services wait for one another in a ring; the message names all of it."""


# Somebody may still wait for a service in one of these to come up or to fail.
_UNSETTLED = frozenset({Row.WAITING, Row.STARTING, Row.RESTARTING, Row.FALTERING})


def predecessors(needs: Mapping[str, Needs]) -> dict[str, tuple[str, ...]]:
    """Return for each service those that come before it, of the ones that are there."""
    earlier: dict[str, list[str]] = {name: [] for name in needs}
    for name, need in needs.items():
        for other in (*need.requires, *need.wants, *need.after):
            if other in needs:
                earlier[name].append(other)
        for other in need.before:
            if other in needs:
                earlier[other].append(name)
    return {name: tuple(dict.fromkeys(others)) for name, others in earlier.items()}


def waves(needs: Mapping[str, Needs]) -> list[tuple[str, ...]]:
    """Return the services in the order of starting; those of one wave don't wait for one another.

    Raises CycleError, with the whole ring in its message.
    """
    left = predecessors(needs)
    found: list[tuple[str, ...]] = []
    while left:
        wave = tuple(name for name, earlier in left.items() if not any(other in left for other in earlier))
        if not wave:
            ring = _ring(left)
            raise CycleError(f"cannot order services: they wait for one another: {' → '.join(ring)}")
        found.append(wave)
        for name in wave:
            del left[name]
    return found


def pulled_in(name: str, needs: Mapping[str, Needs]) -> tuple[str, ...]:
    """Return the services that *name* needs up, itself last: those it requires and wants, and what these need."""
    found: dict[str, None] = {}

    def visit(one: str, path: tuple[str, ...]) -> None:
        if one in found or one in path or one not in needs:
            return
        for other in (*needs[one].requires, *needs[one].wants):
            visit(other, (*path, one))
        found[one] = None

    visit(name, ())
    return tuple(found)


def dependents(name: str, needs: Mapping[str, Needs]) -> tuple[str, ...]:
    """Return the services that can't run without *name*, directly or through others."""
    found: dict[str, None] = {}
    queue = [name]
    while queue:
        lost = queue.pop()
        for other, need in needs.items():
            if lost in need.requires and other not in found and other != name:
                found[other] = None
                queue.append(other)
    return tuple(found)


def holding_back(name: str, needs: Mapping[str, Needs], rows: Mapping[str, Row]) -> list[str]:
    """Return why *name* may not start now, as sentences; none: it may."""
    reasons = []
    for other in needs[name].requires:
        row = rows.get(other)
        if row is None:
            reasons.append(f"requires {other}, which is not there")
        elif row not in {Row.STARTED, Row.COMPLETED}:
            reasons.append(f"requires {other}, which is {row.label}")
    for other in predecessors(needs)[name]:
        if other not in needs[name].requires and rows.get(other) in _UNSETTLED:
            reasons.append(f"comes after {other}, which is {rows[other].label}")
    return reasons


def _ring(left: Mapping[str, Iterable[str]]) -> list[str]:
    """Return one ring among *left*, in which everybody waits for somebody who is left; its first name also last."""
    path = [next(iter(left))]
    while True:
        following = next(other for other in left[path[-1]] if other in left)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)
