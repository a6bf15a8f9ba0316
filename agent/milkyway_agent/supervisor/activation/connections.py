"""Services whose listeners accept: each connection has a process of its own, with the connection as its descriptor 3.

These processes belong to the service: they are in its control group and share its output. The service is ``armed`` while
they run and has no main process; how they end does not matter. When the service is not armed any more (stopped, held back,
restarted), they are asked to end, and killed if they don't. Each listener has ``connections`` of them at most; further
clients wait in its backlog.
"""

import os
import signal
from collections.abc import Callable
from functools import partial

import trio

from milkyway_agent.launching.child import Child, kill_process_group, reap
from milkyway_agent.launching.listeners import Connection
from milkyway_agent.launching.starter import FIRST_LISTENER, Start
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.service_record import ServiceRecord
from milkyway_agent.system import processes
from milkyway_formats.errors import MilkyWayError
from milkyway_formats.listener import Listener

END_SECONDS = 10.0


class ConnectionProcess:
    """The process of one connection. ``child``: None while its start is under way."""

    __slots__ = ("child", "listener")

    def __init__(self, listener: str) -> None:
        self.listener = listener
        self.child: Child | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.child is not None and not processes.has_ended(self.child.pidfd):
            processes.pidfd_send_signal(self.child.pidfd, number)


class Connections:
    """The connections of all services. *on_room*: called with a service when one of its listeners has room again."""

    def __init__(
        self,
        watch: Watch,
        reaper: Reaper,
        note: Callable[..., None],
        open_output: Callable[[ServiceRecord], int],
        on_room: Callable[[ServiceRecord], None],
    ) -> None:
        self._watch = watch
        self._reaper = reaper
        self._note = note
        self._open_output = open_output
        self._on_room = on_room
        self._processes: dict[ServiceRecord, list[ConnectionProcess]] = {}
        self._ending: dict[ServiceRecord, trio.Event] = {}
        self._answered = trio.Event()

    def has_room(self, record: ServiceRecord, listener: Listener) -> bool:
        """Tell whether *listener* may accept one more connection."""
        return sum(process.listener == listener.name for process in self._processes.get(record, ())) < listener.connections

    def serving(self, record: ServiceRecord) -> list[ConnectionProcess]:
        """Return the processes of the service's connections."""
        return list(self._processes.get(record, ()))

    def serve(self, record: ServiceRecord, listener: Listener, connection: Connection) -> None:
        """Start a process for *connection*, and close its descriptor. A failure is logged."""
        starter = record.definition.starter
        process = ConnectionProcess(listener.name)
        try:
            output = self._open_output(record)
            try:
                given = Start(output, None, {FIRST_LISTENER: connection.descriptor}, connection.environment(listener))
                starter.serve(given, partial(self._started, record, process))
            finally:
                os.close(output)
        except (MilkyWayError, OSError) as error:
            self._note("connection_not_served", service=record.definition.name, why=str(error))
        else:
            self._processes.setdefault(record, []).append(process)
        finally:
            os.close(connection.descriptor)

    async def wait_answered(self) -> None:
        """Return when no connection's start is under way."""
        while any(process.child is None for found in self._processes.values() for process in found):
            self._answered = trio.Event()
            await self._answered.wait()

    def adopt(self, record: ServiceRecord, listener: str, child: Child) -> None:
        """Take over a process that an earlier program started for a connection to *listener*."""
        process = ConnectionProcess(listener)
        self._processes.setdefault(record, []).append(process)
        self._reaper.claim(child.pid)
        self._hold(record, process, child)

    async def end(self, record: ServiceRecord) -> None:
        """End all of the service's connections: ask, wait for the stop timeout, kill; then clean up what is left."""
        stop = record.definition.service.stop
        empty = self._ending[record] = trio.Event()
        try:
            for process in self.serving(record):
                process.signal(signal.Signals[f"SIG{stop.signal}"])
            with trio.move_on_after(stop.timeout_ms / 1000):
                await self._wait_empty(record, empty)
            if record in self._processes:
                self._note("service_killed", service=record.definition.name)
                with trio.move_on_after(END_SECONDS):
                    record.definition.starter.kill()
                    for process in self.serving(record):
                        process.signal(signal.SIGKILL)
                    await self._wait_empty(record, empty)
            self.detach(record)  # what has not died by now is left to the reaper, like any orphan
            await record.definition.starter.clean_up()
        except (MilkyWayError, OSError) as error:
            self._note("cleaning_up_failed", service=record.definition.name, error=str(error))
        finally:
            del self._ending[record]

    def detach(self, record: ServiceRecord) -> None:
        """Close every descriptor of the service's connections; their processes go on without us."""
        for process in self._processes.pop(record, ()):
            if process.child is not None:
                self._watch.remove(process.child.pidfd)
                os.close(process.child.pidfd)
                self._reaper.release(process.child.pid)

    async def _wait_empty(self, record: ServiceRecord, empty: trio.Event) -> None:
        if record in self._processes:
            await empty.wait()

    def _started(self, record: ServiceRecord, process: ConnectionProcess, outcome: Child | Exception) -> None:
        if process not in self._processes.get(record, ()):
            if isinstance(outcome, Child):  # it was detached meanwhile
                os.close(outcome.pidfd)
                self._reaper.release(outcome.pid)
        elif isinstance(outcome, Child):
            self._hold(record, process, outcome)
            if record in self._ending:
                process.signal(signal.Signals[f"SIG{record.definition.service.stop.signal}"])
        else:
            self._note("connection_not_served", service=record.definition.name, why=str(outcome))
            self._remove(record, process)
        self._answered.set()

    def _hold(self, record: ServiceRecord, process: ConnectionProcess, child: Child) -> None:
        process.child = child
        self._note("connection_process_started", service=record.definition.name, pid=child.pid)
        try:
            self._watch.add(child.pidfd, lambda _: self._ended(record, process, child))
        except OSError as error:  # it must not run unwatched
            self._note("connection_not_served", service=record.definition.name, why=str(error))
            process.signal(signal.SIGKILL)
            os.close(child.pidfd)
            self._reaper.release(child.pid)
            self._remove(record, process)

    def _ended(self, record: ServiceRecord, process: ConnectionProcess, child: Child) -> None:
        self._watch.remove(child.pidfd)
        if not record.definition.starter.cgroup:
            kill_process_group(child.pid)  # what it leaves behind; its number may be reused once it is reaped
        code = reap(child, self._reaper)
        self._note("connection_process_ended", service=record.definition.name, pid=child.pid, code=code)
        self._remove(record, process)

    def _remove(self, record: ServiceRecord, process: ConnectionProcess) -> None:
        left = [other for other in self._processes[record] if other is not process]
        if left:
            self._processes[record] = left
        else:
            del self._processes[record]
            if record in self._ending:
                self._ending[record].set()
        self._on_room(record)
