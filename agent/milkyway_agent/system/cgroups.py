"""Control groups, version 2: directories and their files (cgroup-v2.rst). Paths are absolute."""

import errno
import os
from pathlib import Path
from typing import NamedTuple

# No such controller here; the group was removed between opening and reading; pressure is switched off (psi=0).
_ABSENT = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP})


class Transferred(NamedTuple):
    """Bytes that a group has read from and written to block devices."""

    read: int
    written: int


def create(path: str) -> None:
    """Make the group *path*."""
    Path(path).mkdir(0o755)


def remove(path: str) -> None:
    """Remove the group *path*, which must have no processes and no groups below it."""
    os.rmdir(path)


def children(path: str) -> list[str]:
    """Return the paths of the groups directly below *path*."""
    with os.scandir(path) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))


def attach(path: str, pid: int) -> None:
    """Move process *pid* into the group."""
    _write(f"{path}/cgroup.procs", str(pid))


def kill(path: str) -> None:
    """Send SIGKILL to every process of the group and of those below it, forking ones included."""
    _write(f"{path}/cgroup.kill", "1")


def processes(path: str) -> list[int]:
    """Return the processes directly in the group (zombies are not counted)."""
    return [int(line) for line in Path(path, "cgroup.procs").read_text().split()]


def is_populated(path: str) -> bool:
    """Tell whether a live process is in the group or below it."""
    return "populated 1" in Path(path, "cgroup.events").read_text()


def controllers(path: str) -> list[str]:
    """Return the controllers that may be enabled for the groups below *path*."""
    return Path(path, "cgroup.controllers").read_text().split()


def enable(path: str, names: list[str]) -> None:
    """Enable the controllers *names* for the groups below *path* (cgroup.subtree_control)."""
    _write(f"{path}/cgroup.subtree_control", " ".join(f"+{name}" for name in names))


def set_memory_max(path: str, limit: int | None) -> None:
    """Limit the group's memory, in bytes."""
    _write(f"{path}/memory.max", "max" if limit is None else str(limit))


def set_pids_max(path: str, limit: int | None) -> None:
    """Limit the number of the group's tasks."""
    _write(f"{path}/pids.max", "max" if limit is None else str(limit))


def set_cpu_weight(path: str, weight: int) -> None:
    """Set the group's share of the processor relative to its siblings, 1 to 10000."""
    _write(f"{path}/cpu.weight", str(weight))


def memory_current(path: str) -> int | None:
    """Return the bytes that the group is charged for; None without the controller, as with the next functions."""
    return _number(f"{path}/memory.current")


def pids_current(path: str) -> int | None:
    """Return how many tasks are in the group and below it."""
    return _number(f"{path}/pids.current")


def cpu_usage_usec(path: str) -> int | None:
    """Return the processor time that the group has used, which needs no controller."""
    text = _read_if_there(f"{path}/cpu.stat")
    return None if text is None else parse_keyed(text).get("usage_usec")


def io_stat(path: str) -> Transferred | None:
    """Return what the group has read and written, on all devices."""
    text = _read_if_there(f"{path}/io.stat")
    return None if text is None else parse_io_stat(text)


def pressure(path: str, resource: str) -> float | None:
    """Return the percentage of the last ten seconds in which some task of the group waited for *resource* (cpu, memory, io)."""
    text = _read_if_there(f"{path}/{resource}.pressure")
    return None if text is None else parse_pressure(text)


def pressure_trigger(path: str, resource: str, stall_us: int, window_us: int) -> int:
    """Return a descriptor that gets EPOLLPRI when tasks of the group waited *stall_us* of *window_us* for *resource*.

    At most once per window (psi.rst); EPOLLERR when the group is gone. Without CAP_SYS_RESOURCE a window is 2 s, 4 s….
    """
    descriptor = os.open(f"{path}/{resource}.pressure", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"some {stall_us} {window_us}\0".encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def parse_keyed(text: str) -> dict[str, int]:
    """Return a flat-keyed file (cpu.stat) as a table."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def parse_io_stat(text: str) -> Transferred:
    """Return the totals of an io.stat over all devices ("254:0 rbytes=1 wbytes=2 rios=…")."""
    totals = {"rbytes": 0, "wbytes": 0}
    for word in text.split():
        name, _, value = word.partition("=")
        if name in totals and value.isdigit():
            totals[name] += int(value)
    return Transferred(totals["rbytes"], totals["wbytes"])


def parse_pressure(text: str) -> float | None:
    """Return avg10 from the line "some" of a pressure file (psi.rst), None if there is none."""
    for line in text.splitlines():
        if line.startswith("some avg10="):
            return float(line[11:].split(" ", 1)[0])
    return None


def of_process(pid: int | str) -> str:
    """Return the group of process *pid* as a path below the hierarchy's root ("/coreos/dhcp")."""
    for line in Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""


def _number(path: str) -> int | None:
    text = _read_if_there(path)
    return None if text is None else int(text)


def _read_if_there(path: str) -> str | None:
    """Return the content of *path*, None if the kernel does not have it."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(opened, 65536).decode()
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def _write(path: str, text: str) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(opened, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(opened)
