"""Services whose processes live already when the supervisor begins: started early, or kept over a re-execution."""

from functools import partial

import trio

from milkyway_agent.core import restart
from milkyway_agent.core.service_state import TIMERS, Effect, Event, Row
from milkyway_agent.launching.child import Running
from milkyway_agent.log.service_output import Stream
from milkyway_agent.supervisor.engine import Lives
from milkyway_agent.supervisor.service_record import Attended, Run, is_direct
from milkyway_agent.supervisor.snapshot import KeptService, restore


def adopt(lives: Lives, one: Attended, running: Running, output: int, writing: int) -> None:
    """Take a process that was started for an idle service before it was; *output*: its pipe's reading end.

    *writing*: the other end, kept for its next run; -1 where it is not.
    """
    lives.enter(one, Row.WAITING, Event.WANTED)
    lives.enter(one, Row.STARTING, Event.PERMITTED)
    one.starts = restart.started(one.starts, _now_ms(), one.definition.service.restart)
    lives.carry_out(one, Effect.START_READY_TIMER)
    lives.runs.read_output(one, Stream(output, one.definition.name, lives.log))
    one.output = writing
    _tell_starter(one, running)
    lives.hold(one, Run(running))


def go_on(lives: Lives, one: Attended, kept: KeptService) -> None:
    """Go on with a service from where the program before this one left it."""
    restore(one, kept, _now_ms())
    lives.triggers.restore(one, kept.pasts)
    for stream in kept.streams:
        lives.runs.read_output(one, Stream(stream.descriptor, kept.name, lives.log, rest=stream.rest))
    if one.store is not None:
        lives.runs.watch_stored(one)
    if one.run is not None:
        run = one.run
        lives.reaper.claim(run.running.pid)
        _tell_starter(one, run.running)
        lives.watch.add(run.running.pidfd, partial(lives.process_ended, one, run))
        lives.runs.watch_again(one, run, is_ready=one.row is not Row.STARTING)
    for connection in kept.connections:
        lives.connections.adopt(one, connection.listener, Running(connection.pid, connection.pidfd))
    if kept.alarm_ms is not None and one.row in TIMERS:
        lives.start_alarm(one, kept.alarm_ms, TIMERS[one.row])
    if one.row is Row.ARMED:
        lives.triggers.arm(one)
    elif one.row is Row.STARTED:
        lives.health.start(one)
    elif one.awaits_permission:
        lives.awaiting[kept.name] = one


def _tell_starter(one: Attended, running: Running) -> None:
    if is_direct(one.definition.starter):
        one.definition.starter.adopt(running)


def _now_ms() -> int:
    return int(trio.current_time() * 1000)
