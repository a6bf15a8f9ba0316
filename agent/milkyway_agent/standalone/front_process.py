"""The process that parses the local API's HTTP for a supervisor: this very program, with ``--front``."""

import os
import signal
import socket
import sys

from milkyway_agent.runtime.reaper import Reaper, wait_ended
from milkyway_agent.system import processes


class Front:
    """A front process: implements ``api.front_link.FrontProcess``."""

    def __init__(self, pid: int, reaper: Reaper) -> None:
        self._pid = pid
        self._pidfd = processes.pidfd_open(pid)
        self._reaper = reaper

    def kill(self) -> None:
        """Send SIGKILL; no error if it is gone."""
        if self._pidfd >= 0 and not processes.has_ended(self._pidfd):
            processes.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> object:
        """Return when it has ended and was reaped."""
        if self._pidfd < 0:
            return None
        await wait_ended(self._pidfd)
        code = processes.reap(self._pidfd).code
        os.close(self._pidfd)
        self._pidfd = -1
        self._reaper.release(self._pid)
        return code


async def start_front(end: socket.socket, reaper: Reaper) -> Front:
    """Start a front whose descriptor 3 is a copy of *end*. Raises OSError."""
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    pid = processes.spawn([sys.executable, *words[1:], "--front"], dict(os.environ), {2: 2, 3: end.fileno()})
    reaper.claim(pid)
    return Front(pid, reaper)
