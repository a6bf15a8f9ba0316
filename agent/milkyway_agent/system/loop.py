"""Loop devices: a file as a block device, read-only, with direct I/O, which disappears with its last user.

With direct I/O the page cache has a single copy of each block: that of the file system above.
"""

import fcntl
import os
import struct
from pathlib import Path

# linux/loop.h
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16
_LOOP_INFO64 = struct.Struct("<5Q4I64s64s32s2Q")
_LOOP_CONFIG_BYTES = 304
BLOCK_BYTES = 4096


def get_free() -> int:
    """Return the number of a loop device that is not in use (LOOP_CTL_GET_FREE); another caller may get the same."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(control, LOOP_CTL_GET_FREE)
    finally:
        os.close(control)


def loop_config(file: int, name: str, flags: int) -> bytes:
    """Return the ``struct loop_config`` that backs a loop device with the descriptor *file*."""
    info = _LOOP_INFO64.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name.encode()[:63], b"", b"", 0, 0)
    return (struct.pack("<II", file, BLOCK_BYTES) + info).ljust(_LOOP_CONFIG_BYTES, b"\0")


def configure(number: int, path: str, flags: int) -> tuple[str, int]:
    """Back loop device *number* with the file *path* (LOOP_CONFIGURE).

    Returns the device's path and a descriptor of it: with LO_FLAGS_AUTOCLEAR the device exists only
    while something holds it open, so close the descriptor only when something else does.
    """
    device = f"/dev/loop{number}"
    opened = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(opened, LOOP_CONFIGURE, loop_config(file, Path(path).name, flags))
        finally:
            os.close(file)
    except OSError as error:
        os.close(opened)
        raise OSError(error.errno, error.strerror, path) from error
    return device, opened
