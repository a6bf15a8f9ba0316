"""dm-verity devices through device-mapper's own ioctls: create, load, resume; status; remove.

Opening a device takes three calls and no other program. The hash tree follows the data in the same
file, without a superblock: all that the kernel needs is in the table, which comes from a verified
manifest.
"""

import errno
import fcntl
import os
import struct
from typing import NamedTuple

# linux/dm-ioctl.h: _IOWR(0xfd, nr, struct dm_ioctl)
_DM_IOCTL = 0xC138FD00
DM_DEV_CREATE, DM_DEV_REMOVE, DM_DEV_SUSPEND, DM_DEV_STATUS, DM_TABLE_LOAD = 3, 4, 6, 7, 9
DM_READONLY_FLAG = 1 << 0
DM_DEFERRED_REMOVE = 1 << 17
_HEADER = struct.Struct("<3IIIIiIIIQ128s129s7x")  # struct dm_ioctl
_TARGET = struct.Struct("<QQiI16s")  # struct dm_target_spec
_BUFFER_BYTES = 16384
CONTROL = "/dev/mapper/control"


class Device(NamedTuple):
    """A mapped device as device-mapper describes it."""

    path: str
    open_count: int
    read_only: bool


def table(data: str, *, data_blocks: int, root_hash: str, salt: str) -> str:
    """Return the verity target's parameters for a device *data* with *data_blocks* blocks of data and then the hash tree."""
    return f"1 {data} {data} 4096 4096 {data_blocks} {data_blocks} sha256 {root_hash} {salt}"


def request(name: str, flags: int = 0, target: tuple[int, str, str] | None = None) -> bytearray:
    """Return the buffer for an ioctl on device *name*. *target*: sectors, type, parameters."""
    buffer = bytearray(_BUFFER_BYTES)
    _HEADER.pack_into(
        buffer, 0, 4, 0, 0, _BUFFER_BYTES, _HEADER.size, 1 if target else 0, 0, flags, 0, 0, 0, name.encode(), b""
    )
    if target:
        sectors, kind, parameters = target
        text = parameters.encode() + b"\0"
        padded = text.ljust(-(-len(text) // 8) * 8, b"\0")
        _TARGET.pack_into(buffer, _HEADER.size, 0, sectors, 0, _TARGET.size + len(padded), kind.encode())
        buffer[_HEADER.size + _TARGET.size : _HEADER.size + _TARGET.size + len(padded)] = padded
    return buffer


def create(name: str) -> None:
    """Make the empty device *name* (DM_DEV_CREATE)."""
    _ioctl(DM_DEV_CREATE, name, request(name))


def load(name: str, sectors: int, parameters: str) -> None:
    """Give device *name* a read-only verity table (DM_TABLE_LOAD)."""
    _ioctl(DM_TABLE_LOAD, name, request(name, DM_READONLY_FLAG, (sectors, "verity", parameters)))


def resume(name: str) -> str:
    """Make the loaded table of *name* the active one (DM_DEV_SUSPEND without its flag). Returns the device's path."""
    return _device(_ioctl(DM_DEV_SUSPEND, name, request(name))).path


def remove(name: str, *, deferred: bool = False) -> None:
    """Remove device *name* (DM_DEV_REMOVE); *deferred*: as soon as it is not open any more."""
    _ioctl(DM_DEV_REMOVE, name, request(name, DM_DEFERRED_REMOVE if deferred else 0))


def status(name: str) -> Device | None:
    """Return device *name* (DM_DEV_STATUS), or None if it does not exist."""
    try:
        return _device(_ioctl(DM_DEV_STATUS, name, request(name)))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _device(buffer: bytearray) -> Device:
    fields = _HEADER.unpack_from(buffer)
    return Device(f"/dev/dm-{os.minor(fields[10])}", fields[6], bool(fields[7] & DM_READONLY_FLAG))


def _ioctl(number: int, name: str, buffer: bytearray) -> bytearray:
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(control, _DM_IOCTL | number, buffer)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
    finally:
        os.close(control)
    return buffer
