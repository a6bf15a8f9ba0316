"""Progress of a long piece of work: steps with a name and, at their end, a time.

On a terminal the running step has a spinner; elsewhere each step is a plain line.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console


class Progress(Protocol):
    """Reports the steps of a piece of work, and notes about it."""

    def step(self, name: str) -> AbstractContextManager[None]:
        """Return the context of the step *name*; leaving it without an exception means done."""
        ...

    def note(self, text: str) -> None:
        """Report something worth knowing about the work."""
        ...


class ConsoleProgress:
    """Reports on *console*; *clock* gives seconds."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Report the beginning and the end of the step *name*."""
        start = self._clock()
        if self._console.is_terminal:
            with self._console.status(name):
                yield
        else:
            self._line(f"· {name} …")
            yield
        self._line(f"✓ {name} ({self._clock() - start:.1f} s)")

    def note(self, text: str) -> None:
        """Print *text* on a line of its own."""
        self._line(f"  {text}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
