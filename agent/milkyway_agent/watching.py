"""One epoll for everything that the supervisor watches: no task and no stack for each descriptor.

trio waits for one descriptor, that of the epoll itself, and at rest for nothing else. A callback is given the events
that came (select.EPOLL…), is called as long as they last, and must not wait. One that raises is noted and
called no more: a descriptor that nobody serves would keep the loop spinning.
"""

import select
import traceback
from collections.abc import Callable

import trio

_AT_ONCE = 256  # events taken in one turn, so that other tasks have theirs

Note = Callable[..., None]
Callback = Callable[[int], None]


class Watch:
    """Descriptors with their callbacks; ``run`` calls them."""

    def __init__(self, note: Note) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._note = note

    def add(self, descriptor: int, callback: Callback, events: int = select.EPOLLIN) -> None:
        """Call *callback* whenever *descriptor* has *events*. Undo: ``remove``, before the descriptor is closed.

        Raises PermissionError for what can't be watched: a file, a directory.
        """
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback

    def remove(self, descriptor: int) -> None:
        """Watch *descriptor* no more; one that is not watched is no error."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

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
                    self.remove(descriptor)

    async def run(self) -> None:
        """Dispatch for ever."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            self.dispatch()

    def close(self) -> None:
        """Watch nothing any more. Twice is the same as once."""
        self._callbacks.clear()
        self._epoll.close()
