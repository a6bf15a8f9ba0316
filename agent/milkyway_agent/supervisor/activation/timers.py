"""The timers of services. They run while their service is supervised, and start it only while it is armed.

The start that a persistent timer is about to make is kept on the disk first.
"""

import errno
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import trio

from milkyway_agent.core import schedule
from milkyway_agent.core.schedule import Due, Past
from milkyway_agent.runtime.alarms import Alarm, Alarms
from milkyway_agent.runtime.thread_limit import RunLimiter
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.activation.timer_stamps import TimerStamps
from milkyway_agent.supervisor.service_record import ServiceRecord
from milkyway_agent.system import timerfd

STAMP_SECONDS = 5.0  # how long a start waits until its stamp is on the disk
CLOCK_SECONDS = 1.0  # until the real-time timer is armed again, after that failed or the clock is set all the time

_WRITERS = RunLimiter("writers of stamps", 1)


class _Timed:
    """The timers of one service: what each has done so far, and the alarm of the next.

    ``is_writing``: a time has come and its stamp is being written; no alarm is set until that is done.
    """

    __slots__ = ("alarm", "armed", "is_writing", "pasts", "realtime_ms")

    def __init__(self, pasts: list[Past]) -> None:
        self.pasts = pasts
        self.armed = self.is_writing = False
        self.alarm: Alarm | None = None
        self.realtime_ms: int | None = None


