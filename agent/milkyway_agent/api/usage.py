"""What services use, read from their control groups: in a thread, so that the supervisor's loop does not wait for it.

Seven small files for each group; a file is only there if its controller is, else its figure is None. Reading a file
takes some hundredths of a millisecond. There is one such thread at a time, however many clients ask.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
import trio

from milkyway_agent.runtime.thread_limit import RunLimiter
from milkyway_agent.system import cgroups, processes

_READERS = RunLimiter("readers of figures", 1)
T = TypeVar("T")


class Figures(msgspec.Struct, frozen=True):
    """What a group uses now, and has used since it was made; pressure: percent of the last ten seconds."""

    memory_bytes: int | None = None
    cpu_usec: int | None = None
    tasks: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    io_pressure: float | None = None


class Use(msgspec.Struct, frozen=True):
    """A service with what it uses; figures for which the machine has no controller are null."""

    service: str
    state: str
    pid: int
    figures: Figures


class Top(msgspec.Struct, frozen=True):
    """All services with what they use. ``at_us``: when it was read, by a clock for differences; ``processors``: how many."""

    at_us: int
    uptime_ms: int
    processors: int
    services: list[Use]


def read_figures(path: str) -> Figures:
    """Return the figures of the group *path*; a group that is gone has none."""
    try:
        usage = cgroups.cpu_usage_usec(path)
        if usage is None:
            return Figures()  # every group has it: this group is gone
        transferred = cgroups.io_stat(path)
        return Figures(
            memory_bytes=cgroups.memory_current(path),
            cpu_usec=usage,
            tasks=cgroups.pids_current(path),
            read_bytes=transferred.read if transferred else None,
            written_bytes=transferred.written if transferred else None,
            cpu_pressure=cgroups.pressure(path, "cpu"),
            memory_pressure=cgroups.pressure(path, "memory"),
            io_pressure=cgroups.pressure(path, "io"),
        )
    except OSError:
        return Figures()  # not ours to read: the figures of the others are worth more than an error


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of *pid*, 0 where it can't be read."""
    try:
        return processes.pss_bytes(pid)
    except OSError:
        return 0


async def in_thread(work: Callable[[Mapping[str, Figures]], T], groups: Mapping[str, str]) -> T:
    """Return what *work* makes of the figures of *groups* (a name and a path each), both done in a thread."""

    def read() -> T:
        return work({name: read_figures(path) for name, path in groups.items()})

    return await trio.to_thread.run_sync(read, limiter=_READERS.get(), abandon_on_cancel=True)
