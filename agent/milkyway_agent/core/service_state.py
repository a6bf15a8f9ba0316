"""The life of one service, as a table.

``step`` takes the row a service is in and the event that happened to it, and returns the
next row with the effects to carry out, in order. It performs none of them, reads no clock
and never blocks; ``supervisor`` does all three. An event that has no meaning in a row
raises and changes nothing.

A row says two things, kept apart by name: ``current`` (what the world shows: stopped, armed,
starting, started, stopping, failed) and ``wanted`` (whether it should run). Rows that say the
same differ in what the next event means::

    IDLE        stopped   unwanted
    WAITING     stopped   wanted     it waits for what it needs, or for its backoff to pass
    ARMED       armed     wanted     it waits for a client on its listener, or for its time: others may count on it
    STARTING    starting  wanted
    STARTED     started   wanted
    COMPLETED   started   wanted     a oneshot that did its work, or a bundle whose parts are up: there is no process
    STOPPING    stopping  unwanted
    RESTARTING  stopping  wanted     it was asked to stop: a fresh start comes next
    FALTERING   stopping  wanted     it failed and is being stopped: its end is judged
    FAILED      failed    wanted     given up

If a process ends without having been asked to, ``restart.judge`` says which event that is: COMPLETED,
RETRIED, FINISHED, REARMED or GAVE_UP. If it was asked to, the event is ENDED. ``judges_end`` says which
of the two a row takes.

AWAIT_PERMISSION brings about PERMITTED, ARM or SKIPPED (``restart.permission`` says which), as soon as
``dependencies`` finds that nothing holds the service back; these events have no other cause. START of a
bundle brings about COMPLETED at once. START, ARM, AWAIT_PERMISSION and the timers may bring about the
next event at once, so each is the last of its effects (the one exception is TERMINATE, which a timer
follows: an end that is found at once makes the timer needless).

INTERNAL_ERROR may come when only some of a step's effects were carried out, in a row that the service
never quite reached: it undoes all that any row does. So every undoing effect (CANCEL_TIMER, DISARM,
STOP_HEALTH_CHECKS, KILL, CLEAN_UP) is idempotent, and each of INTERNAL_ERROR's effects is tried even if
the one before it failed.
"""

from enum import Enum
from typing import NamedTuple

from milkyway_formats.report import ServiceState


class Row(Enum):
    """Where a service is in its life: see the table above."""

    IDLE = ("idle", "stopped", False)
    WAITING = ("waiting", "stopped", True)
    ARMED = ("armed", "armed", True)
    STARTING = ("starting", "starting", True)
    STARTED = ("started", "started", True)
    COMPLETED = ("completed", "started", True)
    STOPPING = ("stopping", "stopping", False)
    RESTARTING = ("restarting", "stopping", True)
    FALTERING = ("faltering", "stopping", True)
    FAILED = ("failed", "failed", True)

    def __init__(self, label: str, current: ServiceState, wanted: bool) -> None:
        self.label = label
        self.current: ServiceState = current
        self.wanted = wanted

    __hash__ = object.__hash__  # by identity; Enum's own is slow Python code, and rows and events are keys of dictionaries


class Event(Enum):
    """What can happen to a service."""

    WANTED = "wanted"  # somebody wants it to run
    UNWANTED = "unwanted"  # somebody wants it to stop
    RESTART_ASKED = "restart asked"
    RELOAD_ASKED = "reload asked"
    PERMITTED = "permitted"  # all that it needs is there
    ARM = "arm"  # the same, and it must wait for its trigger
    SKIPPED = "skipped"  # all that it needs is there, but one of its conditions does not hold
    ARM_FAILED = "arm failed"  # its listener can't be opened, so nothing could trigger it
    TRIGGERED = "triggered"  # a client came, or its time
    DEPENDENCY_LOST = "dependency lost"  # something that it requires went away
    PART_LOST = "part lost"  # the same for a bundle, which is nothing but its parts
    BACKOFF_OVER = "backoff over"
    READY = "ready"
    START_TIMEOUT = "start timeout"  # not ready in time
    UNHEALTHY = "unhealthy"  # its probe failed too often
    WATCHDOG_TIMEOUT = "watchdog timeout"
    STOP_TIMEOUT = "stop timeout"
    ENDED = "ended"  # as it was asked to
    COMPLETED = "completed"  # by itself, and this is its success
    RETRIED = "retried"  # by itself, and it runs again after its backoff
    FINISHED = "finished"  # by itself, and it stays stopped and is not wanted any more
    REARMED = "rearmed"  # by itself, and it waits for its next trigger
    GAVE_UP = "gave up"  # by itself, and it is not tried again
    INTERNAL_ERROR = "internal error"  # the supervisor itself could not go on with it

    __hash__ = object.__hash__


