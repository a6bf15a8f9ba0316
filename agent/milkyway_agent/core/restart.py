"""Whether and when a service that ended by itself runs again: arithmetic over when it was started.

Times are milliseconds of any clock that never goes back. A run that lasted a whole start
interval ends a row of failures; within one interval, no more than ``start_limit`` starts.
"""

from typing import NamedTuple

from milkyway_agent.core.service_state import Event
from milkyway_formats.service import Restart, Service


class Starts(NamedTuple):
    """The starts of one service that still count, newest last, and how many failed in a row."""

    at: tuple[int, ...] = ()
    failures: int = 0


class Verdict(NamedTuple):
    """What becomes of it, as an event for ``service_state``; after which delay; and why, for people."""

    event: Event
    delay_ms: int
    reason: str
    starts: Starts


def started(starts: Starts, now: int, policy: Restart) -> Starts:
    """Return *starts* with one more at *now*, and those forgotten that no limit can count any more."""
    return Starts((*(at for at in starts.at if at > now - policy.start_interval_ms), now), starts.failures)


def delay_ms(policy: Restart, failures: int) -> int:
    """Return how long to wait after so many failures in a row: doubling from ``delay_ms`` to ``delay_limit_ms``."""
    doublings = min(max(failures - 1, 0), 32)
    return min(policy.delay_ms << doublings, policy.delay_limit_ms)


def judge(service: Service, code: int | None, starts: Starts, now: int) -> Verdict:
    """Say what becomes of *service*, which ended by itself at *now*.

    *code*: its exit status, minus the signal that killed it, or None where it did not even start or was late.
    """
    policy = service.restart
    reason = describe_end(code)
    if code == 0 and service.type == "oneshot":
        return Verdict(Event.COMPLETED, 0, reason, Starts())
    if policy.when == "on-failure" and code == 0:
        return Verdict(Event.FINISHED, 0, reason, Starts())
    if policy.when == "never":
        return Verdict(Event.FINISHED if code == 0 else Event.GAVE_UP, 0, reason, Starts())
    lasted = bool(starts.at) and now - starts.at[-1] >= policy.start_interval_ms
    failures = 1 if lasted else starts.failures + 1
    counted = [at for at in starts.at if at > now - policy.start_interval_ms]
    if len(counted) >= policy.start_limit:
        seconds = policy.start_interval_ms / 1000
        return Verdict(Event.GAVE_UP, 0, f"{reason}; given up after {len(counted)} starts within {seconds:g} s", starts)
    return Verdict(Event.RETRIED, delay_ms(policy, failures), reason, Starts(starts.at, failures))


def describe_end(code: int | None) -> str:
    """Return how a process ended, as people read it."""
    if code is None:
        return "did not start"
    return f"ended with status {code}" if code >= 0 else f"was killed by signal {-code}"
