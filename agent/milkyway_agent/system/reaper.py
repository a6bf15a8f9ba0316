"""Reaping: what a process that adopts orphans must do, as single calls. The caller knows which child is whose."""

import os
from collections.abc import Container

from milkyway_agent.system import processes
from milkyway_agent.system.libc import call

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PTRACE_DETACH = 17  # linux/ptrace.h


def set_child_subreaper(on: bool) -> None:
    """Adopt (or no longer adopt) the orphans among our descendants, as PID 1 always does."""
    call("prctl", PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def first_ended() -> int | None:
    """Return the pid of a child that has ended, without reaping it (WNOWAIT); None when there is none.

    A child that has made us its tracer (PTRACE_TRACEME) and stops is reported as if it had ended, and would hide all
    others while it is stopped: we detach from it.
    """
    try:
        result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is not None and result.si_code in (os.CLD_TRAPPED, os.CLD_STOPPED):
            call("ptrace", PTRACE_DETACH, result.si_pid, 0, 0)
            result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, ProcessLookupError):
        return None
    return None if result is None or result.si_code in (os.CLD_TRAPPED, os.CLD_STOPPED) else result.si_pid


def zombies(parent: int, spared: Container[int] = ()) -> list[processes.Stat]:
    """Return the children of *parent* that have ended and were not reaped, except *spared*, which are not even read.

    A child may be missing when others end meanwhile.
    """
    try:
        pids = [pid for pid in processes.children(parent) if pid not in spared]
    except FileNotFoundError:
        pids = None
    found = processes.processes(pids)
    return [child for child in found if child.parent == parent and child.state == "Z" and child.pid not in spared]


def reap(pid: int) -> int | None:
    """Reap the child *pid*, which has ended; return its wait status, or None if it was reaped already."""
    try:
        return os.waitpid(pid, os.WNOHANG)[1]
    except ChildProcessError:
        return None
