"""What a service writes: lines from its pipe into the log, never more than its share.

A service that writes faster than it may loses lines, which are counted, and is then slowed down by
its full pipe: a flood costs the service, not PID 1.
"""

import os

import trio

from milkyway_agent.log import OUTPUT, Log

LINE_BYTES = 4096
LINES_PER_SECOND = 1000
_CHUNK_BYTES = 65536


class Lines:
    """Cuts a stream of bytes into lines of at most LINE_BYTES."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that *data* completes; what is too long for one is cut."""
        *whole, rest = (self._rest + data).split(b"\n")
        while len(rest) >= LINE_BYTES:
            whole.append(rest[:LINE_BYTES])
            rest = rest[LINE_BYTES:]
        self._rest = rest
        return [_text(piece) for line in whole for piece in _pieces(line)]

    def end(self) -> list[str]:
        """Return the line that was begun and never ended, if there is one."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


async def carry_lines(reading: int, service: str, log: Log) -> None:
    """Note each line that comes through the pipe *reading* (not blocking), until its writers are gone."""
    lines = Lines()
    window, counted, dropped = trio.current_time(), 0, 0
    while True:
        await trio.lowlevel.wait_readable(reading)
        data = os.read(reading, _CHUNK_BYTES)
        now = trio.current_time()
        if now - window >= 1:
            window, counted = now, 0
        for line in lines.feed(data) if data else lines.end():
            counted += 1
            if counted <= LINES_PER_SECOND:
                log.note(OUTPUT, service=service, line=line)
            else:
                dropped += 1
        if not data or counted > LINES_PER_SECOND:
            if dropped:
                log.note("output_dropped", service=service, lines=dropped)
                dropped = 0
            if not data:
                return
            await trio.sleep_until(window + 1)


def _pieces(line: bytes) -> list[bytes]:
    return [line[start : start + LINE_BYTES] for start in range(0, len(line), LINE_BYTES)] or [b""]


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
