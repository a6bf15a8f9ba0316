"""Who waits for news of what: so that a push ends a long poll at once.

Take the event *before* looking whether there is something: what comes in between then
wakes the waiter too, and nothing is ever missed. A wake-up may be for nothing; look again.
"""

import trio


class Wakeups:
    """Events by name (a machine's id, a token). One that nobody waits for any more takes no room after ``wake``."""

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
