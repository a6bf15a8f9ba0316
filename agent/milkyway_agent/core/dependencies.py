"""Which services need which: the order of starting and stopping, what holds one back, what new definitions change.

There are five relations, by the names of the services: ``requires`` (must be there, or this service
does not run), ``wants`` (is tried first; its failure holds nothing back), ``after`` and ``before``
(order alone; they start nothing), ``conflicts`` (never both at once, whichever of the two says so).
The first two order as well. What a bundle requires and wants are its parts.

``Graph`` is made once per change of definitions. It answers without looking at all services: the cost
of a question about one service grows with the number of its neighbours.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Literal, NamedTuple

from milkyway_agent.core.restart import is_triggered
from milkyway_agent.core.service_state import Row, has_process, satisfies
from milkyway_formats.errors import RefusedError
from milkyway_formats.service import Service


class Needs(NamedTuple):
    """What one service needs of others."""

    requires: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()


def needs_of(service: Service, prefix: str = "") -> Needs:
    """Return what *service* needs, by full names: *prefix* and the name in its definition."""
    return Needs(
        requires=tuple(prefix + name for name in service.requires),
        wants=tuple(prefix + name for name in service.wants),
        after=tuple(prefix + name for name in service.after),
        before=tuple(prefix + name for name in service.before),
        conflicts=tuple(prefix + name for name in service.conflicts),
    )


class Obstacle(NamedTuple):
    """A service that keeps another from starting; *row*: None if it does not exist."""

    relation: Literal["requires", "comes after", "conflicts with"]
    other: str
    row: Row | None

    def describe(self) -> str:
        """Return it for people."""
        return f"{self.relation} {self.other}, which is {self.row.label if self.row else 'not there'}"


class CycleError(RefusedError):
    """Services wait for one another in a ring, all of which the message names."""


# A service in one of these is on its way, and will come up or fail.
_UNSETTLED = frozenset({Row.WAITING, Row.STARTING, Row.RESTARTING, Row.FALTERING})

# A service in one of these is not on its way up.
_GIVEN_UP = frozenset({Row.IDLE, Row.FAILED})
_Edges = dict[str, dict[str, None]]


class Graph:
    """What follows from the needs of one set of services, which does not change.

    Services that are needed but do not exist are left out, except by ``obstacles``, ``holding_back`` and ``required_by``.
    """

    def __init__(self, needs: Mapping[str, Needs]) -> None:
        self._needs = needs
        earlier: _Edges = {}
        later: _Edges = {}
        required_by: _Edges = {}
        wanted_by: _Edges = {}
        conflicting: _Edges = {}

        def order(first: str, second: str) -> None:
            if first in needs and second in needs:
                earlier.setdefault(second, {})[first] = None
                later.setdefault(first, {})[second] = None

        for name, need in needs.items():
            for other in need.requires:
                required_by.setdefault(other, {})[name] = None
            for other in need.wants:
                wanted_by.setdefault(other, {})[name] = None
            for other in (*need.requires, *need.wants, *need.after):
                order(other, name)
            for other in need.before:
                order(name, other)
            for other in need.conflicts:
                if other in needs:
                    conflicting.setdefault(name, {})[other] = None
                    conflicting.setdefault(other, {})[name] = None
        self._earlier, self._later = _kept(earlier), _kept(later)
        self._required_by, self._wanted_by = _kept(required_by), _kept(wanted_by)
        self._conflicting = _kept(conflicting)
        self._waves: list[tuple[str, ...]] | None = None

    def predecessors(self, name: str) -> tuple[str, ...]:
        """Return the existing services that come before *name*."""
        return self._earlier.get(name, ())

    def concerned(self, name: str) -> tuple[str, ...]:
        """Return the services that a change of *name*'s row may hold back or let go; it concerns no others."""
        later, conflicting = self._later.get(name, ()), self._conflicting.get(name, ())
        return tuple(dict.fromkeys((*later, *conflicting))) if conflicting else later

    def required_by(self, name: str) -> tuple[str, ...]:
        """Return the services that require *name* directly: for them its loss is DEPENDENCY_LOST (for a bundle: PART_LOST)."""
        return self._required_by.get(name, ())

    def wanted_by(self, name: str) -> tuple[str, ...]:
        """Return the services that want *name* directly: for a bundle among them its loss is PART_LOST."""
        return self._wanted_by.get(name, ())

    def conflicting(self, name: str) -> tuple[str, ...]:
        """Return the services that must not run while *name* does, whichever of the two says so: starting it stops them."""
        return self._conflicting.get(name, ())

    def parts(self, name: str) -> tuple[str, ...]:
        """Return the existing parts of the bundle *name*."""
        need = self._needs[name]
        return tuple(dict.fromkeys(other for other in (*need.requires, *need.wants) if other in self._needs))

    def waves(self) -> list[tuple[str, ...]]:
        """Return the services in starting order; those of one wave don't wait for one another.

        Raises CycleError, with the whole ring in its message.
        """
        if self._waves is None:
            self._waves = self._sorted()
        return self._waves

    def stopping(self) -> TopologicalSorter[str]:
        """Return the order of stopping: a service is ready to be stopped when all that come after it are done."""
        order = TopologicalSorter({name: self._later.get(name, ()) for name in self._needs})
        order.prepare()
        return order

    def check(self) -> None:
        """Raise RefusedError if a service could never start: in a ring, or in conflict with what it requires."""
        self.waves()
        for name in self._conflicting:
            if name in self._conflicting[name]:
                raise RefusedError(f"cannot start {name}: it conflicts with itself")
            needed = self._closure([name], lambda other: self._needs[other].requires)
            for other in self._conflicting[name]:
                if other in needed:
                    raise RefusedError(f"cannot start {name}: it requires {other}, with which it conflicts")

    def pulled_in(self, *names: str) -> tuple[str, ...]:
        """Return *names* and all that must be started for them, each after what it requires and wants."""
        found: dict[str, None] = {}
        entered: set[str] = set()
        for name in names:
            # Without recursion: a chain may be longer than Python's stack is deep.
            path: list[tuple[str, Iterator[str]]] = []
            self._descend(name, entered, path)
            while path:
                last, needed = path[-1]
                following = next(needed, None)
                if following is not None:
                    self._descend(following, entered, path)
                else:
                    found[last] = None
                    path.pop()
        return tuple(found)

    def dependents(self, name: str) -> tuple[str, ...]:
        """Return the services that require *name*, directly or through others."""
        found = self._closure([name], lambda other: self._required_by.get(other, ()))
        found.pop(name, None)
        return tuple(found)

    def isolated(self, name: str) -> tuple[str, ...]:
        """Return all services except *name* and what it needs, in stopping order."""
        kept = set(self.pulled_in(name))
        return tuple(other for wave in reversed(self.waves()) for other in reversed(wave) if other not in kept)

    def obstacles(self, name: str, rows: Mapping[str, Row]) -> list[Obstacle]:
        """Return what keeps *name* from starting now; nothing if it may start."""
        found = []
        requires = self._needs[name].requires
        for other in requires:
            row = rows.get(other)
            if row is None or not satisfies(row):
                found.append(Obstacle("requires", other, row))
        for other in self._earlier.get(name, ()):
            if other not in requires and rows.get(other) in _UNSETTLED and not self.is_stuck(other, rows):
                found.append(Obstacle("comes after", other, rows[other]))
        for other in self._conflicting.get(name, ()):
            row = rows.get(other)
            # A waiting service does not hold back: two that conflict would wait for each other for ever.
            if row is not None and (has_process(row) or satisfies(row)):
                found.append(Obstacle("conflicts with", other, row))
        return found

    def holding_back(self, name: str, rows: Mapping[str, Row]) -> list[str]:
        """Return why *name* may not start now, for people; nothing if it may."""
        return [obstacle.describe() for obstacle in self.obstacles(name, rows)]

    def is_stuck(self, name: str, rows: Mapping[str, Row]) -> bool:
        """Tell whether *name* waits for what is not on its way up: services that merely come after it would wait for ever."""
        seen: set[str] = set()
        queue = [name]
        while queue:
            waiting = queue.pop()
            if waiting in seen or rows.get(waiting) is not Row.WAITING or waiting not in self._needs:
                continue
            seen.add(waiting)
            for required in self._needs[waiting].requires:
                row = rows.get(required)
                if row is None or row in _GIVEN_UP:
                    return True
                queue.append(required)
        return False

    def _descend(self, name: str, entered: set[str], path: list[tuple[str, Iterator[str]]]) -> None:
        if name in self._needs and name not in entered:
            entered.add(name)
            need = self._needs[name]
            path.append((name, iter((*need.requires, *need.wants))))

    def _closure(self, names: Iterable[str], following: Callable[[str], Iterable[str]]) -> dict[str, None]:
        """Return *names* and all that is reached from them, nearest first."""
        found: dict[str, None] = dict.fromkeys(names)
        queue = list(found)
        for reached in queue:  # it grows meanwhile
            for other in following(reached):
                if other in self._needs and other not in found:
                    found[other] = None
                    queue.append(other)
        return found

    def _sorted(self) -> list[tuple[str, ...]]:
        """Return the waves: each holds the services whose predecessors are all in earlier waves, in the order of definition."""
        place = {name: number for number, name in enumerate(self._needs)}
        missing = {name: len(self._earlier.get(name, ())) for name in self._needs}
        wave = [name for name, count in missing.items() if not count]
        found: list[tuple[str, ...]] = []
        while wave:
            found.append(tuple(wave))
            following = []
            for name in wave:
                del missing[name]
                for other in self._later.get(name, ()):
                    missing[other] -= 1
                    if not missing[other]:
                        following.append(other)
            wave = sorted(following, key=place.__getitem__)
        if missing:
            ring = _ring({name: self._earlier[name] for name in missing})
            raise CycleError(f"cannot order services: they wait for one another: {' → '.join(ring)}")
        return found


