"""What is open for a process of a service: its output pipe, notify socket, ready pipe, listeners, stored descriptors.

``start`` opens all of it and passes it to the starter; ``attend`` watches it once there is a process, and ``close`` closes
it when that has ended.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence

from milkyway_agent.launching import listeners as listener_sockets
from milkyway_agent.launching.child import StartCallback
from milkyway_agent.launching.starter import FIRST_LISTENER, Start
from milkyway_agent.supervisor.process.notify import NotifySockets, has_notify
from milkyway_agent.supervisor.process.output_pipes import OutputPipes
from milkyway_agent.supervisor.process.readiness import Readiness
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_formats.errors import UnavailableError
from milkyway_formats.service import ReadyByDescriptor, Service

_NOTHING: Mapping[int, int] = {}
_NOTHING_SAID: Mapping[str, str] = {}
Listeners = Sequence[tuple[str, int]]


class StartIO:
    """Opens, hands over and closes what the starts of services need. *spawn* runs a task for a service."""

    def __init__(self, output: OutputPipes, notify: NotifySockets, readiness: Readiness, spawn: Callable[..., None]) -> None:
        self._output = output
        self._notify = notify
        self._readiness = readiness
        self._spawn = spawn
        self._opened: dict[ServiceRecord, tuple[socket.socket | None, int]] = {}  # while its start is under way

    def start(self, record: ServiceRecord, listeners: Listeners, done: StartCallback) -> None:
        """Open what the service needs and start it through its starter. Raises MilkyWayError or OSError, having undone that."""
        service, starter = record.definition.service, record.definition.starter
        stored = self._notify.stored(record)
        if starter.cgroup and not stored and not listeners and not _has_channel(service):
            starter.submit(Start(self._output.kept(record), None, _NOTHING, _NOTHING_SAID), done, self._tasks_of(record))
            return
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
            notify, path = None, None
            if has_notify(service):
                notify, path = self._notify.open(record)
                undo.callback(self._notify.close, record, notify)
            if starter.cgroup:
                output = self._output.kept(record)
            else:
                output = self._output.open(record)
                given.callback(os.close, output)
            descriptors: dict[int, int] = {}
            for _, descriptor in listeners:
                listener_sockets.hand_over(descriptor)
                descriptors[FIRST_LISTENER + len(descriptors)] = descriptor
            for entry in stored:
                descriptors[FIRST_LISTENER + len(descriptors)] = entry.descriptor
            ready = -1
            if isinstance(service.readiness, ReadyByDescriptor):
                if service.readiness.descriptor in descriptors:
                    raise UnavailableError(f"cannot start it: descriptor {service.readiness.descriptor} is a listener's")
                ready, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                undo.callback(os.close, ready)
                given.callback(os.close, writing)
                descriptors[service.readiness.descriptor] = writing
            environment = environment_of(service, path, [entry.name for entry in stored])
            starter.submit(Start(output, path, descriptors, environment, listeners), done, self._tasks_of(record))
            self._opened[record] = (notify, ready)
            undo.pop_all()

    def attend(self, record: ServiceRecord, process: MainProcess) -> None:
        """Watch the process that has started: its messages, and when it is ready."""
        notify, process.ready_pipe = self._opened.pop(record, (None, -1))
        if notify is not None:
            process.notify = notify.detach()
            self._notify.listen(record, process)
        self._readiness.await_ready(record, process)

    def attend_again(self, record: ServiceRecord, process: MainProcess, *, is_ready: bool) -> None:
        """Go on watching a process that an earlier program has started."""
        if process.notify >= 0:
            self._notify.listen(record, process)
        if not is_ready:
            self._readiness.await_ready(record, process)

    def drain(self, record: ServiceRecord, process: MainProcess) -> None:
        """Read the last messages of a process that has ended: it may have become ready, or stored descriptors."""
        self._readiness.drain(record, process)
        self._notify.drain(record, process)

    def close(self, record: ServiceRecord, process: MainProcess) -> None:
        """Close what was open for a process that has ended. Idempotent."""
        self._readiness.close(process)
        self._notify.close_of(record, process)

    def give_up(self, record: ServiceRecord) -> None:
        """Close what a start that failed has left open. Idempotent."""
        notify, ready = self._opened.pop(record, (None, -1))
        if notify is not None:
            self._notify.close(record, notify)
        if ready >= 0:
            os.close(ready)

    def _tasks_of(self, record: ServiceRecord) -> Callable[..., None]:
        return lambda task, *arguments: self._spawn(record, task, *arguments)


def environment_of(service: Service, notify: str | None, stored: Sequence[str]) -> dict[str, str]:
    """Return the variables about a service's notify socket, watchdog, listeners and *stored* descriptors (their names)."""
    found = listener_sockets.environment(service.listeners, stored)
    if notify:
        found["NOTIFY_SOCKET"] = notify
    if service.watchdog_ms and notify:
        found["WATCHDOG_USEC"] = str(service.watchdog_ms * 1000)
    if isinstance(service.readiness, ReadyByDescriptor):
        found["READY_FD"] = str(service.readiness.descriptor)
    return found


def _has_channel(service: Service) -> bool:
    """Tell whether the service sends messages, for which something must be opened besides its output."""
    return isinstance(service.readiness, ReadyByDescriptor) or has_notify(service)
