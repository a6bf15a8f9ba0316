"""What a killed supervisor has left: its services are ended before they are started again, or they would run twice.

Their control groups say which processes are theirs. These are asked to end, and killed if they don't.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from milkyway_agent.system import cgroups, processes

ASKED_SECONDS = 10.0
KILLED_SECONDS = 5.0
PREFIX = "services-"


def end(groups: str, seconds: float = ASKED_SECONDS) -> None:
    """End every process below the directory *groups*, as a supervisor has noted it, and remove that.

    They have *seconds* from being asked to being killed. Never raises OSError: what can't be ended is printed, and runs
    beside what is started now.
    """
    if not Path(groups).name.startswith(PREFIX) or not Path(groups, "cgroup.procs").exists():
        return  # it has ended in order
    try:
        left = [group for group in cgroups.children(groups) if cgroups.is_populated(group)]
        if left:
            _say(f"a supervisor was killed; its services are ended first: {', '.join(Path(group).name for group in left)}")
        for group in left:
            _ask(group)
        _await(left, seconds)
        for group in left:
            cgroups.kill(group)
        _await(left, KILLED_SECONDS)
        for group in cgroups.children(groups):
            cgroups.remove(group)
        cgroups.remove(groups)
    except OSError as error:
        _say(f"what a supervisor that was killed has left is not all ended: {error}")


def _say(line: str) -> None:
    print(f"milkyway: {line}", file=sys.stderr, flush=True)


def _ask(group: str) -> None:
    for pid in cgroups.processes(group):
        with contextlib.suppress(OSError):
            pidfd = processes.pidfd_open(pid)
            try:
                if pid in cgroups.processes(group):  # the pid was not reused meanwhile
                    processes.pidfd_send_signal(pidfd, signal.SIGTERM)
            finally:
                os.close(pidfd)


def _await(groups: list[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(cgroups.is_populated(group) for group in groups):
        time.sleep(0.02)
