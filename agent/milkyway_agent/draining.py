"""Connections of the local API while this process becomes another program: who comes waits, who is there is answered.

Both ends of that know this and nothing of each other: ``local_api`` lets in and answers, ``reexecution`` has it stop.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

DRAIN_SECONDS = 1.0


class Drain:
    """Who is let in, and who of them is still owed an answer: the numbers ``owed``."""

    def __init__(self) -> None:
        self._open = trio.Event()
        self._open.set()
        self._accepting = trio.CancelScope()
        self.owed: set[int] = set()
        self._all_answered = trio.Event()

    async def accept(self, listener: trio.socket.SocketType, number: int) -> trio.socket.SocketType:
        """Return the next connection, which is owed an answer as *number* until ``answered``. Raises OSError.

        While there is draining nobody is taken from *listener*: they wait there, for whatever program comes next.
        """
        while True:
            await self._open.wait()
            with trio.CancelScope() as self._accepting:
                connection, _ = await listener.accept()
                self.owed.add(number)
                return connection

    def answered(self, *numbers: int) -> None:
        """Say that nobody waits for these connections: they are closed, or pass on what never ends."""
        self.owed.difference_update(numbers)
        if not self.owed:
            self._all_answered.set()

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """Let nobody in meanwhile, and have everybody who is in answered before, as far as that takes no more than a second."""
        self._open = trio.Event()
        self._accepting.cancel()
        try:
            with trio.move_on_after(DRAIN_SECONDS):
                while self.owed:
                    self._all_answered = trio.Event()
                    await self._all_answered.wait()
            yield
        finally:
            self._open.set()
