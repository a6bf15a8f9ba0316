"""When a starting service is ready: at once, when it says so, when it listens on a port, when its probe succeeds."""

import os
from collections.abc import Callable
from functools import partial

from milkyway_agent.core.service_state import Event
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.organs import Reports
from milkyway_agent.supervisor.process.probes import LEAST_INTERVAL, is_listening
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_formats.service import ReadyAtOnce, ReadyByDescriptor, ReadyByExit, ReadyByNotify, ReadyByProbe, ReadyByTcp


class Readiness:
    """Waits until services are ready. *ask*: runs a service's probe until it succeeds."""

    def __init__(self, watch: Watch, alarms: Alarms, ask: Callable[[ServiceRecord, MainProcess], None]) -> None:
        self._watch = watch
        self._alarms = alarms
        self._ask = ask
        self.reports: Reports | None = None

    def await_ready(self, record: ServiceRecord, process: MainProcess) -> None:
        """Post READY when *process* is ready. Messages on its notify socket are handled elsewhere."""
        match record.definition.service.readiness:
            case ReadyAtOnce():
                self._is_ready(record, process)
            case ReadyByTcp(port=port, interval_ms=interval):
                self._look_for_port(record, process, port, max(interval / 1000, LEAST_INTERVAL))
            case ReadyByDescriptor() if process.ready_pipe >= 0:
                self._watch.add(process.ready_pipe, partial(self._read_ready_pipe, record, process))
            case ReadyByProbe():
                self._ask(record, process)
            case ReadyByDescriptor() | ReadyByNotify() | ReadyByExit():
                pass

    def drain(self, record: ServiceRecord, process: MainProcess) -> None:
        """Read what a process that has ended wrote to its ready pipe."""
        if process.ready_pipe >= 0:
            self._read_ready_pipe(record, process, 0)

    def close(self, process: MainProcess) -> None:
        """Stop waiting. Idempotent."""
        self._alarms.cancel(process.probing)
        if process.ready_pipe >= 0:
            self._watch.remove(process.ready_pipe)
            os.close(process.ready_pipe)
            process.ready_pipe = -1

    def _is_ready(self, record: ServiceRecord, process: MainProcess) -> None:
        assert self.reports is not None, "report_to is called first"
        self.reports.post(record, Event.READY, process)

    def _look_for_port(self, record: ServiceRecord, process: MainProcess, port: int, interval: float) -> None:
        """Check whether one of the service's users listens on *port*; if not, check again in *interval* seconds."""
        if record.process is not process:
            return
        if is_listening(record, process, port):
            self._is_ready(record, process)
        else:
            process.unready = f"nothing listens on port {port}"
            process.probing = self._alarms.set(interval, partial(self._look_for_port, record, process, port, interval))

    def _read_ready_pipe(self, record: ServiceRecord, process: MainProcess, _events: int) -> None:
        try:
            said = os.read(process.ready_pipe, 4096)
        except BlockingIOError:
            return
        if b"\n" in said:
            self._is_ready(record, process)
        if not said or b"\n" in said:  # its end without a line means nothing; the ready timer decides then
            self._watch.remove(process.ready_pipe)
            os.close(process.ready_pipe)
            process.ready_pipe = -1
