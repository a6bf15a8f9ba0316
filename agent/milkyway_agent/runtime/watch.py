"""One epoll for everything that the supervisor watches, instead of a task and a stack for each descriptor.

trio waits for a single descriptor, that of the epoll itself. A callback is given the events that came (select.EPOLL…),
is called as long as they last, and must not wait. When it raises, that is logged and its descriptor is left alone for a
while, longer each time: a descriptor that is not served must not keep the loop spinning, and what it announces (the end of
a process, a service's message) must not be lost for good.

What happens to services comes before everything else that a turn of trio's loop has to do: ``dispatching_first``. A task
that waits for the epoll runs after whichever tasks trio has drawn before it, and each of them costs as much as a good part
of a restart: above all the reaper, which the end of a process wakes too. So an instrument dispatches as soon as trio has
learned what came, before any task runs. The task stays: it makes trio wait for the epoll, and dispatches what comes in the
meantime. If trio dropped the instrument, as it does with one that raises, only time would be lost.
"""

import select
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import trio

from milkyway_agent.runtime.alarms import Alarm, Alarms

_AT_ONCE = 256  # events taken in one turn, so that other tasks get theirs
REST_SECONDS = (0.1, 1.0, 10.0)  # after the first failure, the second, and each that follows

Note = Callable[..., None]
Callback = Callable[[int], None]


class Watch:
    """Descriptors with their callbacks; ``run`` calls them. *alarms* ring for those that rest."""

    def __init__(self, note: Note, alarms: Alarms) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._events: dict[int, int] = {}  # of descriptors that are watched for events other than EPOLLIN
        self._failures: dict[int, int] = {}  # of the callback, in a row
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
        """Stop watching *descriptor*. Idempotent."""
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
        """Call the callback of every descriptor that has events now."""
        came = [(descriptor, events, self._callbacks.get(descriptor)) for descriptor, events in self._epoll.poll(0, _AT_ONCE)]
        for descriptor, events, callback in came:
            # An earlier callback of this turn may have removed the descriptor, and another may have its number by now: an
            # event taken for the other's would have us reap a process that is alive, and wait until it ends.
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

    @contextmanager
    def dispatching_first(self) -> Iterator[None]:
        """Dispatch at the beginning of every turn of trio's loop inside, before any task. ``run`` must run as well."""
        instrument = _BeforeTasks(self.dispatch)
        trio.lowlevel.add_instrument(instrument)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(instrument)

    def close(self) -> None:
        """Stop watching everything. Idempotent."""
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
        """Watch *descriptor* again after its rest."""
        del self._resting[descriptor]
        self._epoll.register(descriptor, self._events.get(descriptor, select.EPOLLIN))


class _BeforeTasks(trio.abc.Instrument):
    """Calls *dispatch* in each turn, outside any task: it may start tasks and set events, and cannot wait."""

    def __init__(self, dispatch: Callable[[], None]) -> None:
        self._dispatch = dispatch

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 (trio's signature)
        """Dispatch what came."""
        self._dispatch()
