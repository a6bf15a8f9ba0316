"""When services came up for the first time, and what the boot waited for: blame and critical path, from plain values.

A service is *wanted* (it was asked for), *permitted* (nothing holds it back any more), *started* (it has a process),
*ready*, and *settled*: ready, given up or stopped, whichever comes first; then nothing waits for it any more. All times
are milliseconds of CLOCK_BOOTTIME. A first start that is settled does not change any more, whatever the service does
later. ``supervisor`` reports what happens; nothing here reads a clock.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from milkyway_agent.core.service_state import Row, satisfies

# The boot is over once no service was on its way up for so long: what is asked for later is not part of it.
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
        """Return the times after the service's process was started."""
        return self if self.started_ms or self.settled_ms else Times(self.wanted_ms, self.permitted_ms, at_ms)


class Took(msgspec.Struct, frozen=True):
    """How long one service's first start took: *waited_ms* for others, then *took_ms* by itself (so far, if not settled).

    ``outcome``: ready, failed (given up, stopped or skipped before it was ready), or underway. ``boot``: it is part of the
    boot.
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

    ``start_ms``: the beginning, from which times are shown to people: 0, the kernel's start; without a boot, when the first
    service was wanted.
    """

    uptime_ms: int
    start_ms: int
    services: list[Took]
    phases: dict[str, int]


class PathStep(msgspec.Struct, frozen=True):
    """One service on the critical path. *after*: the last that it waited for, which is the one before it; "": none."""

    service: str
    after: str
    outcome: str
    wanted_ms: int
    permitted_ms: int
    settled_ms: int
    took_ms: int


class CriticalPath(msgspec.Struct, frozen=True):
    """What *target* waited for, from the first to itself: if any of these starts were quicker, *target* would be ready earlier.

    ``start_ms``: as in ``Blame``.
    """

    target: str
    uptime_ms: int
    start_ms: int
    steps: list[PathStep]


def of_boot(times: Mapping[str, Times]) -> set[str]:
    """Return the services that the boot started: all, up to the first QUIET_MS in which none was on its way up."""
    found: set[str] = set()
    end = 0.0
    for name, start in sorted(times.items(), key=lambda item: item[1].wanted_ms):
        if not start.wanted_ms:
            continue
        if found and start.wanted_ms > end + QUIET_MS:
            break
        found.add(name)
        end = max(end, start.settled_ms or float("inf"))
    return found


def blame(times: Mapping[str, Times], phases: Mapping[str, int], now_ms: int) -> Blame:
    """Return how long each service that was ever wanted took to come up, the longest first."""
    boot = of_boot(times)
    found = [
        Took(name, _outcome(start), _waited(start, now_ms), _took(start, now_ms), *start, name in boot)
        for name, start in times.items()
        if start.wanted_ms
    ]
    found.sort(key=lambda took: (-took.took_ms, -took.waited_ms, took.service))
    return Blame(now_ms, start_of(times, phases), found, dict(phases))


def start_of(times: Mapping[str, Times], phases: Mapping[str, int]) -> int:
    """Return when it all began: 0, the kernel's start, if there was a boot with *phases*, else when the first was wanted."""
    return 0 if phases else min((start.wanted_ms for start in times.values() if start.wanted_ms), default=0)


def last_of_boot(times: Mapping[str, Times]) -> str:
    """Return the service of the boot that was ready last, "" where none is."""
    ready = [name for name in of_boot(times) if times[name].ready_ms]
    return max(ready, key=lambda name: (times[name].ready_ms, name), default="")


def critical_path(
    target: str, times: Mapping[str, Times], predecessors: Callable[[str], Iterable[str]], start_ms: int, now_ms: int
) -> CriticalPath:
    """Return the chain of services that *target* waited for, each the last that its successor waited for.

    *predecessors*: the services that come before a service. One that was settled before its successor was even wanted held
    nothing up; the path begins after it.
    """
    steps: list[PathStep] = []
    name: str = target
    entered: set[str] = set()
    while name and name not in entered:
        entered.add(name)
        start = times[name]
        last = _last_before(start, name, times, predecessors)
        at = start.wanted_ms, start.permitted_ms, start.settled_ms
        steps.append(PathStep(name, last, _outcome(start), *at, _took(start, now_ms)))
        name = last
    return CriticalPath(target, now_ms, start_ms, steps[::-1])


def _last_before(start: Times, name: str, times: Mapping[str, Times], predecessors: Callable[[str], Iterable[str]]) -> str:
    """Return which of the *predecessors* of *name* it waited for longest, "" for none."""
    found, latest = "", start.wanted_ms
    for other in predecessors(name):
        before = times.get(other)
        if before is None or not before.wanted_ms:
            continue
        until = before.settled_ms or float("inf")
        # A service is permitted as soon as the last that it waits for is settled; what was settled later held nothing up.
        if until > latest and (not start.permitted_ms or until <= start.permitted_ms):
            found, latest = other, until  # type: ignore[assignment]  # infinity is later than any time
    return found


def _outcome(start: Times) -> str:
    return "ready" if start.ready_ms else "failed" if start.settled_ms else "underway"


def _waited(start: Times, now_ms: int) -> int:
    return (start.permitted_ms or start.settled_ms or now_ms) - start.wanted_ms


def _took(start: Times, now_ms: int) -> int:
    return (start.settled_ms or now_ms) - start.permitted_ms if start.permitted_ms else 0
