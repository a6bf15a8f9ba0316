"""Telling a service to end or to read its configuration again: by a command of its own, or by a signal.

What a command writes is in the service's log. One that fails or takes too long is noted, and costs nothing else.
"""

import os
import signal
from collections.abc import Callable

import trio

from milkyway_agent.log.log import Log
from milkyway_agent.log.service_output import log_lines
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_formats.errors import MilkyWayError

RELOAD_SECONDS = 60.0


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


class ServiceCommands:
    """Tells services; *spawn* runs the tasks for it."""

    def __init__(self, log: Log, spawn: Callable[..., None]) -> None:
        self._log = log
        self._spawn = spawn
        self._reloads: dict[ServiceRecord, Reload] = {}  # the last of each

    def terminate(self, record: ServiceRecord) -> None:
        """Ask the service to end: by its stop command if it has one, then by its signal."""
        if record.process is None:
            return
        if record.definition.service.stop.command:
            self._spawn(record, self._stop_by_command, record, record.process)
        else:
            _send(record.process, record.definition.service.stop.signal)

    def reload(self, record: ServiceRecord) -> None:
        """Have the service read its configuration again; ``last_reload`` says what comes of it."""
        reload = self._reloads[record] = Reload()
        if record.process is None:
            reload.end("the service has ended")
        elif record.definition.service.reload.command:
            self._spawn(record, self._reload_by_command, record, record.process, reload)
        else:
            _send(record.process, record.definition.service.reload.signal)
            reload.end()

    def last_reload(self, record: ServiceRecord) -> Reload | None:
        """Return the last reload of a service since it was started."""
        return self._reloads.get(record)

    def forget(self, record: ServiceRecord) -> None:
        """Forget the last reload. Idempotent."""
        self._reloads.pop(record, None)

    async def _stop_by_command(self, record: ServiceRecord, process: MainProcess) -> None:
        if _is_over(record, process):
            return
        stop = record.definition.service.stop
        # Half of the time, so that there is some left for whoever heeds the signal.
        if why := await self._command(record, stop.command, stop.timeout_ms / 2000):
            self._log.note("service_stop_command_failed", service=record.definition.name, why=why)
        if not _is_over(record, process):
            _send(process, stop.signal)

    async def _reload_by_command(self, record: ServiceRecord, process: MainProcess, reload: Reload) -> None:
        why = "the service has ended"
        try:
            if _is_over(record, process):
                return
            why = "it was broken off"
            why = await self._command(record, record.definition.service.reload.command, RELOAD_SECONDS)
            if why:
                self._log.note("service_reload_command_failed", service=record.definition.name, why=why)
        finally:
            reload.end(why)

    async def _command(self, record: ServiceRecord, command: list[str], seconds: float) -> str:
        """Run *command* beside the service; return "", or why it came to nothing."""
        try:
            output = self._open_output(record)
            try:
                code = await record.definition.starter.execute(command, seconds, environment_for_commands(record), output)
            finally:
                os.close(output)
        except (MilkyWayError, OSError) as error:
            return str(error)
        if code is None:
            return f"it took longer than {seconds:g} s"
        return f"it ended with {code}" if code else ""

    def _open_output(self, record: ServiceRecord) -> int:
        """Return the writing end of a pipe whose lines are carried into the service's log until all writers are gone."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        self._spawn(record, self._carry, record, reading)
        return writing

    async def _carry(self, record: ServiceRecord, reading: int) -> None:
        try:
            await log_lines(reading, record.definition.name, self._log)
        except Exception:  # not when it is cancelled: then it is begun anew, with the same pipe
            os.close(reading)
            raise
        os.close(reading)


def environment_for_commands(record: ServiceRecord) -> dict[str, str]:
    """Return the variables for a command that is run beside the service: it has none of its descriptors."""
    return {"MAINPID": str(record.process.child.pid)} if record.process else {}


def _is_over(record: ServiceRecord, process: MainProcess) -> bool:
    """Tell whether *process* has ended: what a task was about to do for it must not be done to the next one."""
    return record.process is not process or process.ended


def _send(process: MainProcess, name: str) -> None:
    process.signal(signal.Signals[f"SIG{name}"])
