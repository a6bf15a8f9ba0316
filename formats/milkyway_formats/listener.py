"""A listener: a socket that the agent opens and passes to a service (sd_listen_fds(3)), which may start on demand."""

from typing import Annotated, Literal

from msgspec import Meta

from milkyway_formats.codec import Document
from milkyway_formats.names import AbsolutePath, Port

ListenerName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}\Z", description="a listener's name (LISTEN_FDNAMES)")]
Mode = Annotated[int, Meta(ge=0, le=0o777, description="permissions of the socket's file")]


class Tcp(Document, tag="tcp", frozen=True):
    """A TCP port. ``address``: "" means all addresses of the machine."""

    port: Port
    address: Annotated[str, Meta(max_length=64)] = ""


class Udp(Document, tag="udp", frozen=True):
    """A UDP port. ``address``: "" means all addresses of the machine."""

    port: Port
    address: Annotated[str, Meta(max_length=64)] = ""


class UnixStream(Document, tag="unix-stream", frozen=True):
    """A Unix stream socket."""

    path: AbsolutePath
    mode: Mode = 0o666


class UnixDatagram(Document, tag="unix-datagram", frozen=True):
    """A Unix datagram socket."""

    path: AbsolutePath
    mode: Mode = 0o666


class Fifo(Document, tag="fifo", frozen=True):
    """A named pipe, opened for reading and writing so that it never ends."""

    path: AbsolutePath
    mode: Mode = 0o666


SOCKET_PATH_BYTES = 107  # unix(7): sun_path, less the zero at its end
Address = Tcp | Udp | UnixStream | UnixDatagram | Fifo


class Listener(Document, frozen=True):
    """One socket of a service. It is kept open while the service restarts, so no client is lost.

    ``start``: whether the service starts at once, or when the first client comes. ``accept``: each connection gets a
    process of its own, which has it as descriptor 3, like systemd's ``Accept=yes`` (stream sockets only).
    """

    name: ListenerName
    address: Address
    start: Literal["at-once", "on-demand"] = "on-demand"
    accept: bool = False
    backlog: Annotated[int, Meta(ge=1, le=65535)] = 128
    connections: Annotated[int, Meta(ge=1, le=4096)] = 64


def overlap(first: Address, second: Address) -> bool:
    """Tell whether the two can't both be open: the same port of the same address (or of "", all), or the same path."""
    if isinstance(first, (Tcp, Udp)) or isinstance(second, (Tcp, Udp)):
        return (
            isinstance(first, (Tcp, Udp))
            and type(first) is type(second)
            and first.port == second.port
            and (first.address == second.address or not first.address or not second.address)
        )
    return first.path == second.path
