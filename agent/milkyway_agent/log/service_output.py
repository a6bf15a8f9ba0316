"""What a service writes: lines from its pipe into the log, never more than its share.

A service that writes faster than it may loses the lines beyond its share, which are counted. Its pipe
is then not read for a while, fills up and slows the service down. So a flood costs the service, for
``PAUSE_SECONDS`` at a time, and nothing else: each call reads a single chunk and returns.

A line may begin with its priority, ``<0>`` to ``<7>`` (sd-daemon(3)). A line that happens to be JSON
stays a line: taking it apart would mean that PID 1 parses what anybody may write, and would let a
service invent facts and events. A reader of the log can parse it, and knows better how.

The descriptor stays its owner's, who closes it after ENDED.
"""

import fcntl
import math
import os
import termios
from typing import Final, NamedTuple

import trio

from milkyway_agent.log.log import Log
from milkyway_agent.log.record import INFO

LINE_BYTES = 4096
CHUNK_BYTES = 16384  # per call, with at most ``Share.burst`` lines: a call must not hold up the loop
PAUSE_SECONDS = 1.0
AT_ONCE: Final = -math.inf
ENDED: Final = math.inf


class Share(NamedTuple):
    """What a service may write: *burst* lines at once, *rate* per second in the long run. A line counts once more per KiB."""

    rate: int = 1000
    burst: int = 1000


class Line(NamedTuple):
    """A line and its priority."""

    priority: int
    text: str


FULL_SHARE: Final = Share()


class Lines:
    """Cuts a stream of bytes into lines of at most LINE_BYTES; *rest* is a line begun earlier and not ended yet."""

    __slots__ = ("_continued", "_default", "rest")

    def __init__(self, default: int = INFO, rest: bytes = b"") -> None:
        self.rest = rest
        self._default = default
        self._continued = -1  # the priority of the line that ``rest`` continues; -1: it continues none

    def feed(self, data: bytes) -> list[Line]:
        """Return the lines that *data* completes; a line that is too long is cut, each piece with the line's priority."""
        *whole, rest = (self.rest + data).split(b"\n")
        found: list[Line] = []
        for line in whole:
            found.append(self._piece(self._cut(line, found)))
            self._continued = -1
        self.rest = self._cut(rest, found)
        return found

    def end(self) -> list[Line]:
        """Return the line that was begun and never ended, if any."""
        rest, self.rest = self.rest, b""
        return [self._piece(rest)] if rest else []

    def _cut(self, line: bytes, found: list[Line]) -> bytes:
        """Add pieces of *line* to *found* until what is left is short enough, and return that."""
        while len(line) > LINE_BYTES:
            piece = self._piece(line[:LINE_BYTES])
            found.append(piece)
            self._continued, line = piece.priority, line[LINE_BYTES:]
        return line

    def _piece(self, data: bytes) -> Line:
        if self._continued >= 0:
            return Line(self._continued, _text(data))
        if data[:1] == b"<" and data[2:3] == b">" and data[1:2] in _DIGITS:
            return Line(data[1] - _DIGITS[0], _text(data[3:]))
        return Line(self._default, _text(data))


class Stream:
    """The output pipe of a service, for a loop that watches many: no task, and at rest no buffer.

    *descriptor* doesn't block. *priority*: of lines without a prefix. *rest*: what ``rest`` was in the
    agent that this one has replaced.
    """

    __slots__ = ("_allowance", "_lines", "_log", "_rests_until", "_share", "_since", "descriptor", "service")

    def __init__(
        self,
        descriptor: int,
        service: str,
        log: Log,
        *,
        share: Share = FULL_SHARE,
        priority: int = INFO,
        rest: bytes = b"",
    ) -> None:
        self.descriptor = descriptor
        self.service = service
        self._log = log
        self._share = share
        self._lines = Lines(priority, rest)
        self._allowance = float(share.burst)
        self._since = -math.inf  # the time up to which the allowance has grown
        self._rests_until = -math.inf

    @property
    def rest(self) -> bytes:
        """The line that was begun and not ended yet: a new agent continues from there."""
        return self._lines.rest

    def ready(self, now: float) -> float:
        """Read at most one chunk at *now* (monotonic seconds) and note its lines. Call it when the pipe is readable.

        Returns when to watch the pipe again: AT_ONCE; a later time, because the service has used up its share;
        or ENDED, never, because its writers are gone.
        """
        try:
            data = os.read(self.descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return AT_ONCE
        except OSError as error:
            self._log.note("output_failed", service=self.service, error=error.strerror)
            return ENDED
        dropped = self._note(self._lines.feed(data) if data else self._lines.end(), now)
        if dropped:
            self._log.note("output_dropped", service=self.service, lines=dropped)
        if not data:
            return ENDED
        if not dropped:
            return AT_ONCE
        self._rests_until = now + PAUSE_SECONDS
        return self._rests_until

    def begin_run(self, now: float) -> bool:
        """Let the service's next run use the same pipe, with a full share; an unfinished line becomes a line of its own.

        Returns False, and changes nothing, if something is still unread, or the last run has exceeded its share.
        """
        if now < self._rests_until or fcntl.ioctl(self.descriptor, termios.FIONREAD, _NOTHING) != _NOTHING:
            return False
        self._log.note_lines(self.service, self._lines.end())
        self._allowance, self._since = float(self._share.burst), -math.inf
        return True

    def _note(self, lines: list[Line], now: float) -> int:
        """Note as many of *lines* as the allowance covers; return how many are dropped."""
        self._allowance = min(self._share.burst, self._allowance + (now - self._since) * self._share.rate)
        self._since = now
        for index, line in enumerate(lines):
            self._allowance -= 1 + len(line.text) // 1024
            if self._allowance < 0:
                self._allowance = 0.0
                self._log.note_lines(self.service, lines[:index])
                return len(lines) - index
        self._log.note_lines(self.service, lines)
        return 0


async def log_lines(reading: int, service: str, log: Log) -> None:
    """Note each line that comes through the pipe *reading* (non-blocking), until its writers are gone."""
    stream = Stream(reading, service, log)
    while True:
        await trio.lowlevel.wait_readable(reading)
        again = stream.ready(trio.current_time())
        if again == ENDED:
            return
        await trio.sleep_until(again)


_DIGITS: Final = b"01234567"
_NOTHING: Final = bytes(4)  # a C int, 0


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