class Effect(Enum):
    """What the supervisor does in response."""

    AWAIT_PERMISSION = "await permission"
    START_BACKOFF_TIMER = "start backoff timer"
    ARM = "arm"  # watch its listeners, and set its timers to their next times
    DISARM = "disarm"
    START = "start"
    START_READY_TIMER = "start ready timer"
    CANCEL_TIMER = "cancel timer"  # of START_READY_TIMER, START_STOP_TIMER or START_BACKOFF_TIMER, whichever runs
    START_HEALTH_CHECKS = "start health checks"  # its probe and its watchdog timer, if it has any
    STOP_HEALTH_CHECKS = "stop health checks"
    RELOAD = "reload"  # its reload command, or signal
    TERMINATE = "terminate"  # the service's own stop signal, to its main process
    START_STOP_TIMER = "start stop timer"
    KILL = "kill"  # SIGKILL, to all of its processes
    CLEAN_UP = "clean up"  # kill what the main process left behind; remove container and group
    FORGET_STARTS = "forget starts"  # a fresh start: the start limit counts from now


class Transition(NamedTuple):
    """The next row, and what to do on the way there."""

    row: Row
    effects: tuple[Effect, ...] = ()


class IllegalEventError(Exception):
    """The event has no meaning in the row: a bug of its sender. Nothing was changed."""


_WAIT_AFRESH = (Effect.CANCEL_TIMER, Effect.FORGET_STARTS, Effect.AWAIT_PERMISSION)
_BEGIN = (Effect.START_READY_TIMER, Effect.START)
_STOP = (Effect.CANCEL_TIMER, Effect.TERMINATE, Effect.START_STOP_TIMER)
_STOP_STARTED = (Effect.STOP_HEALTH_CHECKS, *_STOP)
_END = (Effect.CANCEL_TIMER, Effect.CLEAN_UP)
_END_STARTED = (Effect.STOP_HEALTH_CHECKS, *_END)
_BREAK = (Effect.CANCEL_TIMER, Effect.STOP_HEALTH_CHECKS, Effect.DISARM, Effect.KILL, Effect.CLEAN_UP)