class ServiceTimers:
    """The timers of all services.

    *trigger*: called with a service that must start now, and why; *spawn* runs a task for a service.
    """

    def __init__(
        self,
        watch: Watch,
        alarms: Alarms,
        note: Callable[..., None],
        trigger: Callable[[ServiceRecord, str], None],
        spawn: Callable[..., None],
        *,
        clock_ms: Callable[[], int],
        chance: Callable[[], float],
        realtime_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._watch = watch
        self._alarms = alarms
        self._note = note
        self._trigger = trigger
        self._spawn = spawn
        self._stamps: TimerStamps | None = None
        self._clock_ms = clock_ms
        self._realtime_ms = realtime_ms
        self._chance = chance
        self._timed: dict[ServiceRecord, _Timed] = {}
        self._timer = -1
        self._timer_alarm: Alarm | None = None
        self._is_recalculating = False

    @property
    def keeps_stamps(self) -> bool:
        """Whether persistent timers keep their last starts."""
        return self._stamps is not None

    def keep_stamps(self, stamps: TimerStamps) -> None:
        """Make persistent timers keep their last starts in *stamps*: before that, it is not known which starts were missed."""
        self._stamps = stamps
        if stamps.note:
            self._note("timer_stamps_begin_empty", why=stamps.note)

    def close_clock(self) -> None:
        """Close the real-time timer. Idempotent."""
        self._alarms.cancel(self._timer_alarm)
        if self._timer >= 0:
            self._watch.remove(self._timer)
            os.close(self._timer)
            self._timer = -1

    # --- a service comes and goes --------------------------------------------------------------------------------------

    def add(self, record: ServiceRecord) -> None:
        """Begin to run its timers, whose calendars were checked. Undo: ``remove``."""
        timers = record.definition.service.timers
        if timers:
            now, boottime = self._realtime_ms(), self._clock_ms()
            self._timed[record] = _Timed(
                [
                    schedule.arm(
                        timer, now_ms=now, boottime_ms=boottime, stamp_ms=self._stamp(record, number), chance=self._chance()
                    )
                    for number, timer in zip(count(), timers, strict=False)
                ]
            )

    def remove(self, record: ServiceRecord) -> None:
        """Forget its timers. Idempotent."""
        self.disarm(record)
        self._timed.pop(record, None)

    def forget_stale(self) -> None:
        """Forget the last starts of timers whose services don't exist any more."""
        if self._stamps is not None:
            keys = (_key(record, number) for record in self._timed for number in range(len(record.definition.service.timers)))
            self._stamps.keep_only(frozenset(keys))

    def recount(self, record: ServiceRecord) -> None:
        """Begin anew with its timers: the definition has changed."""
        timed = self._timed.pop(record, None)
        is_armed = timed is not None and timed.armed
        if timed is not None:
            self._alarms.cancel(timed.alarm)
        self.add(record)
        if is_armed and record in self._timed:
            self._timed[record].armed = True
            self._set(record, self._timed[record])

    # --- armed ---------------------------------------------------------------------------------------------------------

    def arm(self, record: ServiceRecord) -> None:
        """Set its timers to their next times. Undo: ``disarm``."""
        timed = self._timed.get(record)
        if timed is not None:
            timed.armed = True
            self._set(record, timed)

    def disarm(self, record: ServiceRecord) -> None:
        """Undo ``arm``. Idempotent."""
        timed = self._timed.get(record)
        if timed is not None:
            timed.armed = False
            self._alarms.cancel(timed.alarm)
            timed.alarm = timed.realtime_ms = None

    def started(self, record: ServiceRecord) -> None:
        """Note that the service runs, whatever started it."""
        timed = self._timed.get(record)
        if timed is not None:
            timed.pasts = [schedule.started(past) for past in timed.pasts]

    def ended(self, record: ServiceRecord) -> None:
        """Note that the service has ended, or could not be started."""
        timed = self._timed.get(record)
        if timed is not None:
            timed.pasts = [schedule.ended(past, boottime_ms=self._clock_ms()) for past in timed.pasts]

    def pasts(self, record: ServiceRecord) -> Sequence[Past]:
        """Return what its timers have done so far, which a re-execution hands over."""
        timed = self._timed.get(record)
        return timed.pasts if timed else ()

    def restore(self, record: ServiceRecord, pasts: Sequence[Past]) -> None:
        """Go on from *pasts*, as ``pasts`` returned them in the program before this one."""
        if record in self._timed and len(pasts) == len(record.definition.service.timers):
            self._timed[record].pasts = list(pasts)

    # --- times ---------------------------------------------------------------------------------------------------------

    def _stamp(self, record: ServiceRecord, number: int) -> int | None:
        return (
            self._stamps.get(_key(record, number))
            if self._stamps and record.definition.service.timers[number].persistent
            else None
        )

    def _nearest(self, record: ServiceRecord, timed: _Timed) -> tuple[int, Due | None]:
        """Return which timer of the service is due next, and when (None: none is)."""
        now, boottime = self._realtime_ms(), self._clock_ms()
        found: tuple[int, Due | None] = (0, None)
        soonest = float("inf")
        for number, (timer, past) in enumerate(zip(record.definition.service.timers, timed.pasts, strict=True)):
            due = schedule.due(timer, past, now_ms=now, boottime_ms=boottime)
            if due is not None:
                left = due.at - (now if due.clock == "realtime" else boottime)
                if left < soonest:
                    soonest, found = left, (number, due)
        return found

    def _set(self, record: ServiceRecord, timed: _Timed) -> None:
        self._alarms.cancel(timed.alarm)
        timed.alarm = timed.realtime_ms = None
        number, due = self._nearest(record, timed)
        if due is None or timed.is_writing:
            return
        if due.clock == "boottime":
            timed.alarm = self._alarms.set(
                (due.at - self._clock_ms()) / 1000, partial(self._expired, record, timed, number, due)
            )
        elif due.at <= self._realtime_ms():
            timed.alarm = self._alarms.set(0, partial(self._expired, record, timed, number, due))
        else:
            timed.realtime_ms = due.at
            self._set_clock()

    def _set_clock(self) -> None:
        """Arm the real-time timer for the earliest calendar time; it also expires when the clock is set."""
        if self._is_recalculating:
            return  # ``_clock_set`` arms it at its end
        try:
            self._arm_clock()
        except OSError as error:
            if error.errno == errno.ECANCELED:  # the clock was set just now
                self._clock_set()
            else:
                self._arm_later(error)

    def _arm_clock(self) -> None:
        if self._timer < 0:
            self._timer = timerfd.timerfd_create(time.CLOCK_REALTIME)
            self._watch.add(self._timer, self._on_clock)
        times = [timed.realtime_ms for timed in self._timed.values() if timed.realtime_ms is not None]
        value = min(times) * 1_000_000 if times else timerfd.FAR_AWAY_NS
        timerfd.timerfd_settime(self._timer, value, timerfd.TFD_TIMER_ABSTIME | timerfd.TFD_TIMER_CANCEL_ON_SET)

    def _arm_later(self, error: OSError) -> None:
        self._note("clock_not_armed", why=str(error), again_seconds=CLOCK_SECONDS)
        self._alarms.cancel(self._timer_alarm)
        self._timer_alarm = self._alarms.set(CLOCK_SECONDS, self._set_clock)

    def _on_clock(self, _events: int) -> None:
        try:
            timerfd.read(self._timer)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise  # the watch logs it and calls again
            self._clock_set()
            return
        for record, timed in list(self._timed.items()):
            if timed.armed and timed.realtime_ms is not None:
                self._set(record, timed)
        self._set_clock()

    def _clock_set(self) -> None:
        """Determine anew what is due: by the new time, another timer of a service may be the next."""
        self._note("clock_was_set")
        now = self._realtime_ms()
        self._is_recalculating = True
        try:
            for record, timed in list(self._timed.items()):
                timed.pasts = [schedule.clock_set(past, now_ms=now) for past in timed.pasts]
                if timed.armed:
                    self._set(record, timed)
        finally:
            self._is_recalculating = False
        try:
            self._arm_clock()
        except OSError as error:  # ECANCELED, too: a clock that is set all the time must not keep us busy for ever
            self._arm_later(error)

    def _expired(self, record: ServiceRecord, timed: _Timed, number: int, due: Due) -> None:
        if not timed.armed:
            return
        if self._stamps is not None and record.definition.service.timers[number].persistent:
            past = schedule.fired(timed.pasts[number], due, now_ms=self._realtime_ms(), chance=0.0)
            if past.last_trigger_ms is not None:
                timed.is_writing = True
                self._spawn(record, self._write_and_fire, record, timed, number, due, past.last_trigger_ms)
                return
        self._fire(record, timed, number, due)

    async def _write_and_fire(self, record: ServiceRecord, timed: _Timed, number: int, due: Due, at_ms: int) -> None:
        """Write the stamp, then start the service: persist, then act. A disk that hangs holds up no other service.

        If the service may not start any more when that is done, the time is not used up. If this is cut off, it begins
        anew; a program that is executed meanwhile finds the time not used up, either.
        """
        stamps, key = self._stamps, _key(record, number)
        assert stamps is not None, "a stamp is written only if there are any"
        version = stamps.propose(key, at_ms)
        try:
            with trio.fail_after(STAMP_SECONDS):
                write = partial(stamps.write, version)
                await trio.to_thread.run_sync(write, limiter=_WRITERS.get(), abandon_on_cancel=True)
        except trio.TooSlowError:
            self._note("timer_stamp_not_kept", service=record.definition.name, why="the disk takes too long")
        except Exception as error:  # noqa: BLE001 (a start too many after the next boot is better than none now)
            self._note("timer_stamp_not_kept", service=record.definition.name, why=str(error))
        timed.is_writing = False
        if self._timed.get(record) is timed and timed.armed:
            stamps.confirm(key)
            self._fire(record, timed, number, due)
        else:
            stamps.withdraw(key)

    def _fire(self, record: ServiceRecord, timed: _Timed, number: int, due: Due) -> None:
        past = schedule.fired(timed.pasts[number], due, now_ms=self._realtime_ms(), chance=self._chance())
        if due.cause == "end":  # an end is used up, whichever timer fires
            past = schedule.started(past)
        timed.pasts[number] = past
        self._trigger(record, due.why)


def _key(record: ServiceRecord, number: int) -> str:
    return f"{record.definition.name}.{number}"
