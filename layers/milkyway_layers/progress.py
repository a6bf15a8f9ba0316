"""How a long piece of work tells where it is: steps with a name and, at their end, a time.

On a terminal the running step turns in place; elsewhere each step is a plain line.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console


class Progress(Protocol):
    """Is told what begins and what was found out."""

    def step(self, name: str) -> AbstractContextManager[None]:
        """Enclose the step *name*; leaving it normally means done."""
        ...

    def note(self, text: str) -> None:
        """Tell something worth knowing about the work."""
        ...


class ConsoleProgress:
    """Tells it on *console*; *clock* gives seconds."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Enclose the step *name*."""
        start = self._clock()
        if self._console.is_terminal:
            with self._console.status(name):
                yield
        else:
            self._line(f"· {name} …")
            yield
        self._line(f"✓ {name} ({self._clock() - start:.1f} s)")

    def note(self, text: str) -> None:
        """Tell *text* on a line of its own."""
        self._line(f"  {text}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
