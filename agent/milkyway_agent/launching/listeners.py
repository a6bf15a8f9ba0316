"""The sockets that start services: opened before the service starts, kept open while it restarts.

A listener is a descriptor that is non-blocking and close-on-exec. A service gets it as sd_listen_fds(3) describes:
``environment`` returns the variables except LISTEN_PID, which only the launcher knows; ``hand_over`` is called before each
start. The supervisor waits for clients and starts their services.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from typing import NamedTuple

from milkyway_agent.system import selinux, sockets
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.listener import Fifo, Listener, Tcp, Udp, UnixDatagram, UnixStream

_MAPPED = "::ffff:"  # an IPv4 address as an IPv6 socket shows it
_KINDS = {Tcp: socket.SOCK_STREAM, Udp: socket.SOCK_DGRAM, UnixStream: socket.SOCK_STREAM, UnixDatagram: socket.SOCK_DGRAM}
_WHY = {
    errno.EADDRINUSE: "another process listens there already",
    errno.EADDRNOTAVAIL: "the address is not this machine's",
    errno.EACCES: "not permitted",
    errno.ENOENT: "its directory is missing",
    errno.ENOTDIR: "its directory is not a directory",
    errno.EROFS: "its directory is read-only",
}


def describe_address(address: Tcp | Udp | UnixStream | UnixDatagram | Fifo) -> str:
    """Return where a listener listens, for people."""
    if isinstance(address, Tcp | Udp):
        host = f"[{address.address}]" if ":" in address.address else address.address or "*"
        return f"{'TCP' if isinstance(address, Tcp) else 'UDP'} {host}:{address.port}"
    kind = {UnixStream: "Unix socket", UnixDatagram: "Unix datagram socket", Fifo: "named pipe"}[type(address)]
    return f"{kind} {address.path}"


def check_address(listener: Listener) -> None:
    """Raise RefusedError if the address of *listener* is not an address at all."""
    address = listener.address
    if isinstance(address, Tcp | Udp) and address.address and _family(address.address) is None:
        raise RefusedError(f"{_cannot(listener)}: {address.address!r} is no IP address")


def open_listener(listener: Listener, context: str = "") -> int:
    """Return a descriptor that listens where *listener* says. Undo: ``close_listener``.

    *context*: the SELinux context of its socket ("": as the policy decides). With the service's own, what may be done with
    it, and whether it may be bound at all, is what the service may do.

    Raises RefusedError if it can never be opened (no address; a file at its path that is neither a socket nor a pipe), and
    UnavailableError if it can't be opened now (a port in use, an address that this machine does not have).
    """
    try:
        return _open_in(context, listener) if context else _open(listener)
    except OSError as error:
        raise UnavailableError(f"{_cannot(listener)}: {_reason(error)}") from error


def _open_in(context: str, listener: Listener) -> int:
    with contextlib.ExitStack() as undo:
        selinux.setsockcreatecon(context)
        try:
            descriptor = _open(listener)
            undo.callback(close_listener, descriptor, listener)
        finally:
            # If this fails, so does opening; the next try does it again.
            selinux.setsockcreatecon("")
        undo.pop_all()
        return descriptor


def _open(listener: Listener) -> int:
    address = listener.address
    if isinstance(address, Tcp | Udp):
        return _open_internet(address, listener)
    if isinstance(address, Fifo):
        return _open_fifo(address)
    kind = _KINDS[type(address)]
    _remove_stale_socket(address.path, kind)
    return sockets.listen_unix(address.path, address.mode, kind, listener.backlog)


def close_listener(descriptor: int, listener: Listener) -> None:
    """Close *descriptor*, and remove the file that ``open_listener`` made for it; any other file at its path is left alone."""
    address = listener.address
    if isinstance(address, Tcp | Udp):
        os.close(descriptor)
        return
    ours: bool | None = None  # None: unknown
    with contextlib.suppress(OSError):
        ours = _is_its_file(descriptor, address)
    os.close(descriptor)
    with contextlib.suppress(OSError, RefusedError):  # then the file stays, and is found to be stale when it is opened again
        if ours:
            os.unlink(address.path)
        elif ours is None and not isinstance(address, Fifo):
            # Without CAP_NET_ADMIN the kernel does not say which file it is: a stale one is as good as ours.
            _remove_stale_socket(address.path, _KINDS[type(address)])


def hand_over(descriptor: int) -> None:
    """Make *descriptor* blocking, as services expect it, right before each start (systemd's NonBlocking=no).

    All holders of the socket share the flag, so an earlier run of the service may have changed it. The agent only polls
    sockets from which services accept; those from which the agent accepts (``accept``) are never handed over.
    """
    os.set_blocking(descriptor, True)


def environment(listeners: Sequence[Listener], stored: Sequence[str] = ()) -> dict[str, str]:
    """Return LISTEN_FDS and LISTEN_FDNAMES for a service that gets *listeners* from descriptor 3 on, in this order.

    *stored*: the names of its stored descriptors, which come after them. Returns nothing if there are none. LISTEN_PID is
    set by the launcher, in the process that becomes the service.
    """
    if not listeners and not stored:
        return {}
    names = [*(listener.name for listener in listeners if not listener.accept), *stored]
    return {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)} if names else {}


class Connection(NamedTuple):
    """An accepted connection (blocking, close-on-exec) and the address of its client; "" and 0 for a Unix socket."""

    descriptor: int
    remote_address: str
    remote_port: int

    def environment(self, listener: Listener) -> dict[str, str]:
        """Return the variables of its process, whose only descriptor is the connection (systemd.socket(5), Accept=)."""
        remote = {"REMOTE_ADDR": self.remote_address, "REMOTE_PORT": str(self.remote_port)} if self.remote_address else {}
        return {"LISTEN_FDS": "1", "LISTEN_FDNAMES": listener.name, **remote}


def accept_connection(descriptor: int) -> Connection | None:
    """Return the next connection of a listener that accepts; None if none is waiting.

    Raises UnavailableError if there is no room for it now (descriptors, memory). The connection stays in the backlog and
    the listener readable: wait before the next try.
    """
    try:
        accepted = sockets.accept(descriptor)
    except OSError as error:
        raise UnavailableError(f"cannot accept a connection: {error.strerror}") from error
    if accepted is None:
        return None
    return Connection(accepted.descriptor, accepted.address.removeprefix(_MAPPED), accepted.port)


def _open_internet(address: Tcp | Udp, listener: Listener) -> int:
    kind = _KINDS[type(address)]
    if not address.address:
        try:
            return sockets.listen_internet(socket.AF_INET6, kind, "::", address.port, both=True, backlog=listener.backlog)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # a kernel without IPv6, or with it disabled
                raise
        return sockets.listen_internet(socket.AF_INET, kind, "0.0.0.0", address.port, both=False, backlog=listener.backlog)
    check_address(listener)
    family = _family(address.address)
    assert family is not None, "check_address has checked it"
    return sockets.listen_internet(family, kind, address.address, address.port, both=False, backlog=listener.backlog)


def _family(address: str) -> int | None:
    """Return the family of *address*, None if it is not an IP address. Names are never looked up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, address)
            return family
    return None


