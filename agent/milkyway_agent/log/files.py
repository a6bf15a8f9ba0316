"""Records as files of JSON lines: a row of numbered segments for each service, capped, safe from power cuts.

``web.nginx.00000017.jsonl``: records of ``web/nginx`` (``_agent``: of the agent itself). A segment is
only ever appended to; when it is full the next one begins, with a number that was never used before,
and the oldest is removed. Nothing is renamed or rewritten, so at whatever byte the power is cut, what
was whole before is whole after: readers skip a torn last line, and the next writer begins on a new
line. A file whose name is not of this form is never touched, and a damaged file is not repaired.

What is on the disk for certain: everything up to the last ``flush`` (fdatasync(2) of each segment
that has changed). A flush is due ``FLUSH_SECONDS`` after the first record, and at once for a record of
priority 3 (err) or worse, though no sooner than ``URGENT_SECONDS`` after the last flush.

Caps: ``files`` segments of ``file_bytes`` for each service, and ``total_bytes`` in all. The services
that exist divide the total between them: when there are many, their segments are smaller. When room
is still needed, the segments of services that no longer exist are removed first, oldest first; then
the oldest of the service that has the most.

A full or failing disk loses records and nothing else. They are counted, and the first record that
fits again is preceded by one that says how many are missing (``records_lost``).

Everything here may wait for the disk: ``log.writer`` calls it in a thread.
"""

import errno
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from milkyway_agent.log.reader import LONGEST_LINE, Part
from milkyway_agent.log.record import ERR, Fact, Record, encode, priority_of

FLUSH_SECONDS = 5.0
URGENT_SECONDS = 0.25
OPEN_FILES = 32
LEAST_FILE_BYTES = 16384
LOST = "records_lost"
_SEGMENT = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.@-]*)\.([0-9]{8,18})\.jsonl")


class Batch(NamedTuple):
    """Records of one service, encoded: what the writing thread needs of them."""

    service: str
    at: int
    priority: int
    lines: list[bytes]

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Batch":
        """Return *records*, all of the same service, as a batch."""
        worst = min(record.priority for record in records)
        return cls(records[0].service, records[0].at, worst, [encode(record) for record in records])


class Sync(NamedTuple):
    """The calls with which ``flush`` reaches the disk; a test may replace them to see what is certainly there."""

    file: Callable[[str], None]
    directory: Callable[[str], None]


