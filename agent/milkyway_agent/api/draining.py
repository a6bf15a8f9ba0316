"""Connections of the local API while this process becomes another program: new clients wait, the others are answered.

``api.server``, which accepts and answers, and re-execution, which stops that, both know this module and not each other.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

DRAIN_SECONDS = 1.0


class Drain:
    """Accepts connections, unless it drains. ``owed``: the numbers of those that are still owed an answer."""

    def __init__(self) -> None:
        self.owed: set[int] = set()
        self._open = trio.Event()
        self._open.set()
        self._accepting: trio.CancelScope | None = None
        self._changed = trio.Event()

    async def accept(self, listener: trio.socket.SocketType, number: int) -> trio.socket.SocketType:
        """Return the next connection, which is owed an answer as *number* until ``answered``. Raises OSError.

        While it drains, no connection is accepted: clients wait in *listener*'s backlog for the next program.
        """
        while True:
            while not self._open.is_set():  # waiting lets other tasks run, even if it is set: one may begin to drain
                await self._open.wait()
            try:
                with trio.CancelScope() as self._accepting:
                    connection, _ = await listener.accept()
                    self.owed.add(number)
                    return connection
            finally:
                self._accepting = None
                self._changed.set()

    def answered(self, *numbers: int) -> None:
        """Say that these connections are owed no answer: they are closed, or pass on a stream without end."""
        self.owed.difference_update(numbers)
        self._changed.set()

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """Accept no connection meanwhile; those accepted before are answered first, as far as that takes at most a second."""
        self._open = trio.Event()
        if self._accepting is not None:
            self._accepting.cancel()
        try:
            with trio.move_on_after(DRAIN_SECONDS):
                # A connection that was accepted just as that was cancelled counts, too.
                while self.owed or self._accepting is not None:
                    self._changed = trio.Event()
                    await self._changed.wait()
            yield
        finally:
            self._open.set()
