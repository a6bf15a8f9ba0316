"""What the engine knows about one service: its definition, its state, and its process.

Only the engine changes a record. An organ keeps its own data about a service (pipes, listeners, health checks…) itself.
"""

import signal
from collections import deque
from enum import Enum
from typing import NamedTuple

from milkyway_agent.core.explanation import Origin
from milkyway_agent.core.restart import Starts
from milkyway_agent.core.service_state import Effect, Event, Row, has_process
from milkyway_agent.core.start_times import Times
from milkyway_agent.launching.child import Child
from milkyway_agent.runtime.alarms import Alarm
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.system import processes


class MainProcess:
    """The main process of a service, until it is reaped, with what is open for it, which the organs fill in.

    ``ended``: its end was seen, or it was reaped. ``probing``: the alarm for its next readiness probe; ``unready``: the last
    answer of that, while it is not ready.
    """

    __slots__ = ("child", "ended", "notify", "probing", "ready_pipe", "unready")

    def __init__(self, child: Child) -> None:
        self.child = child
        self.ended = False
        self.notify = -1
        self.ready_pipe = -1
        self.probing: Alarm | None = None
        self.unready = ""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended: once it is reaped, the number of its pidfd may be another's."""
        if not self.ended and not processes.has_ended(self.child.pidfd):
            processes.pidfd_send_signal(self.child.pidfd, number)


class Question(Enum):
    """A message whose event is only determined when it is handled."""

    END = "how did its process end?"
    START = "may it start, and how?"


class Message(NamedTuple):
    """Something that happens to a service, as it waits in the queue.

    *source*: the process or alarm that it is about. *why*: for people. *at_once*: as in the record.
    """

    what: Event | Question
    source: object | None = None
    why: str = ""
    at_once: bool = False


class ServiceRecord:
    """One service with all that the engine knows about it.

    ``busy``: an effect that takes time is being carried out; messages wait. ``effects``: those that follow it. ``at_once``:
    a restart was asked for that does not wait for its trigger. ``cause``: of its last change of row. ``origin``: who started
    or stopped it last. ``times``: of its first start. ``reason``: why it is in its row, for people.
    """

    __slots__ = (
        "alarm", "at_once", "awaits_permission", "busy", "cause", "definition", "delay_ms", "effects", "held", "leaving",
        "origin", "process", "queue", "queued", "reason", "restarts", "row", "since_ms", "starts", "times",
    )  # fmt: skip

    def __init__(self, definition: Definition, since_ms: int) -> None:
        self.definition = definition
        self.row = Row.IDLE
        self.queue: deque[Message] | None = None
        self.queued = False
        self.process: MainProcess | None = None
        self.alarm: Alarm | None = None
        self.awaits_permission = False
        self.at_once = False
        self.busy = False
        self.effects: tuple[Effect, ...] = ()
        self.leaving = 0  # how many calls stop it, and before it all that need it
        self.held = 0  # how many calls keep it from starting: what it requires is leaving, or it is being redefined
        self.starts = Starts()
        self.delay_ms = 0
        self.restarts = 0
        self.since_ms = since_ms
        self.cause: Event | None = None
        self.origin = Origin()
        self.times = Times()
        self.reason = ""

    @property
    def pid(self) -> int:
        """The pid of its main process, 0 where there is none or it has ended."""
        return self.process.child.pid if self.process is not None and not self.process.ended else 0

    def is_without_processes(self) -> bool:
        """Tell whether it has no processes, and none are being cleaned up."""
        return not has_process(self.row) and not self.busy

    def is_idle(self) -> bool:
        """Tell whether it is stopped, and all that it left is cleaned up."""
        return self.row is Row.IDLE and not self.busy
