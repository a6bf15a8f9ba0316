"""One epoll for everything that the supervisor watches: no task and no stack for each descriptor.

trio waits for one descriptor, that of the epoll itself, and at rest for nothing else. A callback is given the events
that came (select.EPOLL…), is called as long as they last, and must not wait. One that raises is noted and
rests for a while, longer each time: a descriptor that nobody serves must not keep the loop spinning, and
what it stands for (a process's end, a service's word) must not be lost for good.
"""

import select
import traceback
from collections.abc import Callable
from functools import partial

import trio

from milkyway_agent.runtime.alarms import Alarm, Alarms

_AT_ONCE = 256  # events taken in one turn, so that other tasks have theirs
REST_SECONDS = (0.1, 1.0, 10.0)  # after the first failure, the second, and each that follows

Note = Callable[..., None]
Callback = Callable[[int], None]


class Watch:
    """Descriptors with their callbacks; ``run`` calls them. *alarms* ring for those that rest."""

    def __init__(self, note: Note, alarms: Alarms) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._events: dict[int, int] = {}  # of those that are watched for others than EPOLLIN
        self._failures: dict[int, int] = {}  # how often the callback has failed since it did well
        self._resting: dict[int, Alarm] = {}
        self._note = note
        self._alarms = alarms

    def add(self, descriptor: int, callback: Callback, events: int = select.EPOLLIN) -> None:
        """Call *callback* whenever *descriptor* has *events*. Undo: ``remove``, before the descriptor is closed.

        Raises PermissionError for what can't be watched: a file, a directory.
        """
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback
        if events != select.EPOLLIN:
            self._events[descriptor] = events

    def remove(self, descriptor: int) -> None:
        """Watch *descriptor* no more; one that is not watched is no error."""
        if self._callbacks.pop(descriptor, None) is None:
            return
        self._events.pop(descriptor, None)
        self._failures.pop(descriptor, None)
        resting = self._resting.pop(descriptor, None)
        if resting is None:
            self._epoll.unregister(descriptor)
        else:
            self._alarms.cancel(resting)

    def dispatch(self) -> None:
        """Call the callbacks of all that has events now."""
        came = [(descriptor, events, self._callbacks.get(descriptor)) for descriptor, events in self._epoll.poll(0, _AT_ONCE)]
        for descriptor, events, callback in came:
            # An earlier callback of this turn may have removed it, and its number may be another descriptor's by now:
            # an event that was not its own would have a process that lives reaped, and us waiting for its end.
            if callback is None or self._callbacks.get(descriptor) is not callback:
                continue
            try:
                callback(events)
            except Exception as error:  # noqa: BLE001 (one descriptor's bug must not end the others')
                self._note("watch_failed", error=repr(error), traceback=traceback.format_exc())
                if self._callbacks.get(descriptor) is callback:
                    self._rest(descriptor)
            else:
                if self._failures:
                    self._failures.pop(descriptor, None)

    async def run(self) -> None:
        """Dispatch for ever."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            self.dispatch()

    def close(self) -> None:
        """Watch nothing any more. Twice is the same as once."""
        for resting in self._resting.values():
            self._alarms.cancel(resting)
        self._callbacks.clear()
        self._events.clear()
        self._failures.clear()
        self._resting.clear()
        self._epoll.close()

    def _rest(self, descriptor: int) -> None:
        """Leave *descriptor* alone for a while."""
        failures = self._failures.get(descriptor, 0)
        self._failures[descriptor] = failures + 1
        self._epoll.unregister(descriptor)
        pause = REST_SECONDS[min(failures, len(REST_SECONDS) - 1)]
        self._resting[descriptor] = self._alarms.set(pause, partial(self._wake, descriptor))

    def _wake(self, descriptor: int) -> None:
        """Watch one again that has rested."""
        del self._resting[descriptor]
        self._epoll.register(descriptor, self._events.get(descriptor, select.EPOLLIN))
