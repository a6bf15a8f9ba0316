"""The life of one service, as a table.

``step`` takes the row a service is in and the event that happened to it, and returns the
next row with the effects to carry out, in order. It performs none of them, reads no clock
and never blocks; ``supervisor`` does all three. An event that has no meaning in a row
raises and changes nothing.

A row says two things, kept apart by name: ``current`` (what the world shows: stopped,
starting, started, stopping, failed) and ``wanted`` (what somebody asked for). Eight pairs
exist; the three that look alike differ in what the next event means::

    IDLE        stopped   unwanted
    WAITING     stopped   wanted     for what it needs, or for its backoff to pass
    STARTING    starting  wanted
    STARTED     started   wanted
    COMPLETED   started   wanted     a oneshot that did its work: there is no process
    STOPPING    stopping  unwanted
    RESTARTING  stopping  wanted     asked to: what comes after is a fresh start
    FALTERING   stopping  wanted     it failed and is being stopped: its end is judged
    FAILED      failed    wanted     given up

A process that ends without having been asked is judged by ``restart.judge``, which makes one
of COMPLETED, RETRIED, FINISHED, GAVE_UP of it; one that was asked to end makes ENDED.
``judges_end`` says which of the two a row takes.
"""

from enum import Enum
from typing import NamedTuple

from milkyway_formats.report import ServiceState


class Row(Enum):
    """Where a service is in its life: see the module's table."""

    IDLE = ("idle", "stopped", False)
    WAITING = ("waiting", "stopped", True)
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


class Event(Enum):
    """What can happen to a service."""

    WANTED = "wanted"  # somebody wants it to run
    UNWANTED = "unwanted"  # somebody wants it to stop
    RESTART_ASKED = "restart asked"
    PERMITTED = "permitted"  # all that it needs is there
    HELD = "held"  # something that it requires went away
    BACKOFF_OVER = "backoff over"
    READY = "ready"
    LATE = "late"  # not ready in time
    OVERDUE = "overdue"  # not stopped in time
    ENDED = "ended"  # as it was asked to
    COMPLETED = "completed"  # by itself, and this is its success
    RETRIED = "retried"  # by itself, and it is to run again after its backoff
    FINISHED = "finished"  # by itself, and it is to rest
    GAVE_UP = "gave up"  # by itself, and it is not to be tried again
    BROKEN = "broken"  # the supervisor itself could not go on with it


class Effect(Enum):
    """What the supervisor does about it."""

    AWAIT_PERMISSION = "await permission"
    START_BACKOFF_TIMER = "start backoff timer"
    START = "start"
    START_READY_TIMER = "start ready timer"
    CANCEL_TIMER = "cancel timer"
    TERMINATE = "terminate"  # the service's own stop signal, to its main process
    START_STOP_TIMER = "start stop timer"
    KILL = "kill"  # SIGKILL, to all of its processes
    CLEAN_UP = "clean up"  # kill what the main process left behind; remove container and group
    FORGET_STARTS = "forget starts"  # a fresh start: the start limit counts from now


class Step(NamedTuple):
    """The next row, and what to do on the way there."""

    row: Row
    effects: tuple[Effect, ...] = ()


class IllegalEventError(Exception):
    """The event has no meaning in the row: a bug of whoever sent it. Nothing was changed."""


_WAIT = (Effect.CANCEL_TIMER, Effect.AWAIT_PERMISSION)
_WAIT_AFRESH = (Effect.CANCEL_TIMER, Effect.FORGET_STARTS, Effect.AWAIT_PERMISSION)
_STOP = (Effect.CANCEL_TIMER, Effect.TERMINATE, Effect.START_STOP_TIMER)
_END = (Effect.CANCEL_TIMER, Effect.CLEAN_UP)
_RETRY = Step(Row.WAITING, (*_END, Effect.START_BACKOFF_TIMER))

