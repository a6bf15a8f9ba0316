"""A container for a peer: started, observed from outside, and ended with everything in it.

The peer is PID 1 of pid, mount, network, host name, IPC and cgroup namespaces of its own, so killing it ends all that it
ever started, even what left its session. It also dies with the bench (PR_SET_PDEATHSIG twice: the bench to unshare,
unshare to PID 1), however the bench dies.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bench.supervisor.peer import HOST, Peer, Place
from bench.supervisor.processes import read_namespace_pid

SCRIPT = Path(__file__).parent / "native/container.sh"
IN_TREE = Path("/bench")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "container": "bench"}
END_SECONDS = 60.0


class Member(NamedTuple):
    """A process in the peer's container: its pid on the host and inside, and whether it is a service."""

    pid: int
    inside_pid: int
    is_service: bool


class ContainerError(Exception):
    """A container can't be made or does not end; the message says why."""


class Container:
    """A running peer, started by *command*. Use as a context manager: its end ends the peer."""

    def __init__(self, peer: Peer, place: Place, command: list[str], cgroup: Path, log: Path) -> None:
        self._place, self._cgroup = place, cgroup
        self._environment = ENVIRONMENT | peer.environment
        cgroup.mkdir()
        namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL"]
        stamped = [str(place.inside / "trivial"), str(place.inside / "slots"), "exec", *command]
        with log.open("ab") as out:
            # A session of its own: Ctrl-C goes to the bench only, which then ends the peer.
            self._unshare = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", str(SCRIPT), str(cgroup),
                 str(peer.tree), str(place.outside), *stamped],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True, env=self._environment, cwd="/",
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def alive(self) -> bool:
        """Tell whether its PID 1 is still alive."""
        return self._unshare.poll() is None

    def members(self) -> list[Member]:
        """Return every process in it: the supervisor's own and the services."""
        trivial = (self._place.outside / "trivial").stat()
        found: list[Member] = []
        for pid in _pids(self._cgroup):
            with suppress(FileNotFoundError, ProcessLookupError):
                is_service = os.path.samestat(os.stat(f"/proc/{pid}/exe"), trivial)
                found.append(Member(pid, read_namespace_pid(pid), is_service))
        return found

    def own_pids(self) -> list[int]:
        """Return the pids of the supervisor's own processes: all but the services."""
        return [member.pid for member in self.members() if not member.is_service]

    def service_pids(self) -> dict[int, int]:
        """Return the pid on the host of each service process, by its pid inside."""
        return {member.inside_pid: member.pid for member in self.members() if member.is_service}

    def run(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start *command* inside it, without output."""
        first = next((member.pid for member in self.members() if member.inside_pid == 1), None)
        if first is None:
            raise ContainerError(f"cannot run {command[0]}: the container has no PID 1 any more")
        enter = ["nsenter", "--target", str(first), "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd=/"]
        return subprocess.Popen(
            [*enter, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=self._environment,
        )  # fmt: skip

    def stop(self) -> None:
        """Kill everything in it, and return when it is gone."""
        self._unshare.kill()
        self._unshare.wait()
        remove_cgroups(self._cgroup)


def remove_cgroups(top: Path) -> None:
    """Kill every process in the cgroup *top* or below, and remove the cgroups. Raises ContainerError if one stays."""
    end = time.monotonic() + END_SECONDS
    while top.exists():
        with suppress(FileNotFoundError):
            (top / "cgroup.kill").write_text("1")
        # A cgroup can be removed only once the last of its processes has been reaped, soon after the kill.
        with suppress(OSError):
            for cgroup in sorted(_cgroups(top), reverse=True):
                cgroup.rmdir()
            return
        if time.monotonic() > end:
            raise ContainerError(f"cannot end {top.name}: processes {list(_pids(top))} stay")
        time.sleep(0.01)


def _cgroups(top: Path) -> Iterator[Path]:
    return (Path(directory) for directory, _, _ in os.walk(top))


def _pids(top: Path) -> Iterator[int]:
    for cgroup in _cgroups(top):
        with suppress(OSError):
            yield from map(int, (cgroup / "cgroup.procs").read_text().split())


def place_for(peer: Peer, directory: Path) -> Place:
    """Return *directory* as the place of *peer*, with the path at which *peer* sees it."""
    return Place(directory, directory if peer.tree == HOST else IN_TREE)
