"""The console and the kernel's log: places for lines when there is no other yet."""

import os

KMSG_BYTES = 900  # one record, prefix included, must fit the kernel's LOG_LINE_MAX (1024)


def open_console(path: str = "/dev/console") -> int:
    """Open the console for writing, without making it our controlling terminal. Writing never blocks."""
    return os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)


def open_kmsg() -> int:
    """Open the kernel's log for writing."""
    return os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)


def write_line(descriptor: int, line: str) -> bool:
    """Write a line; return False if it was not taken whole (a console that is not read)."""
    data = printable(line).encode() + b"\r\n"
    try:
        return os.write(descriptor, data) == len(data)
    except BlockingIOError:
        return False


def write_kmsg(descriptor: int, line: str, level: int = 6) -> None:
    """Write one record of *level* (3 error, 4 warning, 6 information) to the kernel's log."""
    os.write(descriptor, f"<{level}>{printable(line)}".encode()[:KMSG_BYTES])


def printable(line: str) -> str:
    """Return *line* with all characters that could steer a terminal or begin a new line as escapes."""
    return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
