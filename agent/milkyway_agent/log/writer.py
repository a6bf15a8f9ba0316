"""Between the log and its files: code that notes something never waits for the disk.

Even write(2) to a file waits when the disk is slower than its writers (dirty pages, a full journal)
or does not answer at all. So while ``run`` runs, records are queued; one thread writes them, another
flushes. The queue is bounded: what a slow disk can't take is lost, and counted by the files. While
``run`` does not run (before the loop, in tests), records are written as they come.

At rest it waits only for a record, without a thread or a timer.
"""

import threading
from collections.abc import Callable, Iterable, Sequence

import trio

from milkyway_agent.log.files import Batch, FileSink
from milkyway_agent.log.reader import Part
from milkyway_agent.log.record import Record

QUEUE_BYTES = 2 << 20
CLOSE_SECONDS = 2.0
RECORD_BYTES = 100  # memory that a queued line takes besides its text
TOO_SLOW = "the disk was slower than the log"


class _Mark:
    """A place in the queue, and what was in the files when the writing reached it."""

    def __init__(self, wants: Callable[[str], bool]) -> None:
        self.wants = wants
        self.parts: list[list[Part]] = []
        self.reached = trio.Event()


_Item = Batch | _Mark | frozenset[str]  # the last: the services that exist from here on


class Writer:
    """A sink that writes to *files* and queues up to *limit* bytes meanwhile.

    *failed* is called with the reason when flushing fails, and not again for the same reason until a flush has succeeded.
    """

    def __init__(self, files: FileSink, failed: Callable[[str], object], *, limit: int = QUEUE_BYTES) -> None:
        self._files = files
        self._failed = failed
        self._limit = limit
        self._lock = threading.Lock()  # held while writing to the files
        self._queue: list[_Item] = []
        self._bytes = 0
        self._lost = 0
        self._running = False
        self._closed = False
        self._queued = trio.Event()
        self._written = trio.Event()

    def write(self, records: Sequence[Record]) -> None:
        """Take *records*, all of the same service; waits for the disk only while ``run`` does not run."""
        batch = Batch.of(records)
        size = sum(len(line) + RECORD_BYTES for line in batch.lines)
        if self._bytes + size > self._limit:
            self._lost += len(batch.lines)
            return
        self._bytes += size
        self._put(batch)

    async def mark(self, wants: Callable[[str], bool]) -> list[list[Part]]:
        """Return the segments of the services that *wants* chooses, as they are when all records so far are written."""
        mark = _Mark(wants)
        self._put(mark)
        await mark.reached.wait()
        return mark.parts

    def services(self) -> list[str]:
        """Return the services of which something is kept, the queue included."""
        return sorted({*self._files.services(), *(item.service for item in self._queue if isinstance(item, Batch))})

    def set_services(self, services: Iterable[str]) -> None:
        """Say which services exist, from this place in the queue on."""
        self._put(frozenset(services))

    async def run(self) -> None:
        """Write what is queued and flush what is due, in threads, until ``close``."""
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._flush_when_due)
                while not self._closed:
                    if self._queued.is_set():
                        self._queued = trio.Event()
                    if self._queue:
                        await self._write_in_thread()
                    else:
                        await self._queued.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._running = False

    def close(self) -> None:
        """Write what is queued and close the files. Waits for a disk that hangs no longer than CLOSE_SECONDS."""
        self._closed = True
        self._queued.set()
        if self._drain(CLOSE_SECONDS):
            self._files.close()

    def _put(self, item: _Item) -> None:
        self._queue.append(item)
        if self._running:
            self._queued.set()
        else:
            self._drain(0)

    def _take(self) -> list[_Item]:
        queue, self._queue, self._bytes = self._queue, [], 0
        return queue

    def _drain(self, seconds: float) -> bool:
        """Write what is queued here and now; return False if the files stay busy for *seconds*."""
        if not self._lock.acquire(timeout=seconds):
            return False
        try:
            queue = self._take()
            self._write(queue)
        finally:
            self._lock.release()
        _tell_reached(queue)
        return True

    async def _write_in_thread(self) -> None:
        size, queue, begun = self._bytes, self._take(), threading.Lock()

        def write() -> None:
            if begun.acquire(blocking=False):
                self._write_locked(queue)

        try:
            # Abandoned when cancelled: a thread that waits for a disk that hangs must not delay the shutdown.
            await trio.to_thread.run_sync(write, abandon_on_cancel=True)
        except trio.Cancelled:
            if begun.acquire(blocking=False):  # no thread has begun, and none will: ``close`` writes it
                self._queue, self._bytes = [*queue, *self._queue], size + self._bytes
            raise
        _tell_reached(queue)
        self._written.set()

    def _write_locked(self, queue: list[_Item]) -> None:
        with self._lock:
            self._write(queue)

    def _write(self, queue: list[_Item]) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            self._files.lose(lost, TOO_SLOW)
        for item in queue:
            match item:
                case Batch():
                    self._files.write_batch(item)
                case _Mark():
                    item.parts = self._files.mark(item.wants)
                case _:
                    self._files.set_services(item)

    async def _flush_when_due(self) -> None:
        failure = ""
        while True:
            if self._written.is_set():
                self._written = trio.Event()
            due = self._files.flush_due()
            seconds = float("inf") if due is None else due - self._files.clock()
            if seconds > 0:
                with trio.move_on_after(seconds):
                    await self._written.wait()
                continue
            was, failure = failure, await trio.to_thread.run_sync(self._files.flush, abandon_on_cancel=True)
            if failure and failure != was:
                self._failed(failure)


def _tell_reached(queue: Sequence[_Item]) -> None:
    for item in queue:
        if isinstance(item, _Mark):
            item.reached.set()
