"""What the engine knows of one service: its definition, where it is in its life, and which process it has now.

The record is the engine's alone. What an organ keeps of a service (its pipes, listeners, health checks…) it keeps itself.
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
    """The main process of a service, from its start to its burial, with what is open for it: its organs' to fill in.

    ``probing``: the alarm of its readiness probe; ``unready``: what that said last, while it is not ready.
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
        """Send it a signal, if it is still there."""
        if not processes.has_ended(self.child.pidfd):
            processes.pidfd_send_signal(self.child.pidfd, number)


class Question(Enum):
    """What is answered when it is heard: the answer is the event."""

    END = "what is the end of its process?"
    START = "may it start, and how?"


class Message(NamedTuple):
    """What waits to be heard.

    *source*: the process or alarm that it is about. *why*: for people. *at_once*: as in the record.
    """

    what: Event | Question
    source: object | None = None
    why: str = ""
    at_once: bool = False


class ServiceRecord:
    """One service with all that the engine knows of it.

    ``busy``: an effect that takes its time is being carried out; messages wait. ``effects``: those that come after it.
    ``at_once``: somebody wants it restarted, and not to wait for its trigger. ``cause``: of its last change of row.
    ``origin``: who wanted it last, or wanted it no more. ``times``: of its first start. ``reason``: why it is where it is,
    for people.
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

    def is_without_processes(self) -> bool:
        """Tell whether nothing of it runs, nor is being cleared away."""
        return not has_process(self.row) and not self.busy

    def is_idle(self) -> bool:
        """Tell whether it is stopped, and all that it left is cleared away."""
        return self.row is Row.IDLE and not self.busy
