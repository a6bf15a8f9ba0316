"""Clearing away what a service's start made: at once where nothing of it is left, else for as long as it may take."""

import os
import signal
from collections.abc import Callable

import trio

from milkyway_agent.launching.child import let_go
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.process.io import ServiceRuns
from milkyway_agent.supervisor.service_record import Attended, is_direct

BURY_SECONDS = 10.0


def clear(one: Attended) -> bool:
    """Clear away what can be at once; tell whether that was all."""
    starter = one.definition.starter
    if not is_direct(starter):
        return False
    try:
        return starter.clear()
    except OSError:
        return False  # whoever waits longer will say why


class Burial:
    """Buries services' processes with all that they leave."""

    def __init__(self, watch: Watch, runs: ServiceRuns, reaper: Reaper, note: Callable[..., None]) -> None:
        self._watch = watch
        self._runs = runs
        self._reaper = reaper
        self._note = note

    async def bury(self, one: Attended) -> None:
        """Kill and clear away whatever is left of a service. Never takes longer than its deadline, and never fails."""
        name = one.definition.name
        with trio.move_on_after(BURY_SECONDS, shield=True) as scope:
            for step in (self._bury_run, _clean_up):
                try:
                    await step(one)
                except Exception as error:  # noqa: BLE001 (INTERNAL_ERROR would only clean up again)
                    self._note("cleaning_up_failed", service=name, error=str(error))
        if scope.cancelled_caught:
            self._note("cleaning_up_failed", service=name, error=f"not done within {BURY_SECONDS:g} s")
        if one.run is not None:  # it does not die; when it does, it is an orphan like any other
            self._reaper.release(one.run.running.pid)
            os.close(one.run.running.pidfd)
            self._runs.close(one, one.run)
            one.run = None

    async def _bury_run(self, one: Attended) -> None:
        run, starter = one.run, one.definition.starter
        if run is None:
            return
        self._watch.remove(run.running.pidfd)
        starter.kill()
        run.signal(signal.SIGKILL)
        await trio.lowlevel.wait_readable(run.running.pidfd)
        if is_direct(starter):
            starter.ended()
        let_go(run.running, self._reaper)
        self._runs.close(one, run)
        one.run = None


async def _clean_up(one: Attended) -> None:
    await one.definition.starter.clean_up()
