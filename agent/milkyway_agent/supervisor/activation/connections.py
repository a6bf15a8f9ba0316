"""Services whose listeners accept: a process for each connection, which has it as its descriptor 3 and nothing else of ours.

These processes are the service's: in its group, with its output. It is ``armed`` while they live, has no
main process, and nobody judges how one of them ends. They are ended, asked first and killed then, when it is no
longer armed: stopped, held back, restarted. Of each listener there are ``connections`` at most; who comes then waits in
the listener's backlog.
"""

import os
import signal
from collections.abc import Callable
from functools import partial

import trio

from milkyway_agent.launching.child import Child, kill_process_group, reap
from milkyway_agent.launching.listeners import Connection
from milkyway_agent.launching.starter import Start
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.service_record import ServiceRecord
from milkyway_agent.system import processes
from milkyway_formats.errors import MilkyWayError
from milkyway_formats.listener import Listener

CONNECTION = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
END_SECONDS = 10.0


class ConnectionProcess:
    """One connection's process. ``child``: None while its start is under way."""

    __slots__ = ("child", "listener")

    def __init__(self, listener: str) -> None:
        self.listener = listener
        self.child: Child | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it, if it is there."""
        if self.child is not None and not processes.has_ended(self.child.pidfd):
            processes.pidfd_send_signal(self.child.pidfd, number)


class Connections:
    """The connections of all services. *room_came* is told of a service for one of whose listeners there is room again."""

    def __init__(
        self,
        watch: Watch,
        reaper: Reaper,
        note: Callable[..., None],
        open_output: Callable[[ServiceRecord], int],
        room_came: Callable[[ServiceRecord], None],
    ) -> None:
        self._watch = watch
        self._reaper = reaper
        self._note = note
        self._open_output = open_output
        self._room_came = room_came
        self._processes: dict[ServiceRecord, list[ConnectionProcess]] = {}
        self._ending: dict[ServiceRecord, trio.Event] = {}
        self._answered = trio.Event()

    def has_room(self, record: ServiceRecord, listener: Listener) -> bool:
        """Tell whether one connection more may come to *listener*."""
        return sum(process.listener == listener.name for process in self._processes.get(record, ())) < listener.connections

    def serving(self, record: ServiceRecord) -> list[ConnectionProcess]:
        """Return the service's connections, as they are now."""
        return list(self._processes.get(record, ()))

    def serve(self, record: ServiceRecord, listener: Listener, connection: Connection) -> None:
        """Start a process for *connection*, whose descriptor is closed here, also where that fails: then it is noted."""
        starter = record.definition.starter
        process = ConnectionProcess(listener.name)
        try:
            output = self._open_output(record)
            try:
                given = Start(output, None, {CONNECTION: connection.descriptor}, connection.environment(listener))
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
        """Take over a process that an agent before us started for a connection to *listener*."""
        process = ConnectionProcess(listener)
        self._processes.setdefault(record, []).append(process)
        self._reaper.claim(child.pid)
        self._hold(record, process, child)

    async def end(self, record: ServiceRecord) -> None:
        """End all of the service's connections: ask, wait as long as it may take to stop, kill; clear away what is left."""
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
            self.detach(record)  # what does not die: when it does, it is an orphan like any other
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
            if isinstance(outcome, Child):  # it was let go of meanwhile
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
        except OSError as error:  # what can't be watched must not run
            self._note("connection_not_served", service=record.definition.name, why=str(error))
            process.signal(signal.SIGKILL)
            os.close(child.pidfd)
            self._reaper.release(child.pid)
            self._remove(record, process)

    def _ended(self, record: ServiceRecord, process: ConnectionProcess, child: Child) -> None:
        self._watch.remove(child.pidfd)
        if not record.definition.starter.cgroup:
            kill_process_group(child.pid)  # what it leaves; once it is reaped, its number may be another's
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
        self._room_came(record)
