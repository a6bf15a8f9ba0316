"""The console: a place for lines when there is no other yet."""

import os


def open_console(path: str = "/dev/console") -> int:
    """Open the console for writing, without making it our controlling terminal. Writing never blocks."""
    return os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)


def write_line(descriptor: int, line: str) -> bool:
    """Write a line; return False if it was not taken whole (a console that is not read)."""
    data = printable(line).encode() + b"\r\n"
    try:
        return os.write(descriptor, data) == len(data)
    except BlockingIOError:
        return False


def printable(line: str) -> str:
    """Return *line* with all characters that could steer a terminal or begin a new line as escapes."""
    return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
