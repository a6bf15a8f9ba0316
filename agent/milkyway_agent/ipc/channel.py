"""One typed message per datagram between two processes of the agent, with the descriptors that belong to it.

``receive`` returns a message only if it is of the channel's union, in canonical form, not too
long and accompanied by exactly the descriptors that its type carries. Otherwise it closes the
descriptors that came along and raises MessageRefusedError; the channel can be read further. A peer
that is gone is a ChannelClosedError (an empty datagram counts as one: SOCK_SEQPACKET can't tell them
apart). What to do about a peer that sends nonsense is left to the caller.

PID 1 imports this module: it uses only the standard library, msgspec and trio.
"""

import array
import os
import socket
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import msgspec
import trio

from milkyway_agent.ipc import messages
from milkyway_agent.ipc.messages import MAX_MESSAGE_BYTES
from milkyway_formats import codec
from milkyway_formats.errors import RefusedError, UnavailableError

MAX_DESCRIPTORS = 2

SentT = TypeVar("SentT")
ReceivedT = TypeVar("ReceivedT")


class MessageRefusedError(RefusedError):
    """The peer sent something that is no message of this channel. The channel remains usable."""

    def __init__(self, message: str, *, peer: str) -> None:
        super().__init__(message)
        self.peer = peer


class ChannelClosedError(UnavailableError):
    """The peer is gone, or this end was closed."""

    def __init__(self, message: str, *, peer: str) -> None:
        super().__init__(message)
        self.peer = peer


def descriptors_of(message: object) -> int:
    """Return exactly how many descriptors travel with *message*."""
    match message:
        case messages.Begin() | messages.FetchLayer() | messages.CheckPolicy():
            return 2
        case messages.VerifyLayer() | messages.AdmitLocally() | messages.Fetch():
            return 1
        case messages.Envelope() | messages.ApiConnection():
            return 1
        case messages.ApiRequest() | messages.ApiAnswer():
            return 1 if message.has_body else 0
        case _:
            return 0


def close_all(descriptors: Iterable[int]) -> None:
    """Close all *descriptors*; they belong to this process, so a failure is a bug."""
    for descriptor in descriptors:
        os.close(descriptor)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends, both closed on exec. Undo: ``close`` each."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


class Channel(Generic[SentT, ReceivedT]):
    """One end of a channel. Annotate it with what it sends and what it receives::

        verifier: Channel[ToVerifier, FromVerifier] = Channel(end, FromVerifier, peer="verifier")

    Any task may send; a single task receives. The channel owns its socket and nothing else.
    """

    def __init__(self, end: socket.socket, receives: Any, *, peer: str) -> None:
        self.peer = peer
        self._receives = cast("type[ReceivedT]", receives)
        self._socket = trio.socket.from_stdlib_socket(end)
        self._sending = trio.Lock()

    @classmethod
    def adopt(cls, descriptor: int, receives: Any, *, peer: str) -> Self:
        """Return a channel over the inherited *descriptor*, which is closed on exec from now on."""
        os.set_inheritable(descriptor, False)
        return cls(socket.socket(fileno=descriptor), receives, peer=peer)

    async def send(self, message: SentT, fds: Sequence[int] = ()) -> None:
        """Send *message* with copies of *fds*, which stay the caller's. Waits while the peer is slow.

        Raises ChannelClosedError. A message that is too long, or whose type carries other descriptors, is the caller's bug.
        """
        data = codec.encode(cast("msgspec.Struct", message))
        name = type(message).__name__
        if len(data) > MAX_MESSAGE_BYTES:
            raise AssertionError(f"{name} has {len(data)} bytes, a message at most {MAX_MESSAGE_BYTES}")
        if len(fds) != descriptors_of(message):
            raise AssertionError(f"{name} travels with {descriptors_of(message)} descriptors, not {len(fds)}")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        async with self._sending:
            try:
                await self._socket.sendmsg([data], rights)
            except (OSError, trio.ClosedResourceError) as error:  # EBADF too: closed here while we waited for our turn
                raise ChannelClosedError(f"cannot send to {self.peer}: it is gone", peer=self.peer) from error

    async def receive(self) -> tuple[ReceivedT, list[int]]:
        """Return the next message and its descriptors, which are now the caller's and closed on exec.

        Raises MessageRefusedError (the channel can be read further) or ChannelClosedError.
        """
        try:
            # Room for a byte and two descriptors more than allowed: what is too much is seen, not silently cut.
            data, rights, flags, _ = await self._socket.recvmsg(
                MAX_MESSAGE_BYTES + 1,
                socket.CMSG_SPACE((MAX_DESCRIPTORS + 2) * array.array("i").itemsize),
                socket.MSG_CMSG_CLOEXEC,
            )
        except (OSError, trio.ClosedResourceError) as error:
            raise ChannelClosedError(f"cannot receive from {self.peer}: it is gone", peer=self.peer) from error
        fds = _descriptors(rights)
        try:
            if not data:
                raise ChannelClosedError(f"cannot receive from {self.peer}: it is gone", peer=self.peer)
            message = self._decode(data, flags, fds)
        except BaseException:
            close_all(fds)
            raise
        return message, fds

    def close(self) -> None:
        """Close this end; the peer sees it as gone. Idempotent."""
        self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, data: bytes, flags: int, fds: list[int]) -> ReceivedT:
        if flags & socket.MSG_TRUNC:
            raise self._refused(f"longer than {MAX_MESSAGE_BYTES} bytes")
        if flags & socket.MSG_CTRUNC or len(fds) > MAX_DESCRIPTORS:
            raise self._refused(f"more than {MAX_DESCRIPTORS} descriptors")
        try:
            message = codec.decode(data, self._receives, what="it", limit=MAX_MESSAGE_BYTES)
        except RefusedError as error:
            raise self._refused(str(error).removeprefix("cannot read it: ")) from error
        except (ValueError, RecursionError) as error:  # the decoder has no error for it, and it is still the peer's fault
            raise self._refused(str(error)) from error
        if len(fds) != descriptors_of(message):
            wanted = descriptors_of(message)
            raise self._refused(f"{type(message).__name__} with {len(fds)} descriptors instead of {wanted}")
        return message

    def _refused(self, why: str) -> MessageRefusedError:
        return MessageRefusedError(f"cannot read a message from {self.peer}: {why}", peer=self.peer)


def _descriptors(rights: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in a datagram's ancillary data."""
    fds = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