def _remove_stale_socket(path: str, kind: int) -> None:
    """Remove a socket's file if no process listens there any more. Raises if one does, or if it is not a socket."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise RefusedError(f"cannot listen at {path}: the file there is not a socket")
    if sockets.is_listening(path, kind):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
    os.unlink(path)


def _open_fifo(address: Fifo) -> int:
    """Make a named pipe and open it for reading and writing, so that reading never ends when a writer closes it."""
    path = address.path
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise RefusedError(f"cannot listen at {path}: the file there is not a named pipe")
        if _has_reader(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
        os.unlink(path)
    os.mkfifo(path, 0o600)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise OSError(errno.EADDRINUSE, "another process has put a file there", path)
        os.fchmod(descriptor, address.mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _has_reader(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
    return True


def _is_its_file(descriptor: int, address: UnixStream | UnixDatagram | Fifo) -> bool:
    """Tell whether the file at the path of *address* is the one that *descriptor* was opened with."""
    at_path = os.lstat(address.path)
    if isinstance(address, Fifo):
        own = os.fstat(descriptor)
        return stat.S_ISFIFO(own.st_mode) and (own.st_dev, own.st_ino) == (at_path.st_dev, at_path.st_ino)
    return sockets.bound_file(descriptor) == (at_path.st_dev, at_path.st_ino)


def _cannot(listener: Listener) -> str:
    return f"cannot open listener {listener.name} ({describe_address(listener.address)})"


def _reason(error: OSError) -> str:
    return _WHY.get(error.errno or 0) or error.strerror or str(error)
