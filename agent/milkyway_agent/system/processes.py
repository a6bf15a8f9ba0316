"""Processes: posix_spawn, process descriptors (pidfd), and what /proc tells about them.

A pid is only a number and may be reused; signals are sent through a pidfd.
"""

import fcntl
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

_HIGH_DESCRIPTOR = 100
# Signals that a parent ignores or blocks stay so across execve: undo all that can be undone (signal(7)).
_DEFAULTED = frozenset(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}
_ENDS = frozenset({os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED})


class Ended(NamedTuple):
    """How a process ended. ``code``: its exit status, or minus the number of the signal that killed it."""

    pid: int
    code: int


class Stat(NamedTuple):
    """A process according to /proc/PID/stat. The pid and ``start`` (ticks since boot) together are never reused."""

    pid: int
    name: str
    state: str
    parent: int
    start: int


def spawn(command: Sequence[str], environment: Mapping[str, str], descriptors: Mapping[int, int] | None = None) -> int:
    """Execute *command* (an absolute path and its arguments) as a child in a session of its own; return its pid.

    *descriptors*: what the child has open, by the child's number, as ours. All others are closed (ours are close-on-exec);
    standard input, output and error are /dev/null unless named.
    """
    with ExitStack() as copies:
        # A source may have the number of another's target: copy all out of the way first.
        sources: dict[int, int] = {}
        for target, source in (descriptors or {}).items():
            sources[target] = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)
            copies.callback(os.close, sources[target])
        actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = []
        actions += [(os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in range(3) if n not in sources]
        actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in sources.items()]
        return os.posix_spawn(
            command[0],
            list(command),
            environment,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULTED,
        )


def pidfd_open(pid: int) -> int:
    """Return a descriptor of process *pid*: readable when it has ended (pidfd_open(2))."""
    return os.pidfd_open(pid)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send a signal to exactly the process behind *pidfd*."""
    signal.pidfd_send_signal(pidfd, number)


def has_ended(pidfd: int) -> bool:
    """Tell whether the child behind *pidfd* has ended, without reaping it (waitid(2), WNOWAIT).

    A child that has made us its tracer (PTRACE_TRACEME) is reported even when it merely stops: that is not its end.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return result is not None and result.si_code in _ENDS


def reap(pidfd: int) -> Ended:
    """Wait for the child behind *pidfd*, reap it and return how it ended."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert result is not None, "waitid without WNOHANG waits"
    code = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
    return Ended(result.si_pid, code)


def parse_stat(text: str) -> Stat:
    """Return the content of a /proc/PID/stat (proc_pid_stat(5)); the name may contain spaces and parentheses."""
    pid, _, rest = text.partition(" (")
    name, _, fields = rest.rpartition(") ")
    values = fields.split()
    return Stat(int(pid), name, values[0], int(values[1]), int(values[19]))


def children(pid: int) -> list[int]:
    """Return the children of process *pid*, including those that have not been reaped (proc_tid_children(5)).

    A child may be missing when others end meanwhile. Raises FileNotFoundError if the kernel does not list them
    (CONFIG_PROC_CHILDREN).
    """
    threads = _pids(os.listdir(f"/proc/{pid}/task"))
    return [int(child) for thread in threads for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]


def processes(pids: Iterable[int] | None = None) -> list[Stat]:
    """Return those of the processes *pids* that exist now; None: all processes."""
    found = []
    for pid in _pids(os.listdir("/proc")) if pids is None else pids:
        try:
            # A process may give itself any name, even one that is not UTF-8.
            found.append(parse_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="backslashreplace")))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of process *pid*; 0 for a kernel thread."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def listening_users(pid: int | str, port: int) -> set[int]:
    """Return the user ids that listen on TCP *port* in the network namespace of process *pid* (proc_pid_net(5))."""
    users: set[int] = set()
    for table in ("tcp", "tcp6"):
        try:
            text = Path(f"/proc/{pid}/net/{table}").read_text()
        except (FileNotFoundError, OSError):
            continue  # no such protocol, or the process has just ended
        users |= parse_listening(text, port)
    return users


def parse_listening(text: str, port: int) -> set[int]:
    """Return the user ids that listen on *port* according to *text* (of /proc/net/tcp)."""
    suffix, listen = f":{port:04X}", "0A"
    rows = (line.split() for line in text.splitlines()[1:])
    return {int(row[7]) for row in rows if row[1].endswith(suffix) and row[3] == listen}


def _pids(names: Iterable[str]) -> list[int]:
    return sorted(int(name) for name in names if name.isdecimal())
