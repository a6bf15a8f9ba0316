"""What a started service is told: to end, or to read its configuration again; by a signal, or by a command of its own.

A command runs beside the service and as it does; what it writes is in the service's log. One that fails or takes too long
is noted, and costs nothing else.
"""

import os
import signal
from collections.abc import Callable

from milkyway_agent.launching.child import runs_commands
from milkyway_agent.log.log import Log
from milkyway_agent.log.service_output import carry_lines
from milkyway_agent.supervisor.service_record import Attended, Reload, Run, environment_for_commands
from milkyway_formats.errors import MilkyWayError

RELOAD_SECONDS = 60.0


class ServiceCommands:
    """Tells services; *spawn* runs the tasks for it."""

    def __init__(self, log: Log, spawn: Callable[..., None]) -> None:
        self._log = log
        self._spawn = spawn

    def terminate(self, one: Attended) -> None:
        """Ask the service to end: by its stop command if it has one, then by its signal."""
        if one.run is None:
            return
        if one.definition.service.stop.command:
            self._spawn(self._stop_by_command, one, one.run)
        else:
            _send(one.run, one.definition.service.stop.signal)

    def reload(self, one: Attended) -> None:
        """Have the service read its configuration again; ``one.reload`` says what comes of it."""
        one.reload = Reload()
        if one.run is None:
            one.reload.end("the service has ended")
        elif one.definition.service.reload.command:
            self._spawn(self._reload_by_command, one, one.run, one.reload)
        else:
            _send(one.run, one.definition.service.reload.signal)
            one.reload.end()

    async def _stop_by_command(self, one: Attended, run: Run) -> None:
        if _is_over(one, run):
            return
        stop = one.definition.service.stop
        # Half of the time, so that there is some left for whoever heeds the signal.
        if why := await self._command(one, stop.command, stop.timeout_ms / 2000):
            self._log.note("service_stop_command_failed", service=one.definition.name, why=why)
        if not _is_over(one, run):
            _send(run, stop.signal)

    async def _reload_by_command(self, one: Attended, run: Run, reload: Reload) -> None:
        why = "the service has ended"
        try:
            if _is_over(one, run):
                return
            why = "it was broken off"
            why = await self._command(one, one.definition.service.reload.command, RELOAD_SECONDS)
            if why:
                self._log.note("service_reload_command_failed", service=one.definition.name, why=why)
        finally:
            reload.end(why)

    async def _command(self, one: Attended, command: list[str], seconds: float) -> str:
        """Run *command* beside the service; return "", or why it came to nothing."""
        starter = one.definition.starter
        assert runs_commands(starter), "Supervisor.add saw to it"
        try:
            output = self._open_output(one)
            try:
                code = await starter.execute(command, seconds, environment_for_commands(one), output)
            finally:
                os.close(output)
        except (MilkyWayError, OSError) as error:
            return str(error)
        if code is None:
            return f"it took longer than {seconds:g} s"
        return f"it ended with {code}" if code else ""

    def _open_output(self, one: Attended) -> int:
        """Return the writing end of a pipe whose lines are carried into the service's log until all writers are gone."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        self._spawn(self._carry, one, reading)
        return writing

    async def _carry(self, one: Attended, reading: int) -> None:
        try:
            await carry_lines(reading, one.definition.name, self._log)
        except Exception:  # not when it is cancelled: then it is begun anew, with the same pipe
            os.close(reading)
            raise
        os.close(reading)


def _is_over(one: Attended, run: Run) -> bool:
    """Tell whether *run* has ended: what a task was about to do for it must not be done to the next one."""
    return one.run is not run or run.ended


def _send(run: Run, name: str) -> None:
    run.signal(signal.Signals[f"SIG{name}"])
