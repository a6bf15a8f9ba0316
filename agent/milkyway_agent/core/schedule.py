"""When a timer next starts its service: arithmetic over two clocks, none of which is read here.

Calendar times follow the real-time clock, which can be set; delays after the boot and after an end follow the boot-time
clock (CLOCK_BOOTTIME), which can't. ``due`` is asked again after every start, after every end and whenever the clock was
set; the caller arms a timer for its answer, starts the service then, and reports that with ``fired``.

What holds, whatever the clock does:

* A calendar time never starts the service twice: all times up to the last start are over. (Unless the clock is set back by
  more than ``WRONG_CLOCK_MS``: then it had been wrong before, and waiting for that time again could take years.)
* If the clock jumps over several times, the service starts once; so it does for times that were missed while the machine
  was off, if the timer is persistent.
* Chance is drawn once for each start and moves nothing afterwards.
"""

from typing import Literal, NamedTuple

from milkyway_agent.core.calendar import next_after, parse
from milkyway_formats.timer import Timer

WRONG_CLOCK_MS = 32 * 86_400_000  # longer than a month, so that the above holds for monthly times


class Past(NamedTuple):
    """What has happened to one timer so far. Real-time milliseconds are since 1970.

    ``armed_ms`` and ``armed_boottime_ms``: when it began to count in this boot, by both clocks. ``last_trigger_ms``: up to
    when its calendar times are over. ``boot_over``: the start after the boot has been made. ``ended_boottime_ms``: when the
    service last ended in this boot; None while it runs, or if it has not run. ``chance``: from [0, 1), for the next start.
    """

    armed_ms: int
    armed_boottime_ms: int
    last_trigger_ms: int | None
    chance: float
    boot_over: bool = False
    ended_boottime_ms: int | None = None


class Due(NamedTuple):
    """The next start: *at* which millisecond of which clock (one in the past: at once), its cause, and why, for people."""

    clock: Literal["realtime", "boottime"]
    at: int
    cause: Literal["calendar", "missed", "boot", "end"]
    why: str


def arm(timer: Timer, *, now_ms: int, boottime_ms: int, stamp_ms: int | None, chance: float) -> Past:
    """Return the past of a timer that begins to count now. *stamp_ms*: its persisted last trigger, if one is known."""
    believed = timer.persistent and stamp_ms is not None and stamp_ms <= now_ms + WRONG_CLOCK_MS
    return Past(now_ms, boottime_ms, stamp_ms if believed else None, _checked(chance))


def due(timer: Timer, past: Past, *, now_ms: int, boottime_ms: int) -> Due | None:
    """Return when *timer* next starts its service; None if it never will, or not before the service has ended.

    Raises RefusedError if its calendar can't be read.
    """
    delay = int(timer.random_delay_ms * past.chance)
    candidates: list[tuple[int, Due]] = []
    calendar_due = _next_calendar(timer, past, delay)
    if calendar_due is not None:
        clock_ms = now_ms if calendar_due.clock == "realtime" else boottime_ms
        candidates.append((calendar_due.at - clock_ms, calendar_due))
    if timer.after_boot_ms and not past.boot_over:
        at = timer.after_boot_ms + delay
        candidates.append((at - boottime_ms, Due("boottime", at, "boot", f"{_seconds(timer.after_boot_ms)} after the boot")))
    if timer.after_end_ms and past.ended_boottime_ms is not None:
        at = past.ended_boottime_ms + timer.after_end_ms + delay
        candidates.append((at - boottime_ms, Due("boottime", at, "end", f"{_seconds(timer.after_end_ms)} after it ended")))
    return min(candidates, key=lambda candidate: candidate[0])[1] if candidates else None


def fired(past: Past, done: Due, *, now_ms: int, chance: float) -> Past:
    """Return the past after the service was started for *done*, at *now_ms*. *chance* is for the start after it.

    If the timer is persistent and ``last_trigger_ms`` has changed, the caller persists it.
    """
    drawn = past._replace(chance=_checked(chance))
    match done.cause:
        case "calendar":
            # The clock may have been set back since the timer expired: its time is over nevertheless.
            return drawn._replace(last_trigger_ms=max(now_ms, done.at))
        case "missed":
            # armed_ms: it was missed because its time was over then, whatever the clock says now.
            return drawn._replace(last_trigger_ms=max(now_ms, past.armed_ms, past.last_trigger_ms or 0))
        case "boot":
            return drawn._replace(boot_over=True)
        case "end":
            return drawn._replace(ended_boottime_ms=None)


def started(past: Past) -> Past:
    """Return the past once the service runs, whatever started it."""
    return past._replace(ended_boottime_ms=None)


def ended(past: Past, *, boottime_ms: int) -> Past:
    """Return the past once the service has ended (or could not be started)."""
    return past._replace(ended_boottime_ms=boottime_ms)


def clock_set(past: Past, *, now_ms: int) -> Past:
    """Return the past after the real-time clock was set: times too far ahead of it are not believed any more."""
    armed_ms = past.armed_ms if past.armed_ms <= now_ms + WRONG_CLOCK_MS else now_ms
    wrong = past.last_trigger_ms is not None and past.last_trigger_ms > now_ms + WRONG_CLOCK_MS
    return past._replace(armed_ms=armed_ms, last_trigger_ms=now_ms if wrong else past.last_trigger_ms)


def _next_calendar(timer: Timer, past: Past, delay: int) -> Due | None:
    """Return the next start by the calendar; a missed one counts from when the timer was armed, by the boot-time clock."""
    floor = past.armed_ms if past.last_trigger_ms is None else past.last_trigger_ms
    times = [(next_after(parse(text), floor // 1000), text) for text in timer.calendar]
    known = [(time * 1000, text) for time, text in times if time is not None]
    if not known:
        return None
    time_ms, text = min(known)
    if time_ms <= past.armed_ms:
        return Due("boottime", past.armed_boottime_ms + delay, "missed", f"{text}, missed while it was not watched")
    return Due("realtime", time_ms + delay, "calendar", text)


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s"


def _checked(chance: float) -> float:
    assert 0 <= chance < 1, f"chance is a number from [0, 1), not {chance}"
    return chance
