"""Waiting for news by name, so that a push ends a long poll at once.

Take the event *before* looking whether there is news: then news that comes in between wakes
the waiter too, and nothing is missed. A wake-up may be spurious: look again.
"""

import trio


class Wakeups:
    """Events by name (a machine's id, a token). ``wake`` drops the event, so a name without waiters takes no room."""

    def __init__(self) -> None:
        self._events: dict[str, trio.Event] = {}

    def event(self, name: str) -> trio.Event:
        """Return the event that the next ``wake`` of *name* sets."""
        return self._events.setdefault(name, trio.Event())

    def wake(self, name: str) -> None:
        """Wake everyone who waits for *name*."""
        event = self._events.pop(name, None)
        if event is not None:
            event.set()
