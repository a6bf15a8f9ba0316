"""All timers of the supervisor in one heap, and one task that sleeps until the earliest: at rest it never wakes.

Times are on trio's clock. A callback is called once and must not wait; if it raises, that is logged.
"""

import heapq
import traceback
from collections.abc import Callable

import trio

_KEPT = 64  # cancelled alarms that may lie in the heap before it is swept


class Alarm:
    """A callback and the time at which to call it (``at``, in seconds of trio's clock)."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: "Alarm") -> bool:
        return self.at < other.at


class Alarms:
    """Sets and cancels alarms; ``run`` rings them."""

    def __init__(self, note: Callable[..., None]) -> None:
        self._heap: list[Alarm] = []
        self._cancelled = 0
        self._note = note
        self._earlier = trio.Event()

    def set(self, seconds: float, callback: Callable[[], None]) -> Alarm:
        """Call *callback* in *seconds*. Undo: ``cancel``."""
        alarm = Alarm(trio.current_time() + max(seconds, 0.0), callback)
        heapq.heappush(self._heap, alarm)
        if self._heap[0] is alarm:
            self._earlier.set()
        return alarm

    def cancel(self, alarm: Alarm | None) -> None:
        """Keep *alarm* from ringing. None, or an alarm that has rung already, is no error."""
        if alarm is None or alarm.callback is None:
            return
        alarm.callback = None
        self._cancelled += 1
        # A service that feeds its watchdog sets and cancels alarms without end.
        if self._cancelled > _KEPT and self._cancelled * 2 > len(self._heap):
            self._heap = [pending for pending in self._heap if pending.callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def ring(self) -> float:
        """Call whatever is due; return when the next alarm is due, infinity when there is none."""
        due: list[Alarm] = []  # only these: alarms set meanwhile wait for the next turn, and so let other tasks have theirs
        while self._heap and (self._heap[0].callback is None or self._heap[0].at <= trio.current_time()):
            alarm = heapq.heappop(self._heap)
            if alarm.callback is None:
                self._cancelled -= 1
            else:
                due.append(alarm)
        for alarm in due:
            callback, alarm.callback = alarm.callback, None
            if callback is None:  # cancelled by one that rang before it: counted, and no longer in the heap
                self._cancelled -= 1
                continue
            try:
                callback()
            except Exception as error:  # noqa: BLE001 (one alarm's bug must not silence the others)
                self._note("alarm_failed", error=repr(error), traceback=traceback.format_exc())
        return self._heap[0].at if self._heap else float("inf")

    async def run(self) -> None:
        """Ring the alarms for ever."""
        while True:
            self._earlier = trio.Event()
            with trio.move_on_at(self.ring()):
                await self._earlier.wait()