class Changes(NamedTuple):
    """How one set of definitions differs from another: names, each in the order of the set that has it.

    ``restarted``: their processes were made with something that has changed. Where only the supervisor uses what changed, it
    adopts the new definition (and begins health checks and timers anew); such a service is in none of these.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()


# What a process does not depend on. Deliberately not among these: watchdog_ms and readiness (the process was told in its
# environment, sd_watchdog_enabled(3), and would be judged by what it was never told), limits (written when the control
# group is made), listeners (their descriptors were handed over).
_NOT_OF_THE_PROCESS = frozenset(
    {
        *("restart", "health", "pressure", "stop", "reload", "ready_timeout_ms", "timers", "conditions"),
        *("requires", "wants", "after", "before", "conflicts"),
    }
)


def changed(old: Mapping[str, Service], new: Mapping[str, Service]) -> Changes:
    """Return what must be done for *new* to be supervised instead of *old*."""
    restarted: list[str] = []
    for name, service in new.items():
        was = old.get(name)
        if was is None or was == service:
            continue
        fields = {field for field in Service.__struct_fields__ if getattr(was, field) != getattr(service, field)}
        # A service that has no trigger any more would stay armed for ever, and the other way round.
        is_other = is_triggered(was) != is_triggered(service)
        if is_other or not fields <= _NOT_OF_THE_PROCESS:
            restarted.append(name)
    return Changes(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        restarted=tuple(restarted),
    )


def _kept(edges: _Edges) -> dict[str, tuple[str, ...]]:
    return {name: tuple(others) for name, others in edges.items()}


def _ring(left: Mapping[str, Iterable[str]]) -> list[str]:
    """Return one ring among *left*, each of which waits for another of them; its first name comes last again."""
    path = [next(iter(left))]
    while True:
        following = next(other for other in left[path[-1]] if other in left)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)
