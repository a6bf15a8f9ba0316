"""The signals sent to this process, one after the other: a request to end, a child that ended."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio

from milkyway_agent.system import signals


@contextmanager
def arriving(*numbers: int) -> Iterator[AsyncIterator[int]]:
    """Yield an iterator over the signals *numbers* as they arrive. Pending signals of the same number are one.

    Call it in the main thread. The signals are blocked inside; those that were blocked before stay so, and wait for the
    next reader, be it in the program that replaces this one. Raises OSError when no descriptor can be opened for them.
    """
    before = signals.block(numbers)
    try:
        descriptor = signals.signalfd(numbers)
        try:
            yield _Arrivals(descriptor)
        finally:
            os.close(descriptor)
    finally:
        signals.restore(before)


class _Arrivals(AsyncIterator[int]):
    """The signals read from a signalfd. Not a generator, which would have to be closed when it is abandoned."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._read: list[int] = []

    async def __anext__(self) -> int:
        while not self._read:
            await trio.lowlevel.wait_readable(self._descriptor)
            self._read = signals.read(self._descriptor)
        return self._read.pop(0)