TABLE: dict[tuple[Row, Event], Transition] = {
    (Row.IDLE, Event.WANTED): Transition(Row.WAITING, _WAIT_AFRESH),
    (Row.IDLE, Event.UNWANTED): Transition(Row.IDLE),
    (Row.IDLE, Event.RESTART_ASKED): Transition(Row.WAITING, _WAIT_AFRESH),
    (Row.IDLE, Event.DEPENDENCY_LOST): Transition(Row.IDLE),
    (Row.IDLE, Event.PART_LOST): Transition(Row.IDLE),
    (Row.WAITING, Event.WANTED): Transition(Row.WAITING),
    (Row.WAITING, Event.UNWANTED): Transition(Row.IDLE, (Effect.CANCEL_TIMER,)),
    (Row.WAITING, Event.RESTART_ASKED): Transition(Row.WAITING, _WAIT_AFRESH),
    (Row.WAITING, Event.DEPENDENCY_LOST): Transition(Row.WAITING),
    (Row.WAITING, Event.PART_LOST): Transition(Row.WAITING),
    (Row.WAITING, Event.BACKOFF_OVER): Transition(Row.WAITING, (Effect.AWAIT_PERMISSION,)),
    (Row.WAITING, Event.PERMITTED): Transition(Row.STARTING, _BEGIN),
    (Row.WAITING, Event.ARM): Transition(Row.ARMED, (Effect.ARM,)),
    (Row.WAITING, Event.SKIPPED): Transition(Row.IDLE, (Effect.CANCEL_TIMER,)),
    (Row.ARMED, Event.WANTED): Transition(Row.ARMED),
    (Row.ARMED, Event.UNWANTED): Transition(Row.IDLE, (Effect.DISARM,)),
    # A restart that was asked for does not wait for a client.
    (Row.ARMED, Event.RESTART_ASKED): Transition(Row.STARTING, (Effect.DISARM, Effect.FORGET_STARTS, *_BEGIN)),
    (Row.ARMED, Event.DEPENDENCY_LOST): Transition(Row.WAITING, (Effect.DISARM, Effect.AWAIT_PERMISSION)),
    (Row.ARMED, Event.ARM_FAILED): Transition(Row.FAILED, (Effect.DISARM,)),
    (Row.ARMED, Event.TRIGGERED): Transition(Row.STARTING, (Effect.DISARM, *_BEGIN)),
    (Row.STARTING, Event.WANTED): Transition(Row.STARTING),
    (Row.STARTING, Event.UNWANTED): Transition(Row.STOPPING, _STOP),
    (Row.STARTING, Event.RESTART_ASKED): Transition(Row.RESTARTING, _STOP),
    (Row.STARTING, Event.DEPENDENCY_LOST): Transition(Row.RESTARTING, _STOP),
    (Row.STARTING, Event.READY): Transition(Row.STARTED, (Effect.CANCEL_TIMER, Effect.START_HEALTH_CHECKS)),
    (Row.STARTING, Event.START_TIMEOUT): Transition(Row.FALTERING, _STOP),
    (Row.STARTING, Event.COMPLETED): Transition(Row.COMPLETED, _END),
    (Row.STARTING, Event.RETRIED): Transition(Row.WAITING, (*_END, Effect.START_BACKOFF_TIMER)),
    (Row.STARTING, Event.FINISHED): Transition(Row.IDLE, _END),
    (Row.STARTING, Event.REARMED): Transition(Row.ARMED, (*_END, Effect.ARM)),
    (Row.STARTING, Event.GAVE_UP): Transition(Row.FAILED, _END),
    (Row.STARTED, Event.WANTED): Transition(Row.STARTED),
    (Row.STARTED, Event.UNWANTED): Transition(Row.STOPPING, _STOP_STARTED),
    (Row.STARTED, Event.RESTART_ASKED): Transition(Row.RESTARTING, _STOP_STARTED),
    (Row.STARTED, Event.RELOAD_ASKED): Transition(Row.STARTED, (Effect.RELOAD,)),
    (Row.STARTED, Event.DEPENDENCY_LOST): Transition(Row.RESTARTING, _STOP_STARTED),
    (Row.STARTED, Event.READY): Transition(Row.STARTED),
    (Row.STARTED, Event.UNHEALTHY): Transition(Row.FALTERING, _STOP_STARTED),
    (Row.STARTED, Event.WATCHDOG_TIMEOUT): Transition(Row.FALTERING, _STOP_STARTED),
    (Row.STARTED, Event.COMPLETED): Transition(Row.COMPLETED, _END_STARTED),
    (Row.STARTED, Event.RETRIED): Transition(Row.WAITING, (*_END_STARTED, Effect.START_BACKOFF_TIMER)),
    (Row.STARTED, Event.FINISHED): Transition(Row.IDLE, _END_STARTED),
    (Row.STARTED, Event.REARMED): Transition(Row.ARMED, (*_END_STARTED, Effect.ARM)),
    (Row.STARTED, Event.GAVE_UP): Transition(Row.FAILED, _END_STARTED),
    (Row.COMPLETED, Event.WANTED): Transition(Row.COMPLETED),
    (Row.COMPLETED, Event.UNWANTED): Transition(Row.IDLE),
    (Row.COMPLETED, Event.RESTART_ASKED): Transition(Row.WAITING, _WAIT_AFRESH),
    # What a oneshot did stays done when what it needed goes away; a bundle is nothing but its parts.
    (Row.COMPLETED, Event.DEPENDENCY_LOST): Transition(Row.COMPLETED),
    (Row.COMPLETED, Event.PART_LOST): Transition(Row.WAITING, (Effect.AWAIT_PERMISSION,)),
    (Row.STOPPING, Event.WANTED): Transition(Row.RESTARTING),
    (Row.STOPPING, Event.UNWANTED): Transition(Row.STOPPING),
    (Row.STOPPING, Event.RESTART_ASKED): Transition(Row.RESTARTING),
    (Row.STOPPING, Event.DEPENDENCY_LOST): Transition(Row.STOPPING),
    (Row.STOPPING, Event.READY): Transition(Row.STOPPING),
    (Row.STOPPING, Event.STOP_TIMEOUT): Transition(Row.STOPPING, (Effect.KILL,)),
    (Row.STOPPING, Event.ENDED): Transition(Row.IDLE, _END),
    (Row.RESTARTING, Event.WANTED): Transition(Row.RESTARTING),
    (Row.RESTARTING, Event.UNWANTED): Transition(Row.STOPPING),
    (Row.RESTARTING, Event.RESTART_ASKED): Transition(Row.RESTARTING),
    (Row.RESTARTING, Event.DEPENDENCY_LOST): Transition(Row.RESTARTING),
    (Row.RESTARTING, Event.READY): Transition(Row.RESTARTING),
    (Row.RESTARTING, Event.STOP_TIMEOUT): Transition(Row.RESTARTING, (Effect.KILL,)),
    (Row.RESTARTING, Event.ENDED): Transition(Row.WAITING, (*_END, Effect.FORGET_STARTS, Effect.AWAIT_PERMISSION)),
    (Row.FALTERING, Event.WANTED): Transition(Row.FALTERING),
    (Row.FALTERING, Event.UNWANTED): Transition(Row.STOPPING),
    (Row.FALTERING, Event.RESTART_ASKED): Transition(Row.RESTARTING),
    (Row.FALTERING, Event.DEPENDENCY_LOST): Transition(Row.RESTARTING),
    (Row.FALTERING, Event.READY): Transition(Row.FALTERING),
    (Row.FALTERING, Event.STOP_TIMEOUT): Transition(Row.FALTERING, (Effect.KILL,)),
    # It completed just as its time ran out.
    (Row.FALTERING, Event.COMPLETED): Transition(Row.COMPLETED, _END),
    (Row.FALTERING, Event.RETRIED): Transition(Row.WAITING, (*_END, Effect.START_BACKOFF_TIMER)),
    (Row.FALTERING, Event.FINISHED): Transition(Row.IDLE, _END),
    (Row.FALTERING, Event.REARMED): Transition(Row.ARMED, (*_END, Effect.ARM)),
    (Row.FALTERING, Event.GAVE_UP): Transition(Row.FAILED, _END),
    (Row.FAILED, Event.WANTED): Transition(Row.WAITING, _WAIT_AFRESH),
    (Row.FAILED, Event.UNWANTED): Transition(Row.IDLE),
    (Row.FAILED, Event.RESTART_ASKED): Transition(Row.WAITING, _WAIT_AFRESH),
    (Row.FAILED, Event.DEPENDENCY_LOST): Transition(Row.FAILED),
    (Row.FAILED, Event.PART_LOST): Transition(Row.FAILED),
} | {(row, Event.INTERNAL_ERROR): Transition(Row.FAILED, _BREAK) for row in Row}

