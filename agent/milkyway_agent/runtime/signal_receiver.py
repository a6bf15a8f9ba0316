"""Signals that come to this process, one after the other: an order to end, a child that ended."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio

from milkyway_agent.system import signals


@contextmanager
def arriving(*numbers: int) -> Iterator[AsyncIterator[int]]:
    """Give the signals *numbers* as they come, in the main thread; several of one kind that wait together are one.

    They are blocked meanwhile; what is blocked before stays so, and waits for the next who reads, be it in the program
    that replaces this one. Raises OSError when there is no descriptor for them.
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
    """The signals that a descriptor tells of. No generator: one that is left behind would have to be closed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._read: list[int] = []

    async def __anext__(self) -> int:
        while not self._read:
            await trio.lowlevel.wait_readable(self._descriptor)
            self._read = signals.read(self._descriptor)
        return self._read.pop(0)
