"""When services came up for the first time, and what the boot waited for: blame and critical path, from plain values.

A service is *wanted* (somebody asks for it), *permitted* (nothing holds it back any more), *started* (its process is
there), *ready*, and *settled*: ready, given up or stopped, whichever comes first, which is when nobody waits for it
any more. All times are milliseconds of CLOCK_BOOTTIME. A first start that is settled stays as it was, whatever the
service does later. What happened is ``supervisor``'s to say; nothing here reads a clock.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from milkyway_agent.core.service_state import Row, satisfies

# The boot is over once nothing was on its way for so long: what is asked for later is somebody's work, not the boot's.
QUIET_MS = 10_000


class Times(NamedTuple):
    """The first start of one service; 0: not yet, or never."""

    wanted_ms: int = 0
    permitted_ms: int = 0
    started_ms: int = 0
    ready_ms: int = 0
    settled_ms: int = 0

    def entered(self, row: Row, at_ms: int) -> "Times":
        """Return the times after the service went to *row*."""
        wanted, permitted, started, _, settled = self
        if settled:
            return self
        if row is Row.WAITING:
            return self if wanted else Times(at_ms)
        if not wanted:
            return self
        if satisfies(row):
            return Times(wanted, permitted or at_ms, started, at_ms, at_ms)
        if row is Row.STARTING:
            return self if permitted else Times(wanted, at_ms)
        if row in (Row.FAILED, Row.IDLE):
            return Times(wanted, permitted, started, 0, at_ms)
        return self

    def with_process(self, at_ms: int) -> "Times":
        """Return the times after the service's process came to be."""
        return self if self.started_ms or self.settled_ms else Times(self.wanted_ms, self.permitted_ms, at_ms)


class Took(msgspec.Struct, frozen=True):
    """How long one service's first start took: *waited_ms* for others, then *took_ms* by itself (so far, if not settled).

    ``outcome``: ready, failed (given up, stopped or skipped before it was ready), or underway. ``boot``: it is the boot's.
    """

    service: str
    outcome: str
    waited_ms: int
    took_ms: int
    wanted_ms: int
    permitted_ms: int
    started_ms: int
    ready_ms: int
    settled_ms: int
    boot: bool


class Blame(msgspec.Struct, frozen=True):
    """All first starts, the longest first. ``pid1.boot_steps``: when each phase of the boot was done.

    ``start_ms``: when it all began, from which people count: 0, the kernel's start, or (no machine's boot) the first wish.
    """

    uptime_ms: int
    start_ms: int
    services: list[Took]
    phases: dict[str, int]


class PathStep(msgspec.Struct, frozen=True):
    """One service on the critical path: permitted *after* the one before it (""), which was the last that it waited for."""

    service: str
    after: str
    outcome: str
    wanted_ms: int
    permitted_ms: int
    settled_ms: int
    took_ms: int


class CriticalPath(msgspec.Struct, frozen=True):
    """What *target* waited for, from the first to itself: a start that is quicker here makes *target* come earlier.

    ``start_ms``: as in ``Blame``.
    """

    target: str
    uptime_ms: int
    start_ms: int
    steps: list[PathStep]


def of_boot(times: Mapping[str, Times]) -> set[str]:
    """Return the services that were started by the boot: all, up to the first QUIET_MS in which nothing was on its way."""
    found: set[str] = set()
    end = 0.0
    for name, one in sorted(times.items(), key=lambda item: item[1].wanted_ms):
        if not one.wanted_ms:
            continue
        if found and one.wanted_ms > end + QUIET_MS:
            break
        found.add(name)
        end = max(end, one.settled_ms or float("inf"))
    return found


def blame(times: Mapping[str, Times], phases: Mapping[str, int], now_ms: int) -> Blame:
    """Return how long each service that was ever wanted took to come up, the longest first."""
    boot = of_boot(times)
    found = [
        Took(name, _outcome(one), _waited(one, now_ms), _took(one, now_ms), *one, name in boot)
        for name, one in times.items()
        if one.wanted_ms
    ]
    found.sort(key=lambda one: (-one.took_ms, -one.waited_ms, one.service))
    return Blame(now_ms, start_of(times, phases), found, dict(phases))


def start_of(times: Mapping[str, Times], phases: Mapping[str, int]) -> int:
    """Return when it all began: the kernel's start where there is a boot with *phases*, else the first wish."""
    return 0 if phases else min((one.wanted_ms for one in times.values() if one.wanted_ms), default=0)


def last_of_boot(times: Mapping[str, Times]) -> str:
    """Return the service of the boot that was ready last, "" where none is."""
    ready = [name for name in of_boot(times) if times[name].ready_ms]
    return max(ready, key=lambda name: (times[name].ready_ms, name), default="")


def critical_path(
    target: str, times: Mapping[str, Times], predecessors: Callable[[str], Iterable[str]], start_ms: int, now_ms: int
) -> CriticalPath:
    """Return the chain of services that *target* waited for, each the last that its successor waited for.

    *predecessors*: those that come before a service. One that was settled before its successor was even wanted held
    nothing up; there the path begins.
    """
    steps: list[PathStep] = []
    name: str = target
    entered: set[str] = set()
    while name and name not in entered:
        entered.add(name)
        one = times[name]
        last = _last_before(one, name, times, predecessors)
        steps.append(PathStep(name, last, _outcome(one), one.wanted_ms, one.permitted_ms, one.settled_ms, _took(one, now_ms)))
        name = last
    return CriticalPath(target, now_ms, start_ms, steps[::-1])


def _last_before(one: Times, name: str, times: Mapping[str, Times], predecessors: Callable[[str], Iterable[str]]) -> str:
    """Return which of the *predecessors* of *name* it waited for longest, "" for none."""
    found, latest = "", one.wanted_ms
    for other in predecessors(name):
        before = times.get(other)
        if before is None or not before.wanted_ms:
            continue
        until = before.settled_ms or float("inf")
        # Permission comes with the settling that it waited for; what was settled later held nothing up.
        if until > latest and (not one.permitted_ms or until <= one.permitted_ms):
            found, latest = other, until  # type: ignore[assignment]  # infinity is later than any time
    return found


def _outcome(one: Times) -> str:
    return "ready" if one.ready_ms else "failed" if one.settled_ms else "underway"


def _waited(one: Times, now_ms: int) -> int:
    return (one.permitted_ms or one.settled_ms or now_ms) - one.wanted_ms


def _took(one: Times, now_ms: int) -> int:
    return (one.settled_ms or now_ms) - one.permitted_ms if one.permitted_ms else 0