TABLE: dict[tuple[Row, Event], Step] = {
    (Row.IDLE, Event.WANTED): Step(Row.WAITING, _WAIT_AFRESH),
    (Row.IDLE, Event.UNWANTED): Step(Row.IDLE),
    (Row.IDLE, Event.RESTART_ASKED): Step(Row.WAITING, _WAIT_AFRESH),
    (Row.IDLE, Event.HELD): Step(Row.IDLE),
    (Row.WAITING, Event.WANTED): Step(Row.WAITING),
    (Row.WAITING, Event.UNWANTED): Step(Row.IDLE, (Effect.CANCEL_TIMER,)),
    (Row.WAITING, Event.RESTART_ASKED): Step(Row.WAITING, _WAIT_AFRESH),
    (Row.WAITING, Event.HELD): Step(Row.WAITING),
    (Row.WAITING, Event.BACKOFF_OVER): Step(Row.WAITING, (Effect.AWAIT_PERMISSION,)),
    (Row.WAITING, Event.PERMITTED): Step(Row.STARTING, (Effect.START_READY_TIMER, Effect.START)),
    (Row.STARTING, Event.WANTED): Step(Row.STARTING),
    (Row.STARTING, Event.UNWANTED): Step(Row.STOPPING, _STOP),
    (Row.STARTING, Event.RESTART_ASKED): Step(Row.RESTARTING, _STOP),
    (Row.STARTING, Event.HELD): Step(Row.RESTARTING, _STOP),
    (Row.STARTING, Event.READY): Step(Row.STARTED, (Effect.CANCEL_TIMER,)),
    (Row.STARTING, Event.LATE): Step(Row.FALTERING, _STOP),
    (Row.STARTING, Event.COMPLETED): Step(Row.COMPLETED, _END),
    (Row.STARTING, Event.RETRIED): _RETRY,
    (Row.STARTING, Event.FINISHED): Step(Row.IDLE, _END),
    (Row.STARTING, Event.GAVE_UP): Step(Row.FAILED, _END),
    (Row.STARTED, Event.WANTED): Step(Row.STARTED),
    (Row.STARTED, Event.UNWANTED): Step(Row.STOPPING, _STOP),
    (Row.STARTED, Event.RESTART_ASKED): Step(Row.RESTARTING, _STOP),
    (Row.STARTED, Event.HELD): Step(Row.RESTARTING, _STOP),
    (Row.STARTED, Event.READY): Step(Row.STARTED),
    (Row.STARTED, Event.COMPLETED): Step(Row.COMPLETED, _END),
    (Row.STARTED, Event.RETRIED): _RETRY,
    (Row.STARTED, Event.FINISHED): Step(Row.IDLE, _END),
    (Row.STARTED, Event.GAVE_UP): Step(Row.FAILED, _END),
    (Row.COMPLETED, Event.WANTED): Step(Row.COMPLETED),
    (Row.COMPLETED, Event.UNWANTED): Step(Row.IDLE),
    (Row.COMPLETED, Event.RESTART_ASKED): Step(Row.WAITING, _WAIT_AFRESH),
    # What a oneshot did stays done when what it needed goes away.
    (Row.COMPLETED, Event.HELD): Step(Row.COMPLETED),
    (Row.STOPPING, Event.WANTED): Step(Row.RESTARTING),
    (Row.STOPPING, Event.UNWANTED): Step(Row.STOPPING),
    (Row.STOPPING, Event.RESTART_ASKED): Step(Row.RESTARTING),
    (Row.STOPPING, Event.HELD): Step(Row.STOPPING),
    (Row.STOPPING, Event.READY): Step(Row.STOPPING),
    (Row.STOPPING, Event.OVERDUE): Step(Row.STOPPING, (Effect.KILL,)),
    (Row.STOPPING, Event.ENDED): Step(Row.IDLE, _END),
    (Row.RESTARTING, Event.WANTED): Step(Row.RESTARTING),
    (Row.RESTARTING, Event.UNWANTED): Step(Row.STOPPING),
    (Row.RESTARTING, Event.RESTART_ASKED): Step(Row.RESTARTING),
    (Row.RESTARTING, Event.HELD): Step(Row.RESTARTING),
    (Row.RESTARTING, Event.READY): Step(Row.RESTARTING),
    (Row.RESTARTING, Event.OVERDUE): Step(Row.RESTARTING, (Effect.KILL,)),
    (Row.RESTARTING, Event.ENDED): Step(Row.WAITING, (*_END, Effect.FORGET_STARTS, Effect.AWAIT_PERMISSION)),
    (Row.FALTERING, Event.WANTED): Step(Row.FALTERING),
    (Row.FALTERING, Event.UNWANTED): Step(Row.STOPPING),
    (Row.FALTERING, Event.RESTART_ASKED): Step(Row.RESTARTING),
    (Row.FALTERING, Event.HELD): Step(Row.RESTARTING),
    (Row.FALTERING, Event.READY): Step(Row.FALTERING),
    (Row.FALTERING, Event.OVERDUE): Step(Row.FALTERING, (Effect.KILL,)),
    (Row.FALTERING, Event.RETRIED): _RETRY,
    (Row.FALTERING, Event.FINISHED): Step(Row.IDLE, _END),
    (Row.FALTERING, Event.GAVE_UP): Step(Row.FAILED, _END),
    (Row.FAILED, Event.WANTED): Step(Row.WAITING, _WAIT_AFRESH),
    (Row.FAILED, Event.UNWANTED): Step(Row.IDLE),
    (Row.FAILED, Event.RESTART_ASKED): Step(Row.WAITING, _WAIT_AFRESH),
    (Row.FAILED, Event.HELD): Step(Row.FAILED),
} | {(row, Event.BROKEN): Step(Row.FAILED, (Effect.CANCEL_TIMER, Effect.KILL, Effect.CLEAN_UP)) for row in Row}


def step(row: Row, event: Event) -> Step:
    """Return what *event* makes of a service in *row*. Raises IllegalEventError when that pair has no meaning."""
    try:
        return TABLE[row, event]
    except KeyError:
        raise IllegalEventError(f"cannot go on from {row.label}: {event.value!r} has no meaning there") from None


def judges_end(row: Row) -> bool:
    """Tell whether a process that ends in *row* ended without having been asked, so that its end must be judged."""
    return (row, Event.GAVE_UP) in TABLE


def has_process(row: Row) -> bool:
    """Tell whether a service in *row* has, or may have, a process."""
    return row in {Row.STARTING, Row.STARTED, Row.STOPPING, Row.RESTARTING, Row.FALTERING}
