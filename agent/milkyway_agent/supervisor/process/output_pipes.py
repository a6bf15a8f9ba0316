"""The output pipes of services: what they write goes to the log.

A pipe is read until its last writer is gone. If a service has a control group, so that no process can be left unnoticed,
its pipe is kept for its next process: we hold a write end ourselves. A pipe is read one chunk at a time, so that a service
that writes endlessly holds up no other.
"""

import fcntl
import os
import select
from collections.abc import Sequence
from functools import partial

import trio

from milkyway_agent.log.log import Log
from milkyway_agent.log.record import OUTPUT
from milkyway_agent.log.service_output import AT_ONCE, ENDED, Stream
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.service_record import ServiceRecord

CHUNKS_AT_END = 16
LINE_BYTES = 200
_NONE: Sequence[Stream] = ()


class OutputPipes:
    """The pipes of all services: the newest of each, and older ones that a process left behind still holds open."""

    def __init__(self, watch: Watch, alarms: Alarms, log: Log) -> None:
        self._watch = watch
        self._alarms = alarms
        self._log = log
        self._streams: dict[ServiceRecord, tuple[Stream, ...]] = {}
        self._writing: dict[ServiceRecord, int] = {}  # our write end of the newest, while it is kept for the next process

    def streams(self, record: ServiceRecord) -> Sequence[Stream]:
        """Return the pipes of a service that are read now, the newest last."""
        return self._streams.get(record, _NONE)

    def open(self, record: ServiceRecord) -> int:
        """Open a pipe and read it; return the service's end."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        self.read(record, Stream(reading, record.definition.name, self._log))
        return writing

    def kept(self, record: ServiceRecord) -> int:
        """Return the write end of a pipe for the next process, which we keep: that of the last pipe, if it is free.

        It is free unless ``give_up`` was called: then nothing is left of the last process that could write.
        """
        writing = self._writing.get(record, -1)
        if writing >= 0 and self._streams[record][-1].begin_run(trio.current_time()):
            # Clears all flags: those that a program sets on its standard output are shared by all its holders.
            fcntl.fcntl(writing, fcntl.F_SETFL, 0)
            return writing
        self.give_up(record)
        writing = self._writing[record] = self.open(record)
        return writing

    def keep(self, record: ServiceRecord, writing: int) -> None:
        """Keep *writing*, our end of the newest pipe, for the next process."""
        self._writing[record] = writing

    def give_up(self, record: ServiceRecord) -> None:
        """Close our end: no process follows, or something is left of the last. Idempotent."""
        writing = self._writing.pop(record, -1)
        if writing >= 0:
            os.close(writing)

    def read(self, record: ServiceRecord, stream: Stream) -> None:
        """Read *stream* until its writers are gone; then close its descriptor."""
        self._streams[record] = (*self._streams.get(record, ()), stream)
        self._watch.add(stream.descriptor, partial(self._on_output, record, stream))

    def drain(self, record: ServiceRecord) -> str:
        """Read what a start that failed has written so far; return its last line."""
        for stream in self.streams(record)[-1:]:  # older ones belong to other processes
            for _ in range(CHUNKS_AT_END):
                if not has_more(stream.descriptor):
                    break
                if stream.ready(trio.current_time()) == ENDED:
                    self._watch.remove(stream.descriptor)
                    self._end(record, stream)
                    break
        for line in reversed(self._log.ring.records):
            if line.service == record.definition.name:
                return str(line.facts.get("line", ""))[:LINE_BYTES] if line.event == OUTPUT else ""
        return ""

    def close(self, record: ServiceRecord) -> None:
        """Close every pipe of a service."""
        self.give_up(record)
        for stream in self.streams(record):
            self._watch.remove(stream.descriptor)
            self._end(record, stream)

    def _on_output(self, record: ServiceRecord, stream: Stream, _events: int) -> None:
        again = stream.ready(trio.current_time())
        if again == AT_ONCE:
            return
        self._watch.remove(stream.descriptor)
        if again == ENDED:
            self._end(record, stream)
        else:
            self._alarms.set(again - trio.current_time(), partial(self._watch_again, record, stream))

    def _watch_again(self, record: ServiceRecord, stream: Stream) -> None:
        if stream in self.streams(record):
            self._watch.add(stream.descriptor, partial(self._on_output, record, stream))

    def _end(self, record: ServiceRecord, stream: Stream) -> None:
        streams = self._streams[record]
        if stream is streams[-1]:
            self.give_up(record)
        left = tuple(other for other in streams if other is not stream)
        if left:
            self._streams[record] = left
        else:
            del self._streams[record]
        os.close(stream.descriptor)


def has_more(descriptor: int) -> bool:
    """Tell whether there is something to read from *descriptor* now."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
