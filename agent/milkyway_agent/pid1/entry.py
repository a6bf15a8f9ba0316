"""Where PID 1 begins: the log, locked memory, and agents, one after the other, until the machine's end. Never returns.

An error that reaches the outermost loop begins another agent, which goes on with the services of the one before.
"""

import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import trio

from milkyway_agent.log.log import LineSink, Log
from milkyway_agent.pid1 import snapshot
from milkyway_agent.pid1.agent import Agent
from milkyway_agent.pid1.early_boot import ORDERS, Early
from milkyway_agent.pid1.snapshot import KeptAgent
from milkyway_agent.pid1.state import ServerState
from milkyway_agent.system import console, kernel, memory, power, signals
from milkyway_formats.errors import MilkyWayError


class SameClock(trio.abc.Clock):
    """One clock for all runs of the loop: trio's own starts again with each run, and timers outlive an agent that fails."""

    def start_clock(self) -> None:
        """Do nothing: it runs already."""

    def current_time(self) -> float:
        """Return seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long it is until *deadline*."""
        return deadline - time.monotonic()


def run(
    born_ms: int, make: Callable[[ServerState], Agent] = Agent, *, adopted: int = -1, early: Early | None = None
) -> NoReturn:
    """Be PID 1. *born_ms*: milliseconds of CLOCK_BOOTTIME at its first line. *make*: which agent (for tests).

    *adopted*: the state that the program before this one has left, as a descriptor (``pid1.snapshot``). *early*: what was done
    before this module was imported.

    Whatever fails, the next agent goes on with the services of the one before: they are not touched.
    """
    signals.block(ORDERS)  # a signal that comes before it can be handled waits
    log = Log(kernel.realtime_ms)
    _open_console(log)
    _stay_in_memory(log)
    state: ServerState | None = None
    kept = _adopt(adopted, log) if adopted >= 0 else None
    while state is None or state.ended is None:
        try:
            if state is None:
                state = ServerState(log, born_ms)
            state.begin_life()
            if kept is not None:
                state.take_over(kept)
                kept = None
            if early is not None:
                state.take_early(early)
                early = None
            trio.run(make(state).live, clock=SameClock())
        except BaseException as error:  # noqa: BLE001 (an end of PID 1 is a panic; begin again, services go on)
            log.note("agent_failed", error=repr(error), traceback=traceback.format_exc())
            time.sleep(1)
        # Whatever failed during the shutdown, a machine that was shut down doesn't begin again.
    while True:
        for end in (power.restart, power.power_off) if state.ended == "reboot" else (power.power_off, power.restart):
            try:
                end()
            except OSError as error:  # the other end is better than a machine that is shut down and stays on
                log.note("end_failed", ending=state.ended, error=str(error))
                time.sleep(1)


def _adopt(descriptor: int, log: Log) -> KeptAgent | None:
    try:
        return snapshot.adopt(descriptor)
    except (
        MilkyWayError,
        OSError,
    ) as error:  # begin as after a boot: a service's remains are cleared away before it starts
        log.note("state_not_adopted", why=str(error))
        snapshot.close_inherited()
        return None


def _open_console(log: Log) -> None:
    try:
        descriptor = console.open_console()
    except OSError as error:  # what is noted is still found with mwctl and on the disk
        log.note("console_failed", error=str(error))
        return
    log.add_sink(LineSink(lambda line: console.write_line(descriptor, f"milkyway: {line}")))


def _stay_in_memory(log: Log) -> None:
    """Lock what is mapped now and what is touched later: a damaged block of its own code must not kill PID 1."""
    try:
        memory.mlockall(memory.MCL_CURRENT)
        # On fault: a thread's stack is 8 MiB of which it uses a few KiB.
        memory.mlockall(memory.MCL_CURRENT | memory.MCL_FUTURE | memory.MCL_ONFAULT)
    except OSError as error:
        log.note("memory_not_locked", why=str(error))
