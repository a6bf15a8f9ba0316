"""All timers of the supervisor in one heap, and one task that sleeps until the earliest: at rest it wakes for nothing.

Times are trio's. A callback is called once and must not wait; one that raises is noted.
"""

import heapq
import traceback
from collections.abc import Callable

import trio

_KEPT = 64  # cancelled alarms that may lie in the heap before it is swept


class Alarm:
    """One time to come. ``at``: in trio's seconds."""

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
        """Call *callback* in so many *seconds*. Undo: ``cancel``."""
        alarm = Alarm(trio.current_time() + max(seconds, 0.0), callback)
        heapq.heappush(self._heap, alarm)
        if self._heap[0] is alarm:
            self._earlier.set()
        return alarm

    def cancel(self, alarm: Alarm | None) -> None:
        """Let *alarm* never ring; one that has rung, or none, is no error."""
        if alarm is None or alarm.callback is None:
            return
        alarm.callback = None
        self._cancelled += 1
        # A watchdog that is fed sets and cancels without end.
        if self._cancelled > _KEPT and self._cancelled * 2 > len(self._heap):
            self._heap = [one for one in self._heap if one.callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def ring(self) -> float:
        """Call whatever is due; return when the next is, infinity when there is none."""
        due: list[Alarm] = []  # only these: what is set meanwhile must wait for its turn, and so lets others have theirs
        while self._heap and (self._heap[0].callback is None or self._heap[0].at <= trio.current_time()):
            alarm = heapq.heappop(self._heap)
            if alarm.callback is None:
                self._cancelled -= 1
            else:
                due.append(alarm)
        for alarm in due:
            callback, alarm.callback = alarm.callback, None
            if callback is None:  # by one that rang before it; it was counted, and is not in the heap
                self._cancelled -= 1
                continue
            try:
                callback()
            except Exception as error:  # noqa: BLE001 (one alarm's bug must not silence the others)
                self._note("alarm_failed", error=repr(error), traceback=traceback.format_exc())
        return self._heap[0].at if self._heap else float("inf")

    async def run(self) -> None:
        """Ring for ever."""
        while True:
            self._earlier = trio.Event()
            with trio.move_on_at(self.ring()):
                await self._earlier.wait()
