"""When a service that starts is ready: at once, when it has said so, when somebody listens, when its probe is well."""

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
    """Waits for services to be ready. *ask* asks the probe of one until it is well."""

    def __init__(self, watch: Watch, alarms: Alarms, ask: Callable[[ServiceRecord, MainProcess], None]) -> None:
        self._watch = watch
        self._alarms = alarms
        self._ask = ask
        self.reports: Reports | None = None

    def await_ready(self, record: ServiceRecord, process: MainProcess) -> None:
        """Post READY when *process* is ready. What it says by its notify socket is not waited for here."""
        match record.definition.service.readiness:
            case ReadyAtOnce():
                self._is_ready(record, process)
            case ReadyByTcp(port=port, interval_ms=interval):
                self._look_for_port(record, process, port, max(interval / 1000, LEAST_INTERVAL))
            case ReadyByDescriptor() if process.ready_pipe >= 0:
                self._watch.add(process.ready_pipe, partial(self._pipe_said, record, process))
            case ReadyByProbe():
                self._ask(record, process)
            case ReadyByDescriptor() | ReadyByNotify() | ReadyByExit():
                pass

    def hear_out(self, record: ServiceRecord, process: MainProcess) -> None:
        """Take what a process that has ended said before."""
        if process.ready_pipe >= 0:
            self._pipe_said(record, process, 0)

    def close(self, process: MainProcess) -> None:
        """Wait no more. Idempotent."""
        self._alarms.cancel(process.probing)
        if process.ready_pipe >= 0:
            self._watch.remove(process.ready_pipe)
            os.close(process.ready_pipe)
            process.ready_pipe = -1

    def _is_ready(self, record: ServiceRecord, process: MainProcess) -> None:
        assert self.reports is not None, "organs are told to whom to report before anything else"
        self.reports.post(record, Event.READY, process)

    def _look_for_port(self, record: ServiceRecord, process: MainProcess, port: int, interval: float) -> None:
        """See whether one of the service's users listens on *port* yet; if not, look again in *interval* seconds."""
        if record.process is not process:
            return
        if is_listening(record, process, port):
            self._is_ready(record, process)
        else:
            process.unready = f"nobody listens on port {port}"
            process.probing = self._alarms.set(interval, partial(self._look_for_port, record, process, port, interval))

    def _pipe_said(self, record: ServiceRecord, process: MainProcess, _events: int) -> None:
        try:
            said = os.read(process.ready_pipe, 4096)
        except BlockingIOError:
            return
        if b"\n" in said:
            self._is_ready(record, process)
        if not said or b"\n" in said:  # its end without a line says nothing; the ready timer will
            self._watch.remove(process.ready_pipe)
            os.close(process.ready_pipe)
            process.ready_pipe = -1
