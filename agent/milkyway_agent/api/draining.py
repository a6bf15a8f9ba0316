"""Connections of the local API while this process becomes another program: who comes waits, who is there is answered.

Both ends of that know this and nothing of each other: ``api.server`` lets in and answers, ``reexecution`` has it stop.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

DRAIN_SECONDS = 1.0


class Drain:
    """Who is let in, and who of them is still owed an answer: the numbers ``owed``."""

    def __init__(self) -> None:
        self.owed: set[int] = set()
        self._open = trio.Event()
        self._open.set()
        self._accepting: trio.CancelScope | None = None
        self._changed = trio.Event()

    async def accept(self, listener: trio.socket.SocketType, number: int) -> trio.socket.SocketType:
        """Return the next connection, which is owed an answer as *number* until ``answered``. Raises OSError.

        While there is draining nobody is taken from *listener*: they wait there, for whatever program comes next.
        """
        while True:
            while not self._open.is_set():  # to wait for what is set lets others go first, and one of them may close it
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
        """Say that nobody waits for these connections: they are closed, or pass on what never ends."""
        self.owed.difference_update(numbers)
        self._changed.set()

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """Let nobody in meanwhile, and have everybody who is in answered before, as far as that takes no more than a second."""
        self._open = trio.Event()
        if self._accepting is not None:
            self._accepting.cancel()
        try:
            with trio.move_on_after(DRAIN_SECONDS):
                # Who was accepted by the kernel while that was cancelled is in, too.
                while self.owed or self._accepting is not None:
                    self._changed = trio.Event()
                    await self._changed.wait()
            yield
        finally:
            self._open.set()
