"""The file in which every trivial service notes when it began, and which process it is.

The layout is that of ``native/trivial.c``. Reading it costs the services nothing: no message, no wake-up.
Times are nanoseconds of CLOCK_MONOTONIC, which ``time.monotonic_ns`` reads too.
"""

import mmap
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

HEAD = struct.Struct("=QQ48x")
SLOT = struct.Struct("=QII")
POLL_SECONDS = 0.002  # how soon the bench sees a change; the service itself stamped the time


class Birth(NamedTuple):
    """The latest start of one service. ``pid``: in the peer's own pid namespace. ``births``: how many starts so far."""

    born_ns: int
    pid: int
    births: int


class Slots:
    """The shared file *path*, newly made with a slot for each of *services* services."""

    def __init__(self, path: Path, services: int) -> None:
        self.services = services
        path.write_bytes(bytes(HEAD.size + SLOT.size * services))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._memory.close()

    @property
    def executed_ns(self) -> int:
        """When the supervisor was executed; 0 before that."""
        return int(HEAD.unpack_from(self._memory)[0])

    @property
    def births(self) -> int:
        """How many starts of all services there have been."""
        return int(HEAD.unpack_from(self._memory)[1])

    def birth(self, index: int) -> Birth:
        """The latest start of service *index*."""
        return Birth(*SLOT.unpack_from(self._memory, HEAD.size + SLOT.size * index))

    def all_births(self) -> list[Birth]:
        """The latest start of every service."""
        return [self.birth(index) for index in range(self.services)]

    def wait(self, wanted: Callable[[], bool], seconds: float, alive: Callable[[], bool] = lambda: True) -> bool:
        """Return whether *wanted* became true within *seconds*; give up at once when *alive* turns false."""
        end = time.monotonic() + seconds
        while not wanted():
            if time.monotonic() >= end or not alive():
                return wanted()
            time.sleep(POLL_SECONDS)
        return True

    def born_again(self, indices: Iterable[int], before: list[Birth]) -> Callable[[], bool]:
        """Return a function that tells whether all of *indices* have been started since *before* (from ``all_births``)."""
        remaining = set(indices)

        def all_again() -> bool:
            remaining.difference_update([index for index in remaining if self.birth(index).births > before[index].births])
            return not remaining

        return all_again