class _Segment:
    """A file: its number, which no other has, and its length in bytes."""

    __slots__ = ("number", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size


class FileSink:
    """Keeps records in *directory*. Opening it reads the names there and changes nothing."""

    def __init__(
        self,
        directory: str,
        *,
        file_bytes: int = 1 << 20,
        files: int = 4,
        total_bytes: int = 256 << 20,
        clock: Callable[[], float] = time.monotonic,
        sync: Sync | None = None,
    ) -> None:
        self._directory = directory
        self._file_bytes = file_bytes
        self._files = files
        self._total_bytes = total_bytes
        self.clock = clock
        self._sync = sync or Sync(_sync_file, _sync_directory)
        self._rows: dict[str, list[_Segment]] = {}  # by stem, oldest first, never empty
        self._bytes = 0
        self._number = 0
        self._open: OrderedDict[str, int] = (
            OrderedDict()
        )  # descriptors of the newest segments by stem, least recently used first
        self._existing: set[str] = set()  # stems of the services that exist, and of those written to since ``set_services``
        self._dirty: set[str] = set()  # names of segments that must be flushed
        self._dirty_lock = threading.Lock()  # so that a flush may wait for the disk while others write
        self._has_new_names = False
        self._due: float | None = None
        self._flushed = float("-inf")
        self._lost = 0
        self._why = ""
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._scan()

    def write(self, records: Sequence[Record]) -> None:
        """Keep *records*, all of the same service. Never raises: what can't be kept is counted."""
        self.write_batch(Batch.of(records))

    def write_batch(self, batch: Batch) -> None:
        """Keep the records of *batch*, as far as there is space for them. Never raises."""
        if self._lost:
            facts: dict[str, Fact] = {"records": self._lost, "why": self._why}
            loss = Batch.of([Record(batch.at, LOST, "", facts, priority_of(LOST))])
            if not self._keep(loss):
                self._lost += len(batch.lines)
                return
            self._lost = 0
        self._lost += len(batch.lines) - self._keep(batch)

    def lose(self, records: int, why: str) -> None:
        """Count *records* as lost that never came this far."""
        self._lost += records
        self._why = why

    def set_services(self, services: Iterable[str]) -> None:
        """Say which services exist; the segments of all others may be removed when room is needed."""
        self._existing = {_stem(""), *map(_stem, services)}

    def services(self) -> list[str]:
        """Return the services of which there are segments (the agent itself: "")."""
        return sorted(_service(stem) for stem in list(self._rows))  # a copy: another thread may be writing

    def mark(self, wants: Callable[[str], bool]) -> list[list[Part]]:
        """Return the segments as they are now, oldest first, of each service that *wants* chooses."""
        return [
            [Part(self._path(stem, segment), segment.size) for segment in row]
            for stem, row in sorted(self._rows.items())
            if wants(_service(stem))
        ]

    def flush_due(self) -> float | None:
        """Return when, on ``clock``, the next ``flush`` is due; None while there is nothing to flush."""
        return self._due

    def flush(self) -> str:
        """Wait until all that was written is on the disk; return "", or why that is uncertain. Others may write meanwhile."""
        with self._dirty_lock:
            names, has_new_names = sorted(self._dirty), self._has_new_names
            self._dirty, self._has_new_names, self._due = set(), False, None
        why = ""
        for name in names:
            try:
                self._sync.file(f"{self._directory}/{name}")
            except FileNotFoundError:
                continue  # removed since to make room
            except OSError as error:
                why = error.strerror or str(error)
        try:
            if has_new_names:
                self._sync.directory(self._directory)
        except OSError as error:
            why = error.strerror or str(error)
        self._flushed = self.clock()
        return why

    def close(self) -> None:
        """Close all files, so that the disk can be unmounted (which flushes them)."""
        for stem in list(self._open):
            self._close(stem)

    def _keep(self, batch: Batch) -> int:
        """Append the lines of *batch*; return how many of them, counted from the first, are kept."""
        stem, kept = _stem(batch.service), 0
        try:
            while kept < len(batch.lines):
                lines = self._fitting(stem, batch.lines, kept)
                written = self._append(stem, lines)
                kept += written
                if written < len(lines):
                    break
        except OSError as error:
            self._why = error.strerror or str(error)
        if kept:
            now = self.clock()
            due = max(now, self._flushed + URGENT_SECONDS) if batch.priority <= ERR else now + FLUSH_SECONDS
            with self._dirty_lock:
                self._due = due if self._due is None else min(due, self._due)
        return kept

    def _fitting(self, stem: str, lines: list[bytes], first: int) -> list[bytes]:
        """Return the *lines* from the *first* on that fit into the newest segment, which is a new one if none would."""
        limit = self._segment_bytes(stem)
        if stem not in self._rows:
            self._begin(stem)
        self._descriptor(stem)
        size = self._rows[stem][-1].size
        if size and size + len(lines[first]) > limit:
            size = self._begin(stem)
        size += len(lines[first])
        end = first + 1
        while end < len(lines) and size + len(lines[end]) <= limit:
            size += len(lines[end])
            end += 1
        return lines[first:end]

    def _segment_bytes(self, stem: str) -> int:
        self._existing.add(stem)
        share = self._total_bytes // len(self._existing) // self._files
        return min(self._file_bytes, max(share, LEAST_FILE_BYTES))

    def _append(self, stem: str, lines: list[bytes]) -> int:
        """Append *lines* to the newest segment; return how many were written whole."""
        data = b"".join(lines)
        if len(lines[0]) > LONGEST_LINE:
            raise OSError(errno.EMSGSIZE, "longer than a record may be")
        self._make_room(stem, len(data))
        descriptor = self._descriptor(stem)
        segment = self._rows[stem][-1]
        written = os.write(descriptor, data)
        with self._dirty_lock:
            self._dirty.add(_name(stem, segment.number))
        if written < len(data):  # the disk is full: leave no torn line
            self._why = os.strerror(errno.ENOSPC)
            whole = data.rfind(b"\n", 0, written) + 1
            try:
                os.ftruncate(descriptor, segment.size + whole)
                written = whole
            except OSError:
                self._close(stem)  # the torn line is ended when the file is opened again
        segment.size += written
        self._bytes += written
        return data.count(b"\n", 0, written)

    def _begin(self, stem: str) -> int:
        """Begin the next segment of *stem*, and remove the oldest if there are too many. Returns the new one's size, 0."""
        while True:
            self._number += 1
            path = f"{self._directory}/{_name(stem, self._number)}"
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                break
            except FileExistsError:
                continue  # something that is not ours
        self._close(stem)
        self._remember(stem, descriptor)
        self._has_new_names = True
        row = self._rows.setdefault(stem, [])
        row.append(_Segment(self._number, 0))
        while len(row) > self._files:
            self._remove(stem)
        return 0

    def _descriptor(self, stem: str) -> int:
        """Return a descriptor of the newest segment of *stem*, after ending a torn last line in it."""
        descriptor = self._open.get(stem)
        if descriptor is not None:
            self._open.move_to_end(stem)
            return descriptor
        segment = self._rows[stem][-1]
        try:
            descriptor = os.open(self._path(stem, segment), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:  # somebody has removed it
            self._begin(stem)
            return self._open[stem]
        self._remember(stem, descriptor)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            size += os.write(descriptor, b"\n")
        self._bytes += size - segment.size
        segment.size = size
        return descriptor

    def _remember(self, stem: str, descriptor: int) -> None:
        self._open[stem] = descriptor
        while len(self._open) > OPEN_FILES:
            self._close(next(iter(self._open)))

    def _close(self, stem: str) -> None:
        descriptor = self._open.pop(stem, None)
        if descriptor is not None:
            os.close(descriptor)

    def _make_room(self, stem: str, needed: int) -> None:
        """Remove segments until *needed* bytes more are within the total; never the newest of *stem*."""
        while self._bytes + needed > self._total_bytes:
            gone = [other for other in self._rows if other not in self._existing]
            others = [other for other in self._rows if other != stem or len(self._rows[other]) > 1]
            if gone:
                self._remove(min(gone, key=lambda other: self._rows[other][0].number))
            elif others:
                self._remove(max(others, key=self._size))
            else:
                return

    def _size(self, stem: str) -> int:
        return sum(segment.size for segment in self._rows[stem])

    def _remove(self, stem: str) -> None:
        """Remove the oldest segment of *stem*."""
        row = self._rows[stem]
        segment = row.pop(0)
        self._bytes -= segment.size
        if not row:
            self._close(stem)
            del self._rows[stem]
        try:
            os.unlink(self._path(stem, segment))
        except OSError:
            return  # the next start finds it again

    def _scan(self) -> None:
        found: list[tuple[int, str, int]] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                match = _SEGMENT.fullmatch(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    found.append((int(match[2]), match[1], entry.stat(follow_symlinks=False).st_size))
        for number, stem, size in sorted(found):
            self._rows.setdefault(stem, []).append(_Segment(number, size))
            self._bytes += size
            self._number = max(self._number, number)

    def _path(self, stem: str, segment: _Segment) -> str:
        return f"{self._directory}/{_name(stem, segment.number)}"


def _name(stem: str, number: int) -> str:
    return f"{stem}.{number:08d}.jsonl"


def _stem(service: str) -> str:
    """Return how the names of *service*'s segments begin. No service has a dot in its name, or is called ``_agent``."""
    return service.replace("/", ".") or "_agent"


def _service(stem: str) -> str:
    return "" if stem == "_agent" else stem.replace(".", "/")


def _sync_file(path: str) -> None:
    # A descriptor of its own: the writer's may be closed meanwhile, and fdatasync covers the file, whoever wrote to it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
