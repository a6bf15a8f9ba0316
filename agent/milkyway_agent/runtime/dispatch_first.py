"""What has happened to services comes before all else that a turn of trio's loop has to do.

A task that waits for the watch's descriptor runs after whatever tasks trio has drawn before it, and each of them costs as
much as a good part of a restart: the reaper above all, which every end wakes too. So the watch is dispatched
where trio has just learned what came, before any task runs. The task stays: it has trio wait for the descriptor, and takes
what comes in the meantime. Were trio to refuse this, as it does with an instrument that raises, only time would be lost.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio


class _First(trio.abc.Instrument):
    """Calls *dispatch* in each turn. It runs in no task: it may spawn some and set events, and can't wait."""

    def __init__(self, dispatch: Callable[[], None]) -> None:
        self._dispatch = dispatch

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 (trio's to name)
        """Take what came."""
        self._dispatch()


@contextmanager
def preceding(dispatch: Callable[[], None]) -> Iterator[None]:
    """Call *dispatch*, which must not wait and must take each thing once, first in every turn of trio's loop inside."""
    first = _First(dispatch)
    trio.lowlevel.add_instrument(first)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(first)
