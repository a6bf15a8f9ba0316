"""Memory and context switches of the supervisor's own processes (proc(5), proc_pid_smaps(5)).

Pure functions parse the texts; the reading functions allow for processes that end meanwhile.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ (?P<offset>[0-9a-f]+) (?P<device>\S+) (?P<inode>\d+)")
FIELD = re.compile(r"^(?P<name>\w+):\s+(?P<kib>\d+) kB$")


class FileRange(NamedTuple):
    """Which part of which file is mapped."""

    device: str
    inode: int
    offset: int
    size_kib: int


class Memory(NamedTuple):
    """The memory of a process in KiB. ``files``: how much of each file range it has in memory."""

    pss_kib: int
    own_kib: int
    page_tables_kib: int
    files: dict[FileRange, int]


class Footprint(NamedTuple):
    """The memory of all of a supervisor's processes together, in KiB.

    ``pss_kib``: as the kernel counts it: a page that n processes of the whole machine map counts 1/n for each.
    ``alone_kib``: the same as if nothing else ran on the machine, so that a Python program doesn't look smaller because
    others happen to run beside it: a page of a file counts once, in full.
    """

    processes: int
    pss_kib: int
    alone_kib: int
    page_tables_kib: int

    @property
    def total_kib(self) -> int:
        """PSS as if alone, and page tables."""
        return self.alone_kib + self.page_tables_kib


def parse_memory(smaps: str, status: str) -> Memory:
    """Read /proc/PID/smaps and /proc/PID/status.

    A private page of a file that was written to is the process's own: the kernel counts it as anonymous.
    """
    pss, own = 0, 0
    files: dict[FileRange, int] = {}
    for mapping, values in _mappings(smaps):
        pss += values["Pss"]
        inode = int(mapping["inode"])
        if not inode:
            own += values["Pss"]
            continue
        own += values["Anonymous"]
        part = FileRange(mapping["device"], inode, int(mapping["offset"], 16), values["Size"])
        files[part] = max(files.get(part, 0), values["Rss"] - values["Anonymous"])
    return Memory(pss, own, parse_status(status)["VmPTE"], files)


def _mappings(smaps: str) -> Iterator[tuple[re.Match[str], dict[str, int]]]:
    head: re.Match[str] | None = None
    values: dict[str, int] = {}
    for line in smaps.splitlines():
        if field := FIELD.match(line):
            values[field["name"]] = int(field["kib"])
        elif found := MAPPING.match(line):
            if head:
                yield head, values
            head, values = found, {}
    if head:
        yield head, values


def parse_status(status: str) -> dict[str, int]:
    """Return the fields of /proc/PID/status whose value is a single number (with or without kB)."""
    pairs = (line.partition(":") for line in status.splitlines())
    numbers = ((name, value.removesuffix("kB").strip()) for name, _, value in pairs)
    return {name: int(value) for name, value in numbers if value.isdecimal()}


def parse_namespace_pids(status: str) -> list[int]:
    """Return the process's pid in each pid namespace, from the reader's to its own (NSpid in proc_pid_status(5))."""
    line = next((line for line in status.splitlines() if line.startswith("NSpid:")), "NSpid:")
    return [int(number) for number in line.removeprefix("NSpid:").split()]


def footprint(memories: Iterable[Memory]) -> Footprint:
    """Add up the processes of a supervisor.

    A file range that several of them map counts once, with the most that any has in memory: processes of the same
    program touch the same pages.
    """
    every = list(memories)
    files: dict[FileRange, int] = {}
    for memory in every:
        for part, kib in memory.files.items():
            files[part] = max(files.get(part, 0), kib)
    return Footprint(
        processes=len(every),
        pss_kib=sum(memory.pss_kib for memory in every),
        alone_kib=sum(memory.own_kib for memory in every) + sum(files.values()),
        page_tables_kib=sum(memory.page_tables_kib for memory in every),
    )


def read_footprint(pids: Iterable[int]) -> Footprint:
    """Measure the memory of the processes *pids*; a process that has ended meanwhile does not count."""
    memories: list[Memory] = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError, KeyError):
            memories.append(parse_memory((PROC / f"{pid}/smaps").read_text(), (PROC / f"{pid}/status").read_text()))
    return footprint(memories)


def read_wakeups(pids: Iterable[int]) -> dict[int, int]:
    """Return how often each thread of *pids* has gone to sleep voluntarily, which is how often it was woken."""
    switches: dict[int, int] = {}
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError, KeyError):
            for task in (PROC / f"{pid}/task").iterdir():
                switches[int(task.name)] = parse_status((task / "status").read_text())["voluntary_ctxt_switches"]
    return switches


def read_namespace_pid(pid: int) -> int:
    """Return the pid of process *pid* in its own pid namespace; 0 if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        numbers = parse_namespace_pids((PROC / f"{pid}/status").read_text())
        return numbers[-1] if len(numbers) > 1 else 0
    return 0
