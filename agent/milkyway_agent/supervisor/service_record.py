"""What the supervisor knows of one service: its definition, where it is in its life, and the process that it has now."""

import signal
from collections import deque
from collections.abc import Callable, Container, Mapping
from typing import Final, NamedTuple, Protocol, TypeGuard

import trio

from milkyway_agent.core.dependencies import Needs
from milkyway_agent.core.explanation import Origin
from milkyway_agent.core.restart import Starts
from milkyway_agent.core.service_state import Effect, Event, Row, has_process
from milkyway_agent.core.start_times import Times
from milkyway_agent.launching import listeners
from milkyway_agent.launching.child import Running, Starter
from milkyway_agent.log.service_output import Stream
from milkyway_agent.runtime.alarms import Alarm
from milkyway_agent.supervisor.fd_store import FdStore
from milkyway_agent.system import processes
from milkyway_formats.service import ReadyByDescriptor, Service


class Start(NamedTuple):
    """What one start is given: standard output and error, its sd_notify socket, further descriptors by the child's number."""

    output: int
    notify: str | None
    descriptors: Mapping[int, int]
    environment: Mapping[str, str]


Done = Callable[[Running | Exception], None]


class DirectStarter(Protocol):
    """A starter that needs no task: it is asked for a start and answers by a call."""

    @property
    def cgroup(self) -> str:
        """The directory of the service's control group, "" where it has none."""

    @property
    def takes_listeners(self) -> bool:
        """Whether it hands listeners to the service."""

    @property
    def reads_execution(self) -> bool:
        """Whether the process is what the service's ``execution`` says."""

    def submit(self, start: Start, done: Done) -> None:
        """Start the service; *done* is called later with its process, claimed, or with the MilkyWayError or OSError.

        The descriptors of *start* are the caller's, and may be closed when this returns.
        """

    def serve(self, start: Start, done: Done) -> None:
        """Start one more process of the service, for a connection; else as ``submit``."""

    def adopt(self, running: Running) -> None:
        """Take *running*, which was started before there was this starter, for what ``submit`` started."""

    async def execute(self, command: list[str], seconds: float, environment: Mapping[str, str], output: int = -1) -> int | None:
        """See ``starter.Commanding``."""

    def kill(self) -> None:
        """Send SIGKILL to all of the service's processes, if it has any."""

    def ended(self) -> None:
        """Take note that the main process has ended; it is reaped right after."""

    def clear(self) -> bool:
        """Remove what a start made, if no process is left in it; tell whether all of it is gone. Raises OSError."""

    async def clean_up(self) -> None:
        """Undo ``submit``: end what is left of its processes and remove what it made. Twice is the same as once."""


def is_direct(starter: Starter | DirectStarter) -> TypeGuard[DirectStarter]:
    """Tell whether *starter* answers by a call rather than by a task."""
    return hasattr(starter, "submit")


class Definition(NamedTuple):
    """A service to supervise. *name* is its full one ("web/nginx"), as are those in *needs*.

    *users*: who may listen on its port for it to count as ready; None: anybody. *socket_context*: the SELinux context of
    its listeners, "": our own.
    """

    name: str
    service: Service
    starter: Starter | DirectStarter
    needs: Needs = Needs()
    users: Container[int] | None = None
    socket_context: str = ""


class Change(NamedTuple):
    """One change of row, for the history. *at_ms*: milliseconds of CLOCK_BOOTTIME."""

    name: str
    was: Row
    now: Row
    cause: Event
    at_ms: int = 0


