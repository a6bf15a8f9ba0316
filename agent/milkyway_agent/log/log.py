"""PID 1's own small log: an event's name, in the past tense, with facts as fields.

A record goes to every sink: the console (one short line for people), a bounded ring in memory, and,
once the data disk is there, files (``log.files``, through ``log.writer``, so that no caller waits for
the disk). A sink that fails loses the record and nothing else: logging never raises.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, cast

import trio

from milkyway_agent.log.files import FileSink as FileSink
from milkyway_agent.log.reader import Past
from milkyway_agent.log.record import OUTPUT as OUTPUT
from milkyway_agent.log.record import Fact as Fact
from milkyway_agent.log.record import Record as Record
from milkyway_agent.log.record import describe as describe
from milkyway_agent.log.record import priority_of
from milkyway_agent.log.writer import Writer

RING_RECORDS = 500
FOLLOWED_RECORDS = 256
MISSED = "records_missed"  # seen by a single follower: how many records it was too slow for


class Sink(Protocol):
    """A place for records."""

    def write(self, records: Sequence[Record]) -> None:
        """Take *records*, all of the same service. May raise OSError: then this sink has lost them."""


class Ring:
    """The newest records, in memory: all there is before the data disk is open, and what tests read."""

    def __init__(self, limit: int = RING_RECORDS) -> None:
        self.records: deque[Record] = deque(maxlen=limit)

    def write(self, records: Sequence[Record]) -> None:
        """Keep *records*, forgetting the oldest when full."""
        self.records.extend(records)

    def events(self, service: str | None = None) -> list[str]:
        """Return the names of the events, oldest first; *service*: only those of this service."""
        return [record.event for record in self.records if service is None or record.service == service]


class LineSink:
    """Writes short lines for people, without what services write themselves (unless *with_output*)."""

    def __init__(self, write_line: Callable[[str], object], *, with_output: bool = False) -> None:
        self._write_line = write_line
        self._with_output = with_output

    def write(self, records: Sequence[Record]) -> None:
        """Write each record as one line."""
        for record in records:
            if record.event != OUTPUT or self._with_output:
                self._write_line(describe(record))


class Follower:
    """The records that *wants* chooses, from now on. Bounded: a slow reader is told how many it has missed."""

    def __init__(self, wants: Callable[[Record], bool]) -> None:
        self._wants = wants
        self._waiting: deque[Record] = deque()
        self._missed = 0
        self._missed_at = 0
        self._news = trio.Event()
        self._closed = False

    def take(self, records: Sequence[Record]) -> None:
        """Queue those of *records* that are wanted, without waiting."""
        for record in records:
            if not self._wants(record):
                continue
            if len(self._waiting) >= FOLLOWED_RECORDS:
                self._missed, self._missed_at = self._missed + 1, record.at
                continue
            self._tell_missed()
            self._waiting.append(record)
        self._news.set()

    def receive_nowait(self) -> Record:
        """Return the next record. Raises trio.WouldBlock when there is none, ClosedResourceError after the end."""
        if self._closed:
            raise trio.ClosedResourceError
        if not self._waiting:
            self._tell_missed()
        if not self._waiting:
            raise trio.WouldBlock
        return self._waiting.popleft()

    async def receive(self) -> Record:
        """Return the next record, as soon as there is one."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                if self._news.is_set():
                    self._news = trio.Event()
                await self._news.wait()

    def __aiter__(self) -> "Follower":
        return self

    async def __anext__(self) -> Record:
        return await self.receive()

    def close(self) -> None:
        """Take no more records, and wake a reader that waits for one."""
        self._closed = True
        self._waiting.clear()
        self._news.set()

    def _tell_missed(self) -> None:
        """Queue in the gap's place how many records were missed, if any; at most one record beyond the bound."""
        if self._missed:
            facts: dict[str, Fact] = {"records": self._missed}
            self._waiting.append(Record(self._missed_at, MISSED, "", facts, priority_of(MISSED)))
            self._missed = 0


