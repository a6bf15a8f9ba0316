"""PID 1's own small log: one event name, past tense, and facts as fields.

A record goes to every sink: the console (one short line for people), a bounded ring in memory,
and, once the data disk is there, files of JSON lines, one row of files for each service, rotated
and capped. A sink that fails loses the record and nothing else: logging never raises.

A power cut can tear the last line of a file: readers skip what is not a whole record, and the
next writer begins on a line of its own. Nothing here is flushed to the disk at once.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import trio

Fact = str | int | float | bool | None
RING_RECORDS = 500
FOLLOWED_RECORDS = 256
OUTPUT = "output"  # the event of one line that a service wrote; its fact is ``line``


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened, at a time in milliseconds since 1970; ``service`` is empty for the agent itself."""

    at: int
    event: str
    service: str = ""
    facts: dict[str, Fact] = {}


class Sink(Protocol):
    """A place for records."""

    def write(self, record: Record) -> None:
        """Take one record. May raise OSError: the record is then lost to this sink."""


class Ring:
    """The newest records, in memory: all there is before the data disk, and what tests read."""

    def __init__(self, limit: int = RING_RECORDS) -> None:
        self.records: deque[Record] = deque(maxlen=limit)

    def write(self, record: Record) -> None:
        """Keep *record*, forgetting the oldest when full."""
        self.records.append(record)

    def events(self, service: str | None = None) -> list[str]:
        """Return the names of the events, oldest first; *service*: of one alone."""
        return [record.event for record in self.records if service is None or record.service == service]


class LineSink:
    """Short lines for people, without what services write themselves (unless *with_output*)."""

    def __init__(self, write_line: Callable[[str], object], *, with_output: bool = False) -> None:
        self._write_line = write_line
        self._with_output = with_output

    def write(self, record: Record) -> None:
        """Write *record* as one line."""
        if record.event != OUTPUT or self._with_output:
            self._write_line(describe(record))


class FileSink:
    """JSON lines in *directory*: ``NAME.jsonl``, when that is full renamed to ``NAME.jsonl.1``, and so on."""

    def __init__(self, directory: str, *, file_bytes: int = 1 << 20, files: int = 4) -> None:
        self._directory = Path(directory)
        self._file_bytes = file_bytes
        self._files = files
        self._open: dict[str, tuple[int, int]] = {}  # descriptor and size by file name
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, record: Record) -> None:
        """Append *record* to its service's file, which is rotated first where it would grow too large."""
        name = file_name(record.service)
        line = msgspec.json.encode(record) + b"\n"
        descriptor, size = self._open.get(name) or self._reopen(name)
        if size and size + len(line) > self._file_bytes:
            self._rotate(name)
            descriptor, size = self._reopen(name)
        written = os.write(descriptor, line)
        self._open[name] = (descriptor, size + written)
        if written < len(line):  # the disk is full: end the torn line when there is space again
            self._close(name)

    def records(self, service: str = "", since: int = 0) -> Iterator[Record]:
        """Yield what is kept of *service* (empty: the agent's own) from time *since* on, oldest first."""
        name = file_name(service)
        for number in range(self._files - 1, -1, -1):
            try:
                lines = (self._directory / _rotated(name, number)).read_bytes().split(b"\n")
            except FileNotFoundError:
                continue
            for line in lines:
                record = _read(line)
                if record is not None and record.at >= since:
                    yield record

    def close(self) -> None:
        """Close all files, so that the disk can be unmounted."""
        for name in list(self._open):
            self._close(name)

    def _reopen(self, name: str) -> tuple[int, int]:
        path = self._directory / name
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            size += os.write(descriptor, b"\n")
        self._open[name] = (descriptor, size)
        return descriptor, size

    def _rotate(self, name: str) -> None:
        self._close(name)
        for number in range(self._files - 2, -1, -1):
            path = self._directory / _rotated(name, number)
            if path.exists():
                path.rename(self._directory / _rotated(name, number + 1))

    def _close(self, name: str) -> None:
        os.close(self._open.pop(name)[0])


class Log:
    """Where the agent notes what happened. *clock* gives milliseconds since 1970."""

    def __init__(self, clock: Callable[[], int], *sinks: Sink) -> None:
        self.ring = Ring()
        self._clock = clock
        self._sinks: list[Sink] = [self.ring, *sinks]
        self._files: FileSink | None = None
        self._followers: list[trio.MemorySendChannel[Record]] = []

    def note(self, event: str, /, *, service: str = "", **facts: object) -> None:
        """Note that *event* happened. Never raises; a fact that is no plain value is kept as its text."""
        plain = {name: fact if isinstance(fact, Fact) else str(fact) for name, fact in facts.items()}
        record = Record(self._clock(), event, service, plain)
        for sink in self._sinks:
            _give(sink, record)
        for follower in self._followers:
            try:
                follower.send_nowait(record)
            except (trio.WouldBlock, trio.BrokenResourceError):
                continue  # it reads too slowly, or no more: it misses this one, and nobody waits for it

    def add_sink(self, sink: Sink) -> None:
        """Give records to *sink* too, from now on; what is still in memory goes there first."""
        for record in self.ring.records:
            _give(sink, record)
        self._sinks.append(sink)

    def open_files(self, files: FileSink) -> None:
        """Keep records in *files* from now on; what is still in memory goes there first."""
        for record in self.ring.records:
            _give(files, record)
        self._files = files
        self._sinks.append(files)

    def close_files(self) -> None:
        """Undo ``open_files``: the disk is about to go."""
        if self._files is not None:
            self._sinks.remove(self._files)
            self._files.close()
            self._files = None

    def records(self, service: str = "", since: int = 0, limit: int = 1000) -> list[Record]:
        """Return the newest *limit* records of *service* (empty: the agent's own) from time *since* on, oldest first."""
        newest: deque[Record] = deque(maxlen=limit)
        if self._files is not None:
            newest.extend(self._files.records(service, since))
        else:
            newest.extend(record for record in self.ring.records if record.service == service and record.at >= since)
        return list(newest)

    @contextmanager
    def follow(self) -> Iterator[trio.MemoryReceiveChannel[Record]]:
        """Give a channel of all records from now on; a reader that is too slow misses some."""
        send, receive = trio.open_memory_channel[Record](FOLLOWED_RECORDS)
        self._followers.append(send)
        try:
            yield receive
        finally:
            self._followers.remove(send)
            send.close()
            receive.close()


def describe(record: Record) -> str:
    """Return *record* as one line for people: service, event, facts."""
    if record.event == OUTPUT:
        return f"{record.service}: {record.facts.get('line', '')}"
    facts = " ".join(f"{key}={_shown(value)}" for key, value in record.facts.items())
    who = f"{record.service}: " if record.service else ""
    return f"{who}{record.event.replace('_', ' ')}{': ' if facts else ''}{facts}"


def file_name(service: str) -> str:
    """Return the file of *service*'s records. Names of services hold no dot, and the agent's own file is like none."""
    return f"{service.replace('/', '.')}.jsonl" if service else "_agent.jsonl"


def _rotated(name: str, number: int) -> str:
    return f"{name}.{number}" if number else name


def _shown(value: Fact) -> str:
    text = str(value)
    return repr(text) if isinstance(value, str) and (" " in text or not text) else text


def _read(line: bytes) -> Record | None:
    try:
        return msgspec.json.decode(line, type=Record)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return None


def _give(sink: Sink, record: Record) -> None:
    try:
        sink.write(record)
    except OSError:
        return  # a full disk or a lost console: there is no better place to say so
