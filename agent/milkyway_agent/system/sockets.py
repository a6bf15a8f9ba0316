"""Sockets: listening ones, connections, and datagrams with their senders and descriptors.

The caller decides what listens where, and what becomes of what is received.
"""

import array
import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

_UCRED = struct.Struct("3i")
SIOCUNIXFILE = 0x89E0  # linux/un.h
NOTIFY_BYTES = 4096  # the longest message of sd_notify(3), as in systemd's manager
NOTIFY_DESCRIPTORS = 16
_NOTIFY_ANCILLARY = socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(NOTIFY_DESCRIPTORS * 4)
# Errors of accept(2) for a connection that has failed: "treat them like EAGAIN by retrying".
_LOST_CONNECTION = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENONET,
        errno.EOPNOTSUPP,
        errno.ETIMEDOUT,
        errno.EPERM,  # a firewall's rule
    }
)


class Peer(NamedTuple):
    """The process that sent a message, with the user and group that the kernel vouches for."""

    pid: int
    uid: int
    gid: int


def listen(path: str, mode: int, backlog: int = 16) -> socket.socket:
    """Return a socket that listens at *path*; connecting is impossible before the path has *mode*."""
    opened = _bound(path, mode, socket.SOCK_STREAM)
    opened.listen(backlog)
    return opened


def datagram(path: str, mode: int) -> socket.socket:
    """Return a datagram socket at *path* whose messages come with their senders (SO_PASSCRED)."""
    opened = _bound(path, mode, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return opened


def sender(ancillary: list[tuple[int, int, bytes]]) -> Peer | None:
    """Return the sender of a datagram, from its ancillary data (SCM_CREDENTIALS)."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return Peer(*_UCRED.unpack(data[: _UCRED.size]))
    return None


class Notified(NamedTuple):
    """A message of sd_notify(3): its sender (0: not visible to us), its assignments, and the descriptors, now ours.

    ``refused`` says why a message is ignored; then it has neither ``fields`` nor descriptors.
    """

    pid: int
    fields: dict[str, str]
    descriptors: tuple[int, ...] = ()
    refused: str = ""


def receive_notify(opened: socket.socket) -> Notified | None:
    """Return the next message of the notify socket *opened* (``datagram``), None when there is none. Never blocks.

    The descriptors that came with it are close-on-exec, and the caller closes them. If a name is assigned twice, the
    first counts, as in systemd.
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    try:
        data, ancillary, came, _ = opened.recvmsg(NOTIFY_BYTES, _NOTIFY_ANCILLARY, flags)
    except BlockingIOError:
        return None
    descriptors = _passed(ancillary)
    credentials = sender(ancillary)
    pid = 0 if credentials is None else credentials.pid
    if came & socket.MSG_CTRUNC:
        refused = f"more than {NOTIFY_DESCRIPTORS} descriptors"
    elif came & socket.MSG_TRUNC:
        refused = f"more than {NOTIFY_BYTES} bytes"
    elif b"\0" in data[:-1]:
        refused = "a null byte"
    else:
        lines = data.rstrip(b"\0").decode("utf-8", "replace").split("\n")
        fields = dict(line.partition("=")[::2] for line in reversed(lines) if "=" in line)
        return Notified(pid, fields, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return Notified(pid, {}, refused=refused)


def _passed(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    """Return the descriptors that came with a datagram (SCM_RIGHTS)."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return tuple(found)


@contextlib.contextmanager
def borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Yield *descriptor* as a socket, and leave it open afterwards. Raises OSError (ENOTSOCK) if it is not a socket."""
    opened = socket.socket(fileno=descriptor)
    try:
        yield opened
    finally:
        opened.detach()


def listen_internet(family: int, kind: int, address: str, port: int, *, both: bool, backlog: int) -> int:
    """Return a non-blocking descriptor bound to *address* and *port*, listening if it is a stream.

    *family*: AF_INET or AF_INET6; *both*: an IPv6 socket takes IPv4 too. Raises OSError.
    """
    with socket.socket(family, kind | socket.SOCK_NONBLOCK) as opened:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        if kind == socket.SOCK_STREAM:
            # otherwise earlier connections that linger in TIME_WAIT would keep us from listening again
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        if kind == socket.SOCK_STREAM:
            opened.listen(backlog)
        return opened.detach()


def listen_unix(path: str, mode: int, kind: int, backlog: int) -> int:
    """Return a non-blocking descriptor bound to *path*, listening if it is a stream. Raises OSError with the path.

    At no moment are more allowed to connect than by *mode*. The umask is not touched: all threads share it.
    """
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as opened:
        os.fchmod(opened.fileno(), mode)  # bind(2) gives the file this mode, less the umask (net/unix/af_unix.c)
        try:
            opened.bind(path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        try:
            _widen(path, mode)
            if kind == socket.SOCK_STREAM:
                opened.listen(backlog)
        except OSError:
            os.unlink(path)
            raise
        return opened.detach()


def _widen(path: str, mode: int) -> None:
    """Give the socket's file at *path* the bits of *mode* that the umask took.

    Through a descriptor: anyone who may write to the directory may have put a link to another file in its place.
    """
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise OSError(errno.EADDRINUSE, "another process has put a file there", path)
        if stat.S_IMODE(found.st_mode) != mode:
            os.chmod(f"/proc/self/fd/{file}", mode)  # fchmod(2) takes no O_PATH descriptor; this link leads to the file
    finally:
        os.close(file)


def is_listening(path: str, kind: int) -> bool:
    """Tell whether some process has the Unix socket of *kind* at *path* open. Raises OSError if that is unknown."""
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True  # its backlog is full
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                return True  # it is open, as another kind
            raise
        return True


def bound_file(descriptor: int) -> tuple[int, int]:
    """Return device and inode of the file that the Unix socket *descriptor* was bound to, even if it has moved since.

    Raises OSError: PermissionError without CAP_NET_ADMIN, ENOENT if it is not bound to a file.
    """
    file = fcntl.ioctl(descriptor, SIOCUNIXFILE)
    try:
        found = os.fstat(file)
        return found.st_dev, found.st_ino
    finally:
        os.close(file)


class Accepted(NamedTuple):
    """A connection: its descriptor (blocking, close-on-exec), and the peer's address; "" and 0 for a Unix socket."""

    descriptor: int
    address: str
    port: int


def accept(descriptor: int) -> Accepted | None:
    """Return the next connection of the listening *descriptor*; None when there is none, or it is gone already.

    Raises OSError: EMFILE, ENFILE, ENOBUFS or ENOMEM when there is no room for it; then the connection keeps waiting.
    """
    with borrowed(descriptor) as listening:
        try:
            connection, name = listening.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in _LOST_CONNECTION:
                return None
            raise
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        return Accepted(connection.detach(), name[0], name[1])
    return Accepted(connection.detach(), "", 0)


def _bound(path: str, mode: int, kind: int) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    opened = socket.socket(socket.AF_UNIX, kind)
    before = os.umask(0o777)  # so that nobody can connect between bind and chmod
    try:
        opened.bind(path)
    except OSError as error:
        opened.close()
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.umask(before)
    os.chmod(path, mode)
    return opened