class Log:
    """Where the agent notes what happened. *clock* gives milliseconds since 1970."""

    def __init__(self, clock: Callable[[], int], *sinks: Sink) -> None:
        self.ring = Ring()
        self._clock = clock
        self._sinks: list[Sink] = [self.ring, *sinks]
        self._writer: Writer | None = None
        self._opened = trio.Event()
        self._followers: list[Follower] = []

    def note(self, event: str, /, *, service: str = "", **facts: object) -> None:
        """Note that *event* happened. Never raises; a fact that is not a plain value is kept as its text."""
        for name, fact in facts.items():
            if not (type(fact) is int or (type(fact) is str and fact.isascii())):
                facts[name] = _plain(fact)
        plain = cast("dict[str, Fact]", facts)
        self._give([Record(self._clock(), event, service, plain, priority_of(event))])

    def note_lines(self, service: str, lines: Sequence[tuple[int, str]]) -> None:
        """Note *lines* that *service* wrote, each a priority and a text. Never raises."""
        if lines:
            now = self._clock()
            self._give([Record(now, OUTPUT, service, {"line": text}, priority) for priority, text in lines])

    def add_sink(self, sink: Sink) -> None:
        """Give records to *sink* too, from now on, and first those that are still in memory."""
        for record in self.ring.records:
            with suppress(OSError):  # as in _give
                sink.write([record])
        self._sinks.append(sink)

    def open_files(self, files: FileSink) -> None:
        """Keep records in *files* from now on, and first those that are still in memory."""
        self._writer = Writer(files, lambda why: self.note("log_flush_failed", why=why))
        self.add_sink(self._writer)
        self._opened.set()

    def close_files(self) -> None:
        """Undo ``open_files``: the disk is about to go. What ``keep_files`` has not written yet is written first."""
        if self._writer is not None:
            self._sinks.remove(self._writer)
            self._writer.close()
            self._writer = None
            self._opened = trio.Event()

    async def keep_files(self) -> None:
        """Write to the files and flush them, in threads: ``note`` never waits for the disk while this runs. Never returns.

        Until it runs, ``note`` writes by itself. At rest it waits for a record and sets no timer.
        """
        while True:
            await self._opened.wait()
            if self._writer is not None:
                await self._writer.run()
            await trio.lowlevel.checkpoint()

    def set_services(self, services: Iterable[str]) -> None:
        """Say which services exist: when room is needed, the files of all others go first."""
        if self._writer is not None:
            self._writer.set_services(services)

    async def past(self, wants: Callable[[str], bool]) -> Past:
        """Return what was noted up to this call of the services that *wants* chooses, to be read later.

        It does not contain what is noted while this waits: a follower that was made just before has the rest.
        """
        if self._writer is None:
            return Past([record for record in self.ring.records if wants(record.service)], [])
        return Past([], await self._writer.mark(wants))

    def services(self) -> list[str]:
        """Return the services of which something is kept (the agent itself: ""), including those that no longer exist."""
        if self._writer is not None:
            return self._writer.services()
        return sorted({record.service for record in self.ring.records})

    @contextmanager
    def follow(self, wants: Callable[[Record], bool] = lambda _: True) -> Iterator[Follower]:
        """Yield a follower of the records that *wants* chooses. A reader that is too slow misses some, and is told so."""
        follower = Follower(wants)
        self._followers.append(follower)
        try:
            yield follower
        finally:
            self._followers.remove(follower)
            follower.close()

    def _give(self, records: Sequence[Record]) -> None:
        for sink in self._sinks:
            try:
                sink.write(records)
            except OSError:
                continue  # a lost console: there is no better place to report it (files count their losses themselves)
        for follower in self._followers:
            follower.take(records)


def _plain(fact: object) -> Fact:
    """Return *fact* in a form that a sink can write: a file's name in an error's text need not be UTF-8 (os.fsdecode)."""
    if not isinstance(fact, Fact):
        fact = str(fact)
    if isinstance(fact, str) and not fact.isascii():
        return fact.encode("utf-8", "backslashreplace").decode()
    return fact
