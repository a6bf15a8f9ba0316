"""Reading what ``log.files`` keeps: the records of many services, merged by time, in little memory.

A reader sees the files as they were at a certain moment: the segments with their lengths then
(``Part``). Segments are only ever appended to, and removed when room is needed; of a removed one the
reader sees nothing. So it runs beside the writer, in a thread of its own, and keeps nothing open
between two chunks.

The newest N records are found backwards from the end, which tells where in each service's segments
they begin; then they are read forwards. Only one chunk for each service is in memory.
"""

import heapq
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from milkyway_agent.log.record import OUTPUT, Record, decode

CHUNK_BYTES = 8192  # for each service that is read at once
LONGEST_LINE = 65536  # more than any record has (4096 characters of at most six bytes each): what is longer is no record


class Part(NamedTuple):
    """A segment as it was at a certain moment: its path and how many bytes it had."""

    path: str
    size: int


class Choice(NamedTuple):
    """Which records: noted from *since* until before *until* (milliseconds since 1970), of *priority* or worse.

    *events_only*: without what services wrote themselves.
    """

    since: int = 0
    until: int = 1 << 62
    priority: int = 7
    events_only: bool = False

    def takes(self, record: Record) -> bool:
        """Tell whether *record* is one of them."""
        return (
            self.since <= record.at < self.until
            and record.priority <= self.priority
            and not (self.events_only and record.event == OUTPUT)
        )


EVERYTHING = Choice()


class _Found(NamedTuple):
    """A record's time and position: the source, the part in it, and the offset in bytes."""

    at: int
    source: int
    part: int
    offset: int


class Past:
    """What there is to read: *records* in memory, or *sources*, each the segments of a service, oldest first."""

    def __init__(self, records: Sequence[Record], sources: Sequence[Sequence[Part]]) -> None:
        self._records = records
        self._sources = sources

    def newest(self, limit: int, choice: Choice = EVERYTHING) -> Iterator[Record]:
        """Yield the newest *limit* of the records that *choice* takes, oldest first. Reads disks: call it in a thread."""
        if not limit:
            return
        if self._records:
            chosen = [record for record in self._records if choice.takes(record)]
            yield from chosen[max(0, len(chosen) - limit) :]
        starts: dict[int, _Found] = {}
        backwards = [_backwards(number, parts, choice) for number, parts in enumerate(self._sources)]
        for found in islice(heapq.merge(*backwards, key=lambda found: found.at, reverse=True), limit):
            starts[found.source] = found
        forwards = [_forwards(self._sources[number][start.part :], start.offset) for number, start in starts.items()]
        merged = heapq.merge(*forwards, key=lambda record: record.at)
        yield from (record for record in merged if choice.takes(record))


def _forwards(parts: Sequence[Part], offset: int) -> Iterator[Record]:
    """Yield the records of *parts*, oldest first, from byte *offset* of the first part on."""
    for part in parts:
        rest = b""
        while offset < part.size:
            chunk = _read(part, offset, min(CHUNK_BYTES, part.size - offset))
            if not chunk:
                break
            offset += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                record = decode(line)
                if record is not None:
                    yield record
            if len(rest) > LONGEST_LINE:
                rest = b""
        last = decode(rest)  # complete but for the newline, if the power was cut just then
        if last is not None:
            yield last
        offset = 0


def _backwards(source: int, parts: Sequence[Part], choice: Choice) -> Iterator[_Found]:
    """Yield the positions of the records that *choice* takes, newest first.

    Ends with the first part that holds nothing as new as ``since``, not with the first such record: a clock that
    was wrong for a while, as during a boot, must not hide what was noted before.
    """
    for number in range(len(parts) - 1, -1, -1):
        newest = None
        for offset, line in _lines_backwards(parts[number]):
            record = decode(line)
            if record is None:
                continue
            newest = record.at if newest is None else max(newest, record.at)
            if choice.takes(record):
                yield _Found(record.at, source, number, offset)
        if newest is not None and newest < choice.since:
            return


def _lines_backwards(part: Part) -> Iterator[tuple[int, bytes]]:
    """Yield each line of *part*, last first, with the byte at which it begins."""
    rest, position = b"", part.size
    while position > 0:
        start = max(0, position - CHUNK_BYTES)
        chunk = _read(part, start, position - start)
        if len(chunk) < position - start:
            return
        pieces = (chunk + rest).split(b"\n")
        offset = start + len(chunk) + len(rest)
        # What is before the first newline may have begun in an earlier chunk.
        for piece in reversed(pieces[1:]):
            offset -= len(piece)
            if piece:
                yield offset, piece
            offset -= 1
        rest, position = pieces[0], start
        if len(rest) > LONGEST_LINE:
            rest = b""  # its beginning, read next, is then not a whole record and is skipped
    if rest:
        yield 0, rest


def _read(part: Part, offset: int, length: int) -> bytes:
    """Return *length* bytes of *part* from *offset* on, fewer if it has fewer, none if it can't be read."""
    try:
        descriptor = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, length, offset)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
