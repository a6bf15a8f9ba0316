"""Readiness: how the supervisor learns that a service is ready for others. It said so, or we saw it listen.

Each function returns when the service is ready and waits for ever when it never is; the ready timer
is the supervisor's.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Container, Iterator

import trio

from milkyway_agent.launching.child import Running
from milkyway_agent.system import cgroups, processes, sockets

NOTIFY_BYTES = 4096


async def wait_listening(running: Running, port: int, interval: float, users: Container[int] | None) -> None:
    """Return when one of *users* (None: anybody) listens on TCP *port* in the service's network namespace.

    The kernel's table is read instead of connecting: that takes no network from PID 1, looks like no client to the
    service, and tells a stranger's socket from the service's own.
    """
    while True:
        listening = processes.listening_users(running.pid, port)
        if listening and (users is None or any(user in users for user in listening)):
            return
        await trio.sleep(interval)


@contextlib.contextmanager
def open_notify(path: str) -> Iterator[socket.socket]:
    """Give the sd_notify socket at *path*; afterwards it is gone."""
    opened = sockets.datagram(path, 0o666)
    try:
        yield opened
    finally:
        opened.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


async def wait_notified(opened: socket.socket, belongs: Callable[[int], bool], tell: Callable[[str], None]) -> None:
    """Return when a process that *belongs* to the service says READY=1 (sd_notify(3)); *tell* gets each STATUS."""
    waiting = trio.socket.from_stdlib_socket(opened)
    while True:
        data, ancillary, _, _ = await waiting.recvmsg(NOTIFY_BYTES, socket.CMSG_SPACE(16))
        who = sockets.sender(ancillary)
        if who is None or not belongs(who.pid):
            continue
        words = dict(line.partition("=")[::2] for line in data.decode("utf-8", "replace").splitlines())
        if "STATUS" in words:
            tell(words["STATUS"][:256])
        if words.get("READY") == "1":
            return


def belongs_to(running: Running, cgroup: str) -> Callable[[int], bool]:
    """Return a test of whether a process is the service's: its main process, or one in its control group.

    Where it has no group ("") of its own: one in the session that its main process leads.
    """

    def belongs(pid: int) -> bool:
        if pid == running.pid:
            return True
        try:
            if not cgroup:
                return os.getsid(pid) == running.pid
            own = cgroups.of_process(pid)
        except OSError:
            return False  # it has ended, and can't be told any more
        return bool(own) and own != "/" and f"{cgroup}/".endswith(f"{own}/")

    return belongs
