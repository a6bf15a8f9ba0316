"""Control groups, version 2: directories and their files (cgroup-v2.rst). Paths are absolute."""

import os
from pathlib import Path


def create(path: str) -> None:
    """Make the group *path*."""
    Path(path).mkdir(0o755)


def remove(path: str) -> None:
    """Remove the group *path*, which must be without processes and groups below."""
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
    """Return the controllers that the group may hand on."""
    return Path(path, "cgroup.controllers").read_text().split()


def enable(path: str, names: list[str]) -> None:
    """Give the groups below *path* the controllers *names* (cgroup.subtree_control)."""
    _write(f"{path}/cgroup.subtree_control", " ".join(f"+{name}" for name in names))


def set_memory_max(path: str, limit: int | None) -> None:
    """Limit the group's memory, in bytes."""
    _write(f"{path}/memory.max", "max" if limit is None else str(limit))


def set_pids_max(path: str, limit: int | None) -> None:
    """Limit the number of the group's tasks."""
    _write(f"{path}/pids.max", "max" if limit is None else str(limit))


def set_cpu_weight(path: str, weight: int) -> None:
    """Set the group's share of the processor against its siblings, 1 to 10000."""
    _write(f"{path}/cpu.weight", str(weight))


def memory_current(path: str) -> int:
    """Return the bytes that the group is charged with."""
    return int(Path(path, "memory.current").read_text())


def of_process(pid: int | str) -> str:
    """Return the group of process *pid*, as a path below the hierarchy's root ("/coreos/dhcp")."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""


def _write(path: str, text: str) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(opened, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(opened)
