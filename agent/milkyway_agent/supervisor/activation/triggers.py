"""What starts services later: clients on their listeners, and their timers.

Listeners are opened when their service is first armed or started and stay open until it is stopped or
given up, so that no client is lost while it restarts. Timers count while their service is supervised; they start
it only while it is armed. What a persistent timer did last is kept on the disk before it is done.
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
from milkyway_agent.core.service_state import Row
from milkyway_agent.launching import listeners
from milkyway_agent.runtime.alarms import Alarm, Alarms
from milkyway_agent.runtime.thread_limit import RunLimiter
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.activation.timer_stamps import TimerStamps
from milkyway_agent.supervisor.service_record import Attended
from milkyway_agent.system import timerfd
from milkyway_formats.errors import UnavailableError
from milkyway_formats.listener import Listener

BUSY_SECONDS = 1.0  # how long a listener is left alone that can't be served now
CONNECTIONS_AT_ONCE = 16
STAMP_SECONDS = 5.0  # how long a start waits for the disk to keep that it was
CLOCK_SECONDS = 1.0  # until a clock that can't be armed is tried again, or one that is set without end is asked again

_KEEPERS = RunLimiter("keepers of stamps", 1)
Connected = Callable[[Attended, Listener, listeners.Connection], None]
HasRoom = Callable[[Attended, Listener], bool]


class _Timed:
    """The timers of one service: what each has done so far, and the alarm that the nearest waits for.

    ``keeps``: a time has come, and is being kept on the disk: no alarm is set until that is done.
    """

    __slots__ = ("alarm", "armed", "keeps", "pasts", "realtime_ms")

    def __init__(self, pasts: list[Past]) -> None:
        self.pasts = pasts
        self.armed = self.keeps = False
        self.alarm: Alarm | None = None
        self.realtime_ms: int | None = None


class ServiceTriggers:
    """Listeners and timers of all services.

    *trigger* is called with a service and why it is to start now; *spawn* runs a task for a service.
    """

    def __init__(
        self,
        watch: Watch,
        alarms: Alarms,
        note: Callable[..., None],
        trigger: Callable[[Attended, str], None],
        spawn: Callable[..., None],
        *,
        clock_ms: Callable[[], int],
        chance: Callable[[], float],
        realtime_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.on_connection: Connected = lambda _, __, connection: os.close(connection.descriptor)
        self.has_room: HasRoom = lambda _, __: True  # for one connection more
        self._watch = watch
        self._alarms = alarms
        self._note = note
        self._trigger = trigger
        self._spawn = spawn
        self._stamps: TimerStamps | None = None
        self._clock_ms = clock_ms
        self._realtime_ms = realtime_ms
        self._chance = chance
        self._timed: dict[Attended, _Timed] = {}
        self._timer = -1
        self._timer_alarm: Alarm | None = None
        self._is_reckoning = False

    @property
    def keeps_stamps(self) -> bool:
        """Whether persistent timers keep their last starts."""
        return self._stamps is not None

    def keep_stamps(self, stamps: TimerStamps) -> None:
        """Have persistent timers keep their last starts in *stamps*: until then, what they miss is not known."""
        self._stamps = stamps
        if stamps.note:
            self._note("timer_stamps_begin_empty", why=stamps.note)

    def close_clock(self) -> None:
        """Close the one real-time timer: nothing rings any more. Twice is the same as once."""
        self._alarms.cancel(self._timer_alarm)
        if self._timer >= 0:
            self._watch.remove(self._timer)
            os.close(self._timer)
            self._timer = -1

    # --- a service comes and goes --------------------------------------------------------------------------------------

    def add(self, one: Attended) -> None:
        """Begin to count its timers, whose calendars can be read. Undo: ``remove``."""
        timers = one.definition.service.timers
        if timers:
            now, boottime = self._realtime_ms(), self._clock_ms()
            self._timed[one] = _Timed(
                [
                    schedule.arm(
                        timer, now_ms=now, boottime_ms=boottime, stamp_ms=self._stamp(one, number), chance=self._chance()
                    )
                    for number, timer in zip(count(), timers, strict=False)
                ]
            )

    def remove(self, one: Attended) -> None:
        """Forget its timers and close its listeners."""
        self.disarm(one)
        self.close(one)
        self._timed.pop(one, None)

    def forget_stale(self) -> None:
        """Forget when timers last started services that there are no more."""
        if self._stamps is not None:
            keys = (_key(one, number) for one in self._timed for number in range(len(one.definition.service.timers)))
            self._stamps.keep_only(frozenset(keys))

    def recount(self, one: Attended) -> None:
        """Begin anew to count its timers, which are others now."""
        timed = self._timed.pop(one, None)
        is_armed = timed is not None and timed.armed
        if timed is not None:
            self._alarms.cancel(timed.alarm)
        self.add(one)
        if is_armed and one in self._timed:
            self._timed[one].armed = True
            self._set(one, self._timed[one])

    def open(self, one: Attended) -> None:
        """Open its listeners, if they are not. Raises RefusedError or UnavailableError when one can't be; then none is."""
        self._open(one)

    def listeners(self, one: Attended) -> list[tuple[str, int]]:
        """Return the name and descriptor of each listener that is handed to the service, opening those that are not open.

        Raises RefusedError or UnavailableError when one can't be opened; then none is.
        """
        self._open(one)
        return [
            (listener.name, descriptor)
            for listener, descriptor in zip(one.definition.service.listeners, one.listeners, strict=True)
            if not listener.accept
        ]

    def close(self, one: Attended) -> None:
        """Close its listeners. Twice is the same as once."""
        for listener, descriptor in zip(one.definition.service.listeners, one.listeners, strict=False):
            self._watch.remove(descriptor)
            listeners.close_listener(descriptor, listener)
        one.listeners = ()

    # --- armed ---------------------------------------------------------------------------------------------------------

    def arm(self, one: Attended) -> None:
        """Watch its listeners and set its timers to their next times. Undo: ``disarm``."""
        self._open(one)
        for listener, descriptor in zip(one.definition.service.listeners, one.listeners, strict=True):
            if listener.accept or listener.start == "on-demand":
                self._wait_for_client(one, listener, descriptor)
        timed = self._timed.get(one)
        if timed is not None:
            timed.armed = True
            self._set(one, timed)

    def disarm(self, one: Attended) -> None:
        """Undo ``arm``. Twice is the same as once. Listeners stay open."""
        for descriptor in one.listeners:
            self._watch.remove(descriptor)
        timed = self._timed.get(one)
        if timed is not None:
            timed.armed = False
            self._alarms.cancel(timed.alarm)
            timed.alarm = timed.realtime_ms = None

    def started(self, one: Attended) -> None:
        """Note that the service runs, whoever started it."""
        timed = self._timed.get(one)
        if timed is not None:
            timed.pasts = [schedule.started(past) for past in timed.pasts]

    def ended(self, one: Attended) -> None:
        """Note that the service has ended, or could not be started."""
        timed = self._timed.get(one)
        if timed is not None:
            timed.pasts = [schedule.ended(past, boottime_ms=self._clock_ms()) for past in timed.pasts]

    def pasts(self, one: Attended) -> Sequence[Past]:
        """Return what its timers have done so far: what a re-execution keeps."""
        timed = self._timed.get(one)
        return timed.pasts if timed else ()

    def restore(self, one: Attended, pasts: Sequence[Past]) -> None:
        """Go on from *pasts*, as ``pasts`` of the agent before gave them."""
        if one in self._timed and len(pasts) == len(one.definition.service.timers):
            self._timed[one].pasts = list(pasts)

    def next_start(self, one: Attended) -> Due | None:
        """Return when its timers start it next, for people; None when they don't."""
        timed = self._timed.get(one)
        return self._nearest(one, timed)[1] if timed else None

    # --- listeners -----------------------------------------------------------------------------------------------------

    def _open(self, one: Attended) -> None:
        if one.listeners:
            return
        opened: list[int] = []
        try:
            for listener in one.definition.service.listeners:
                opened.append(listeners.open_listener(listener, one.definition.socket_context))
        except BaseException:
            for listener, descriptor in zip(one.definition.service.listeners, opened, strict=False):
                listeners.close_listener(descriptor, listener)
            raise
        one.listeners = tuple(opened)

    def _client_came(self, one: Attended, listener: Listener, descriptor: int, _events: int) -> None:
        if not listener.accept:
            self._trigger(one, f"a client came to {listeners.describe_address(listener.address)}")
            return
        try:
            for _ in range(CONNECTIONS_AT_ONCE):
                if not self.has_room(one, listener):
                    self._watch.remove(descriptor)  # until ``room_came``: who comes meanwhile waits in the backlog
                    return
                connection = listeners.accept_connection(descriptor)
                if connection is None:
                    return
                self.on_connection(one, listener, connection)
        except UnavailableError as error:
            self._note("connection_not_accepted", service=one.definition.name, why=str(error))
            self._watch.remove(descriptor)
            self._alarms.set(BUSY_SECONDS, partial(self.room_came, one))

    def room_came(self, one: Attended) -> None:
        """Go on to accept connections, where that was put off."""
        if one.row is not Row.ARMED or one.busy:
            return  # ``arm`` will see to it, if ever it is
        for listener, descriptor in zip(one.definition.service.listeners, one.listeners, strict=False):
            if listener.accept and self.has_room(one, listener):
                self._wait_for_client(one, listener, descriptor)

    def _wait_for_client(self, one: Attended, listener: Listener, descriptor: int) -> None:
        self._watch.remove(descriptor)  # where it is watched already
        self._watch.add(descriptor, partial(self._client_came, one, listener, descriptor))

    # --- timers --------------------------------------------------------------------------------------------------------

    def _stamp(self, one: Attended, number: int) -> int | None:
        return (
            self._stamps.get(_key(one, number)) if self._stamps and one.definition.service.timers[number].persistent else None
        )

    def _nearest(self, one: Attended, timed: _Timed) -> tuple[int, Due | None]:
        """Return which timer of the service is due next, and when."""
        now, boottime = self._realtime_ms(), self._clock_ms()
        found: tuple[int, Due | None] = (0, None)
        soonest = float("inf")
        for number, (timer, past) in enumerate(zip(one.definition.service.timers, timed.pasts, strict=True)):
            due = schedule.due(timer, past, now_ms=now, boottime_ms=boottime)
            if due is not None:
                left = due.at - (now if due.clock == "realtime" else boottime)
                if left < soonest:
                    soonest, found = left, (number, due)
        return found

    def _set(self, one: Attended, timed: _Timed) -> None:
        self._alarms.cancel(timed.alarm)
        timed.alarm = timed.realtime_ms = None
        number, due = self._nearest(one, timed)
        if due is None or timed.keeps:
            return
        if due.clock == "boottime":
            timed.alarm = self._alarms.set((due.at - self._clock_ms()) / 1000, partial(self._elapsed, one, timed, number, due))
        elif due.at <= self._realtime_ms():
            timed.alarm = self._alarms.set(0, partial(self._elapsed, one, timed, number, due))
        else:
            timed.realtime_ms = due.at
            self._set_clock()

    def _set_clock(self) -> None:
        """Arm the one real-time timer for the earliest calendar time; it also tells when somebody sets the clock."""
        if self._is_reckoning:
            return  # whoever reckons arms it afterwards
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
            self._watch.add(self._timer, self._clock_rang)
        times = [timed.realtime_ms for timed in self._timed.values() if timed.realtime_ms is not None]
        value = min(times) * 1_000_000 if times else timerfd.FAR_AWAY_NS
        timerfd.timerfd_settime(self._timer, value, timerfd.TFD_TIMER_ABSTIME | timerfd.TFD_TIMER_CANCEL_ON_SET)

    def _arm_later(self, error: OSError) -> None:
        self._note("clock_not_armed", why=str(error), again_seconds=CLOCK_SECONDS)
        self._alarms.cancel(self._timer_alarm)
        self._timer_alarm = self._alarms.set(CLOCK_SECONDS, self._set_clock)

    def _clock_rang(self, _events: int) -> None:
        try:
            timerfd.read(self._timer)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise  # the watch notes it and asks again
            self._clock_set()
            return
        for one, timed in list(self._timed.items()):
            if timed.armed and timed.realtime_ms is not None:
                self._set(one, timed)
        self._set_clock()

    def _clock_set(self) -> None:
        """Reckon anew what is due: another of a service's timers may be the nearest by this clock."""
        self._note("clock_was_set")
        now = self._realtime_ms()
        self._is_reckoning = True
        try:
            for one, timed in list(self._timed.items()):
                timed.pasts = [schedule.clock_set(past, now_ms=now) for past in timed.pasts]
                if timed.armed:
                    self._set(one, timed)
        finally:
            self._is_reckoning = False
        try:
            self._arm_clock()
        except OSError as error:  # also one that is set without end must not keep us reckoning without end
            self._arm_later(error)

    def _elapsed(self, one: Attended, timed: _Timed, number: int, due: Due) -> None:
        if not timed.armed:
            return
        if self._stamps is not None and one.definition.service.timers[number].persistent:
            past = schedule.fired(timed.pasts[number], due, now_ms=self._realtime_ms(), chance=0.0)
            if past.last_trigger_ms is not None:
                timed.keeps = True
                self._spawn(self._keep_and_fire, one, timed, number, due, past.last_trigger_ms)
                return
        self._fire(one, timed, number, due)

    async def _keep_and_fire(self, one: Attended, timed: _Timed, number: int, due: Due, at_ms: int) -> None:
        """Keep that the time has come, then start the service: verify, persist, act. A disk that hangs holds up nobody else.

        Who may not start any more when that is done has not used the time. Cut off, it is begun anew; and a program that
        this one becomes meanwhile finds the time not yet used either.
        """
        stamps, key = self._stamps, _key(one, number)
        assert stamps is not None, "only then a stamp is kept"
        version = stamps.propose(key, at_ms)
        try:
            with trio.fail_after(STAMP_SECONDS):
                write = partial(stamps.write, version)
                await trio.to_thread.run_sync(write, limiter=_KEEPERS.get(), abandon_on_cancel=True)
        except trio.TooSlowError:
            self._note("timer_stamp_not_kept", service=one.definition.name, why="the disk takes too long")
        except Exception as error:  # noqa: BLE001 (once too often after the next boot is better than not now)
            self._note("timer_stamp_not_kept", service=one.definition.name, why=str(error))
        timed.keeps = False
        if self._timed.get(one) is timed and timed.armed:
            stamps.confirm(key)
            self._fire(one, timed, number, due)
        else:
            stamps.withdraw(key)

    def _fire(self, one: Attended, timed: _Timed, number: int, due: Due) -> None:
        past = schedule.fired(timed.pasts[number], due, now_ms=self._realtime_ms(), chance=self._chance())
        if due.cause == "end":  # it fires once for each end, of whichever timer
            past = schedule.started(past)
        timed.pasts[number] = past
        self._trigger(one, due.why)


def _key(one: Attended, number: int) -> str:
    return f"{one.definition.name}.{number}"
