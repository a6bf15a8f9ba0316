"""The sockets that start services: opened before the service, kept while it restarts, taken away with its definition.

A listener is a descriptor that is non-blocking and close-on-exec. A service gets it as sd_listen_fds(3) describes:
``environment`` gives the variables, all but LISTEN_PID, which only the launcher knows; ``hand_over`` is called before each
start. Waiting for clients, and starting what they came for, is the supervisor's.
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
    errno.EADDRINUSE: "somebody listens there already",
    errno.EADDRNOTAVAIL: "the address is not this machine's",
    errno.EACCES: "not permitted",
    errno.ENOENT: "its directory is missing",
    errno.ENOTDIR: "its directory is none",
    errno.EROFS: "its directory is read-only",
}


def describe_address(address: Tcp | Udp | UnixStream | UnixDatagram | Fifo) -> str:
    """Return where a listener listens, as people read it."""
    if isinstance(address, Tcp | Udp):
        host = f"[{address.address}]" if ":" in address.address else address.address or "*"
        return f"{'TCP' if isinstance(address, Tcp) else 'UDP'} {host}:{address.port}"
    kind = {UnixStream: "Unix socket", UnixDatagram: "Unix datagram socket", Fifo: "named pipe"}[type(address)]
    return f"{kind} {address.path}"


def check_address(listener: Listener) -> None:
    """Raise RefusedError when there is no such address as *listener*'s, on this machine or any other."""
    address = listener.address
    if isinstance(address, Tcp | Udp) and address.address and _family(address.address) is None:
        raise RefusedError(f"{_cannot(listener)}: {address.address!r} is no IP address")


def open_listener(listener: Listener, context: str = "") -> int:
    """Return a descriptor that listens where *listener* says. Its undo is ``close_listener``.

    *context*: the SELinux context of its socket ("": the policy's choice): what may be done with it, and whether it may be
    bound at all, is then what the service may.

    Raises RefusedError when it can never be (no address; a file at its path that is neither a socket nor a pipe), and
    UnavailableError when it can't be now (a port in use, an address that this machine does not have).
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
            # Where this fails there is no listener: whoever tries again has it done again.
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
    """Close *descriptor*, and remove the file that ``open_listener`` made for it; another file at its path is left alone."""
    address = listener.address
    if isinstance(address, Tcp | Udp):
        os.close(descriptor)
        return
    ours: bool | None = None  # None: unknown
    with contextlib.suppress(OSError):
        ours = _is_its_file(descriptor, address)
    os.close(descriptor)
    with contextlib.suppress(OSError, RefusedError):  # then the file stays, and the next to open it finds that it is stale
        if ours:
            os.unlink(address.path)
        elif ours is None and not isinstance(address, Fifo):
            # without CAP_NET_ADMIN the kernel does not say which file it is: nobody's is as good as ours
            _remove_stale_socket(address.path, _KINDS[type(address)])


def hand_over(descriptor: int) -> None:
    """Make *descriptor* as a service expects it, right before each start: blocking (systemd's NonBlocking=no).

    The flag is one for all who hold it, so a service that started before may have changed it. The agent only polls what
    a service accepts from; what the agent accepts from (``accept``) is never handed over.
    """
    os.set_blocking(descriptor, True)


def environment(listeners: Sequence[Listener], stored: Sequence[str] = ()) -> dict[str, str]:
    """Return LISTEN_FDS and LISTEN_FDNAMES for a service that gets *listeners* from descriptor 3 on, in this order.

    *stored*: the names of its stored descriptors, which come after them. Nothing when there are none. LISTEN_PID is set by
    the launcher, in the process that becomes the service.
    """
    if not listeners and not stored:
        return {}
    names = [*(listener.name for listener in listeners if not listener.accept), *stored]
    return {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)} if names else {}


class Connection(NamedTuple):
    """One accepted connection (blocking, close-on-exec) and who is at its other end; "" and 0 for a Unix socket."""

    descriptor: int
    remote_address: str
    remote_port: int

    def environment(self, listener: Listener) -> dict[str, str]:
        """Return what its process gets: the connection is its only descriptor (systemd.socket(5), Accept=)."""
        remote = {"REMOTE_ADDR": self.remote_address, "REMOTE_PORT": str(self.remote_port)} if self.remote_address else {}
        return {"LISTEN_FDS": "1", "LISTEN_FDNAMES": listener.name, **remote}


def accept_connection(descriptor: int) -> Connection | None:
    """Return the next connection of a listener that accepts; None when none waits any more.

    Raises UnavailableError when there is no room for it now (descriptors, memory). It goes on waiting then, and the
    listener goes on being readable: wait before you try again.
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
    assert family is not None, "it was checked"
    return sockets.listen_internet(family, kind, address.address, address.port, both=False, backlog=listener.backlog)


def _family(address: str) -> int | None:
    """Return the family of an IP address as text, None where it is none. No name is ever looked up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, address)
            return family
    return None


def _remove_stale_socket(path: str, kind: int) -> None:
    """Remove a socket's file that nobody listens at any more; raise where somebody does, or where it is no socket."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise RefusedError(f"cannot listen at {path}: a file is there that is no socket")
    if sockets.is_listening(path, kind):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
    os.unlink(path)


def _open_fifo(address: Fifo) -> int:
    """Make a named pipe and open it for reading and writing, so that it never ends when a writer goes."""
    path = address.path
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise RefusedError(f"cannot listen at {path}: a file is there that is no named pipe")
        if _has_reader(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
        os.unlink(path)
    os.mkfifo(path, 0o600)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise OSError(errno.EADDRINUSE, "somebody else has put a file there", path)
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
    """Return whether the file at the path of *address* is the one that *descriptor* was opened with."""
    at_path = os.lstat(address.path)
    if isinstance(address, Fifo):
        own = os.fstat(descriptor)
        return stat.S_ISFIFO(own.st_mode) and (own.st_dev, own.st_ino) == (at_path.st_dev, at_path.st_ino)
    return sockets.bound_file(descriptor) == (at_path.st_dev, at_path.st_ino)


def _cannot(listener: Listener) -> str:
    return f"cannot open listener {listener.name} ({describe_address(listener.address)})"


def _reason(error: OSError) -> str:
    return _WHY.get(error.errno or 0) or error.strerror or str(error)