class Run:
    """One process of a service, from its start to its burial.

    ``probing``: the alarm of its readiness probe; ``unready``: what that said last, while it is not ready.
    """

    __slots__ = ("ended", "notify", "probing", "ready_pipe", "running", "unready")

    def __init__(self, running: Running) -> None:
        self.running = running
        self.ended = False
        self.notify = -1
        self.ready_pipe = -1
        self.probing: Alarm | None = None
        self.unready = ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its main process, if that is still there."""
        if not processes.has_ended(self.running.pidfd):
            processes.pidfd_send_signal(self.running.pidfd, number)


class Reload:
    """A reload that was asked for: once it is ``over``, ``why`` it came to nothing; "" where it did not."""

    __slots__ = ("over", "why")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.why = ""

    def end(self, why: str = "") -> None:
        """Have it over."""
        self.why = why
        self.over.set()


AT_ONCE: Final = object()


class Message(NamedTuple):
    """What waits to be handled: an event, or (None) the end of the process. *source*: what it is about, if anything."""

    event: Event | None
    source: object | None = None


class Attended:
    """One service with all that the supervisor knows of it.

    ``busy``: an effect that takes its time is being carried out; messages wait. ``effects``: those that come after it.
    ``asked``: somebody wants it restarted, and not to wait for its trigger. ``cause``: of its last change of row.
    ``origin``: who wanted it last, or wanted it no more. ``times``: of its first start.
    """

    __slots__ = (
        "alarm", "asked", "awaits_permission", "busy", "cause", "definition", "delay_ms", "effects", "failures", "health",
        "held", "last_line", "leaving", "listeners", "origin", "output", "queue", "queued", "reason", "reload", "restarts",
        "row", "run", "since_ms", "starts", "store", "streams", "times", "watchdog",
    )  # fmt: skip

    def __init__(self, definition: Definition, since_ms: int) -> None:
        self.definition = definition
        self.row = Row.IDLE
        self.queue: deque[Message] | None = None
        self.queued = False
        self.run: Run | None = None
        self.alarm: Alarm | None = None
        self.awaits_permission = False
        self.asked = False
        self.busy = False
        self.effects: tuple[Effect, ...] = ()
        self.leaving = 0  # how many stop it, and all that need it before
        self.held = 0  # how many keep it from starting: because what it requires is leaving, or it is to be another
        self.starts = Starts()
        self.delay_ms = 0
        self.restarts = 0
        self.since_ms = since_ms
        self.cause: Event | None = None
        self.origin = Origin()
        self.times = Times()
        self.reason = ""
        self.reload: Reload | None = None  # the last
        self.last_line = ""
        self.streams: tuple[Stream, ...] = ()  # of its pipe, the last, and of pipes that what it left behind still holds
        self.output = -1  # the writing end of its pipe, where that is kept for its next run
        self.listeners: tuple[int, ...] = ()
        self.store: FdStore | None = None
        self.health: Alarm | None = None
        self.failures = 0  # of its health probe, in a row
        self.watchdog: Alarm | None = None

    def is_without_processes(self) -> bool:
        """Tell whether nothing of it runs, nor is being cleared away."""
        return not has_process(self.row) and not self.busy

    def is_idle(self) -> bool:
        """Tell whether it is stopped, and all that it left is cleared away."""
        return self.row is Row.IDLE and not self.busy


def environment_for_commands(one: Attended) -> dict[str, str]:
    """Return the variables for a command that is run beside the service: it has none of its descriptors."""
    return {"MAINPID": str(one.run.running.pid)} if one.run else {}


def accepts(service: Service) -> bool:
    """Tell whether each connection to *service* is a process of its own; then it has no main process."""
    return any(listener.accept for listener in service.listeners)


def environment_of(one: Attended, notify: str | None) -> dict[str, str]:
    """Return the variables that tell a service of its notify socket, watchdog, listeners and stored descriptors."""
    service = one.definition.service
    stored = one.store.names if one.store else ()
    found = listeners.environment(service.listeners, stored)
    if notify:
        found["NOTIFY_SOCKET"] = notify
    if service.watchdog_ms and notify:
        found["WATCHDOG_USEC"] = str(service.watchdog_ms * 1000)
    if isinstance(service.readiness, ReadyByDescriptor):
        found["READY_FD"] = str(service.readiness.descriptor)
    return found
