"""Unix sockets: pairs between our processes, listening ones with a mode, and who is at the other end."""

import contextlib
import os
import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("3i")


class Peer(NamedTuple):
    """Who opened the connection, as the kernel noted at connect(2)."""

    pid: int
    uid: int
    gid: int


def socketpair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a pair that keeps messages apart (SOCK_SEQPACKET)."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def listen(path: str, mode: int, backlog: int = 16) -> socket.socket:
    """Return a socket that listens at *path*, which nobody can connect to before its mode is *mode*."""
    opened = _bound(path, mode, socket.SOCK_STREAM)
    opened.listen(backlog)
    return opened


def datagram(path: str, mode: int) -> socket.socket:
    """Return a datagram socket at *path* that says who sent each message (SO_PASSCRED)."""
    opened = _bound(path, mode, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return opened


def peer(connection: socket.socket) -> Peer:
    """Return who is at the other end (SO_PEERCRED)."""
    return Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def sender(ancillary: list[tuple[int, int, bytes]]) -> Peer | None:
    """Return who sent a datagram, out of its ancillary data (SCM_CREDENTIALS)."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return Peer(*_UCRED.unpack(data[: _UCRED.size]))
    return None


def _bound(path: str, mode: int, kind: int) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    opened = socket.socket(socket.AF_UNIX, kind)
    before = os.umask(0o777)  # so that it is closed to all between bind and chmod
    try:
        opened.bind(path)
    except OSError as error:
        opened.close()
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.umask(before)
    os.chmod(path, mode)
    return opened
