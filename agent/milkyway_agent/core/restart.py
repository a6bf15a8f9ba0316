"""Whether and when a service that ended by itself runs again: arithmetic over when it was started.

Times are milliseconds of any clock that never goes back; *chance* is a number from 0 to 1 that the
caller draws. A run that lasted a whole start interval resets the count of failures; within one
interval there are at most ``start_limit`` starts.

A service with a trigger (a listener that starts it on demand, or a timer) waits for its next trigger
where another service would be finished. The start limit applies to it differently. A service with
timers only is paced by them and tries again at its next time, however the last run ended. A service
with a listener would be started again at once by the client that is still waiting: at the limit it
gives up if it failed, and otherwise waits for the interval to pass.
"""

from typing import NamedTuple

from milkyway_agent.core.service_state import Event
from milkyway_formats.service import Restart, Service

# signal(7): these numbers are those of x86 and ARM; real-time signals begin at 34, as glibc and musl have it.
_SIGNALS = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM"),
    *("STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO"),
    *("PWR", "SYS"),
)
_SIGRTMIN, _SIGRTMAX = 34, 64


class Starts(NamedTuple):
    """The starts of one service that still count, newest last, and how many failed in a row."""

    at: tuple[int, ...] = ()
    failures: int = 0


class Verdict(NamedTuple):
    """What follows the end of a process: an event for ``service_state``, the delay before the next start, why (for people)."""

    event: Event
    delay_ms: int
    reason: str
    starts: Starts


def is_on_demand(service: Service) -> bool:
    """Tell whether a client on one of its listeners starts *service*."""
    return any(listener.start == "on-demand" for listener in service.listeners)


def is_triggered(service: Service) -> bool:
    """Tell whether *service* waits for a client or for its time, rather than being started at once."""
    return bool(service.timers) or is_on_demand(service)


def permission(service: Service, starts: Starts, conditions_hold: bool, *, at_once: bool = False) -> Event:
    """Return the answer to AWAIT_PERMISSION once nothing holds *service* back: PERMITTED, ARM or SKIPPED.

    A service that is tried again after a failure does not wait for its next trigger, nor does one that is to be restarted
    *at_once*.
    """
    if not conditions_hold:
        return Event.SKIPPED
    return Event.ARM if is_triggered(service) and not (starts.failures or at_once) else Event.PERMITTED


def started(starts: Starts, now: int, policy: Restart) -> Starts:
    """Return *starts* with one more at *now*, without those too old to count towards the limit."""
    return Starts((*_counted(starts, now, policy), now), starts.failures)


def delay_ms(policy: Restart, failures: int, chance: float) -> int:
    """Return how long to wait after so many failures in a row: doubling from ``delay_ms`` to ``delay_limit_ms``.

    ``jitter`` percent of it are multiplied by *chance*, so jitter never makes it longer.
    """
    doublings = min(max(failures - 1, 0), 32)
    whole = min(policy.delay_ms << doublings, policy.delay_limit_ms)
    left_to_chance = whole * policy.jitter // 100
    return whole - left_to_chance + int(left_to_chance * chance)


def judge(service: Service, code: int | None, starts: Starts, now: int, chance: float, *, faltered: bool = False) -> Verdict:
    """Return what follows for *service*, which ended by itself at *now*.

    *code*: its exit status, or minus the signal that killed it; None where it did not even start. *faltered*: it was being
    stopped because it was late, unhealthy or hung. Only for a oneshot is it a success if it then ends with status 0.
    """
    if faltered and service.type != "oneshot":
        code = None
    policy, triggered = service.restart, is_triggered(service)
    reason = describe_end(code)
    counted = _counted(starts, now, policy)
    is_full = len(counted) >= policy.start_limit
    span = f"{len(counted)} starts within {policy.start_interval_ms / 1000:g} s" if is_full else ""
    if code == 0 and triggered:
        if is_full and is_on_demand(service):
            pause = counted[-policy.start_limit] + policy.start_interval_ms - now
            return Verdict(Event.RETRIED, pause, f"{reason}; pauses after {span}", Starts(starts.at))
        return Verdict(Event.REARMED, 0, reason, Starts(starts.at))
    if code == 0 and service.type == "oneshot":
        return Verdict(Event.COMPLETED, 0, reason, Starts())
    if code == 0 and policy.when != "always":
        return Verdict(Event.FINISHED, 0, reason, Starts())
    if policy.when == "never" and not triggered:
        return Verdict(Event.GAVE_UP, 0, reason, Starts())
    if is_full and triggered and not is_on_demand(service):
        return Verdict(Event.REARMED, 0, f"{reason}; given up until its next time after {span}", Starts(starts.at))
    if is_full:
        return Verdict(Event.GAVE_UP, 0, f"{reason}; given up after {span}", starts)
    if policy.when == "never":
        return Verdict(Event.REARMED, 0, reason, Starts(starts.at))
    lasted = bool(starts.at) and now - starts.at[-1] >= policy.start_interval_ms
    failures = 1 if lasted else starts.failures + 1
    return Verdict(Event.RETRIED, delay_ms(policy, failures, chance), reason, Starts(starts.at, failures))


def describe_end(code: int | None) -> str:
    """Return how a process ended, as people read it."""
    if code is None:
        return "did not start"
    return f"ended with status {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"


def _counted(starts: Starts, now: int, policy: Restart) -> tuple[int, ...]:
    if not starts.at or starts.at[0] > now - policy.start_interval_ms:
        return starts.at  # the oldest comes first
    return tuple(at for at in starts.at if at > now - policy.start_interval_ms)


def _signal_name(number: int) -> str:
    if 1 <= number <= len(_SIGNALS):
        return f"SIG{_SIGNALS[number - 1]}"
    if number == _SIGRTMIN:
        return "SIGRTMIN"
    return f"SIGRTMIN+{number - _SIGRTMIN}" if _SIGRTMIN < number <= _SIGRTMAX else f"signal {number}"
