"""Network interfaces: which there are, and whether they are up. The DHCP client sets addresses and routes."""

import fcntl
import socket
import struct

# linux/sockios.h, linux/if.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
_IFREQ = struct.Struct("16sH22x")


def names() -> list[str]:
    """Return the names of all interfaces."""
    return [name for _, name in socket.if_nameindex()]


def flags(name: str) -> int:
    """Return the flags of interface *name* (SIOCGIFFLAGS)."""
    value: int = _IFREQ.unpack(_ioctl(name, SIOCGIFFLAGS, 0))[1]
    return value


def set_flags(name: str, value: int) -> None:
    """Set the flags of interface *name* (SIOCSIFFLAGS)."""
    _ioctl(name, SIOCSIFFLAGS, value)


def set_up(name: str) -> None:
    """Bring interface *name* up."""
    set_flags(name, flags(name) | IFF_UP)


def _ioctl(name: str, number: int, value: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        try:
            return fcntl.ioctl(opened, number, _IFREQ.pack(name.encode(), value))
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from error
