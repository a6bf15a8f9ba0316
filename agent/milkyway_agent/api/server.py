"""PID 1's side of the local API: connections and their peers, and the front that parses HTTP for them.

PID 1 accepts a connection, asks the kernel who is at its other end, and hands the descriptor to
the *front*, a process in a domain of its own, started by the first connection and gone when none
has been open for a while. What comes back is one ApiRequest at a time per connection; its
authority is that of the connection's peer, whatever the front says (``api.front_link``).

A front that crashes or is given up takes its own connections with it and nothing else; the next
connection starts another front, after a growing delay if they keep failing. ``serve`` never returns and
never raises an Exception. Parsing HTTP is ``front.server``'s, what a request does is ``api.requests``'.
"""

import os
import socket
import struct
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count

import trio

from milkyway_agent.api.access import Peer
from milkyway_agent.api.draining import Drain
from milkyway_agent.api.front_link import DEFAULT_LIMITS, FrontLink, FrontProcess, Limits
from milkyway_agent.api.requests import Answers, Note
from milkyway_agent.ipc.channel import socket_pair

SOCKET_PATH = "/run/milkyway/mwctl.sock"
SO_PEERGROUPS = 59  # asm-generic/socket.h; Python's socket has no name for it
MAX_RESTART_DELAY = 10.0
# Starts a front whose descriptor 3 is a copy of the given end, which stays the caller's.
StartFront = Callable[[socket.socket], Awaitable[FrontProcess]]


def listen(path: str = SOCKET_PATH) -> socket.socket:
    """Return the listening socket at *path*, replacing what an earlier agent left. The undo is ``close`` and unlink.

    Everybody may connect (the policy says which domains): ``apply`` is for anyone, everything else
    asks for the peer's credentials.
    """
    if os.path.lexists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener


def peer_of(connection: socket.socket | trio.socket.SocketType) -> Peer:
    """Return who connected, as the kernel noted it at that moment."""
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        # 1024 bytes, 256 groups, is the most that Python's getsockopt reads; with more, only the first group counts.
        more = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    except OSError:
        more = b""
    return Peer(pid, uid, frozenset({gid, *struct.unpack(f"{len(more) // 4}I", more)}))


async def serve(
    listener: socket.socket,
    answers: Answers,
    start_front: StartFront,
    note: Note,
    drain: Drain,
    *,
    limits: Limits = DEFAULT_LIMITS,
    owner: int = 0,
) -> None:
    """Accept on *listener* for ever; *start_front* is called when there is a connection and no front.

    *drain* accepts connections. *owner*: the user who counts as root here, because the services run as that user.
    """
    accepting = trio.socket.from_stdlib_socket(listener)
    async with trio.open_nursery() as nursery:
        fronts = _Fronts(nursery, answers, start_front, note, drain, limits, owner)
        for number in count(1):
            try:
                connection = await drain.accept(accepting, number)
            except OSError as error:  # out of descriptors or memory: clients that come meanwhile wait in the backlog
                note("api_accept_failed", why=str(error))
                await trio.sleep(1)
                continue
            with connection:  # the front has its own copy
                try:
                    await fronts.pass_on(connection, number)
                except Exception as error:  # noqa: BLE001 (this connection is lost, the API is not)
                    drain.answered(number)
                    note("api_connection_failed", why=f"{type(error).__name__}: {error}")


class _Fronts:
    """The present front, and when the next may be started."""

    def __init__(
        self,
        nursery: trio.Nursery,
        answers: Answers,
        start_front: StartFront,
        note: Note,
        drain: Drain,
        limits: Limits,
        owner: int,
    ) -> None:
        self._nursery = nursery
        self._answers = answers
        self._start_front = start_front
        self._note = note
        self._limits = limits
        self._drain = drain
        self._owner = owner
        self._front: FrontLink | None = None
        self._failures = 0
        self._not_before = 0.0

    async def pass_on(self, connection: trio.socket.SocketType, number: int) -> None:
        """Hand *connection* to the front, starting it if there is none; beyond the limits the caller just closes it."""
        peer = peer_of(connection)
        if peer.uid == self._owner:
            peer = peer._replace(uid=0)
        if self._front is not None and self._front.usable:
            per_user = Counter(other.uid for other in self._front.peers.values())
            # The last places are reserved for root, so that nobody else can lock the machine's owner out.
            limit = self._limits.connections - (0 if peer.uid == 0 else self._limits.per_user)
            if per_user.total() >= limit or (peer.uid != 0 and per_user[peer.uid] >= self._limits.per_user):
                self._note("api_connection_refused", uid=peer.uid, why="too many connections")
                self._drain.answered(number)
                return
        front = await self._usable_front()
        await front.take(number, peer, connection.fileno())

    async def _usable_front(self) -> FrontLink:
        if self._front is None or not self._front.usable:
            await trio.sleep(max(0.0, self._not_before - trio.current_time()))
            ours, theirs = socket_pair()
            try:
                with theirs:
                    process = await self._start_front(theirs)
            except BaseException:
                ours.close()
                self._failed()
                raise
            self._front = FrontLink(ours, process, self._answers, self._note, self._drain, self._limits)
            self._nursery.start_soon(self._accompany, self._front)
        return self._front

    async def _accompany(self, front: FrontLink) -> None:
        try:
            try:
                fault = await front.run()
            except Exception as error:  # noqa: BLE001 (a bug on this side ends this front, never PID 1)
                fault = f"a bug: {error!r}"
                self._note("api_failed", traceback=traceback.format_exc())
            if fault:
                self._failed()
                self._note("api_front_failed", why=fault, connections=len(front.peers))
            else:
                self._failures = 0
        finally:
            await front.end()

    def _failed(self) -> None:
        self._failures += 1
        self._not_before = trio.current_time() + min(0.1 * 2**self._failures, MAX_RESTART_DELAY)