# The timer that may run in a row, by the event that it brings about.
TIMERS = {
    Row.WAITING: Event.BACKOFF_OVER,
    Row.STARTING: Event.START_TIMEOUT,
    Row.STOPPING: Event.STOP_TIMEOUT,
    Row.RESTARTING: Event.STOP_TIMEOUT,
    Row.FALTERING: Event.STOP_TIMEOUT,
}
# Events that have a meaning in this row alone, which the service may have left by the time they are handled.
ONLY_IN = {
    Event.TRIGGERED: Row.ARMED,
    Event.RELOAD_ASKED: Row.STARTED,
    Event.UNHEALTHY: Row.STARTED,
    Event.WATCHDOG_TIMEOUT: Row.STARTED,
}

_THERE = frozenset({Row.ARMED, Row.STARTED, Row.COMPLETED})
_WITH_PROCESS = frozenset({Row.STARTING, Row.STARTED, Row.STOPPING, Row.RESTARTING, Row.FALTERING})


def step(row: Row, event: Event) -> Transition:
    """Return what follows when *event* happens to a service in *row*. Raises IllegalEventError if that has no meaning."""
    try:
        return TABLE[row, event]
    except KeyError:
        raise IllegalEventError(f"cannot go on from {row.label}: {event.value!r} has no meaning there") from None


def judges_end(row: Row) -> bool:
    """Tell whether a process that ends in *row* was not asked to, so that its end must be judged."""
    return (row, Event.GAVE_UP) in TABLE


def has_process(row: Row) -> bool:
    """Tell whether a service in *row* has, or may have, a process."""
    return row in _WITH_PROCESS


def satisfies(row: Row) -> bool:
    """Tell whether a service in *row* is there for those that require it: it is up or done, or its socket is open."""
    return row in _THERE


def is_lost(was: Row, now: Row) -> bool:
    """Tell whether services that require a service lose it when it goes from *was* to *now*: for them, DEPENDENCY_LOST.

    From ARMED to STARTING nothing is lost, as the socket stays open. So services that count on it may run already while
    it starts, and lose it if that start fails.
    """
    return (was in _THERE or was is Row.STARTING) and now not in _THERE and now is not Row.STARTING
