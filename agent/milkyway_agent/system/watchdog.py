"""The hardware watchdog: reboots the machine unless it is told in time that we are alive (watchdog-api.rst)."""

import fcntl
import os
import struct

# linux/watchdog.h
WDIOC_KEEPALIVE = 0x80045705
WDIOC_SETTIMEOUT = 0xC0045706


def open_watchdog(path: str = "/dev/watchdog") -> int:
    """Open the watchdog, which starts it; return its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def set_timeout(watchdog: int, seconds: int) -> int:
    """Ask for a timeout; return the one that the hardware chose."""
    chosen: int = struct.unpack("i", fcntl.ioctl(watchdog, WDIOC_SETTIMEOUT, struct.pack("i", seconds)))[0]
    return chosen


def keepalive(watchdog: int) -> None:
    """Tell the watchdog that we are alive."""
    fcntl.ioctl(watchdog, WDIOC_KEEPALIVE, struct.pack("i", 0))


def close_watchdog(watchdog: int) -> None:
    """Stop the watchdog and close it: without the magic "V" it would keep running and reboot."""
    os.write(watchdog, b"V")
    os.close(watchdog)
