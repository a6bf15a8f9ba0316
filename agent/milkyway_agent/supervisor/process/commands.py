"""Telling a service to end or to read its configuration again: by a command from its definition, or by a signal.

What a command writes goes to the service's log. If it fails or takes too long, that is logged and has no other effect.
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
    """A reload that was asked for. ``why``: once it is ``over``, why it failed; "": it did not."""

    __slots__ = ("over", "why")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.why = ""

    def end(self, why: str = "") -> None:
        """Note that it is over."""
        self.why = why
        self.over.set()


class ServiceCommands:
    """Sends these commands and signals; *spawn* runs a task for a service."""

    def __init__(self, log: Log, spawn: Callable[..., None]) -> None:
        self._log = log
        self._spawn = spawn
        self._reloads: dict[ServiceRecord, Reload] = {}  # the last of each service

    def terminate(self, record: ServiceRecord) -> None:
        """Ask the service to end: by its stop command if it has one, then by its signal."""
        if record.process is None:
            return
        if record.definition.service.stop.command:
            self._spawn(record, self._stop_by_command, record, record.process)
        else:
            _send(record.process, record.definition.service.stop.signal)

    def reload(self, record: ServiceRecord) -> None:
        """Make the service read its configuration again; ``last_reload`` has the outcome."""
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
        # Half of the stop timeout, so that some is left for a service that needs the signal.
        if why := await self._command(record, stop.command, stop.timeout_ms / 2000):
            self._log.note("service_stop_command_failed", service=record.definition.name, why=why)
        if not _is_over(record, process):
            _send(process, stop.signal)

    async def _reload_by_command(self, record: ServiceRecord, process: MainProcess, reload: Reload) -> None:
        why = "the service has ended"
        try:
            if _is_over(record, process):
                return
            why = "it was interrupted"
            why = await self._command(record, record.definition.service.reload.command, RELOAD_SECONDS)
            if why:
                self._log.note("service_reload_command_failed", service=record.definition.name, why=why)
        finally:
            reload.end(why)

    async def _command(self, record: ServiceRecord, command: list[str], seconds: float) -> str:
        """Run *command* beside the service; return "", or why it failed."""
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
        """Return the write end of a pipe whose lines go to the service's log until all writers are gone."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        self._spawn(record, self._log_output, record, reading)
        return writing

    async def _log_output(self, record: ServiceRecord, reading: int) -> None:
        try:
            await log_lines(reading, record.definition.name, self._log)
        except Exception:  # not if it is cancelled: then it begins anew, with the same pipe
            os.close(reading)
            raise
        os.close(reading)


def environment_for_commands(record: ServiceRecord) -> dict[str, str]:
    """Return the variables for a command that is run beside the service, without its descriptors."""
    return {"MAINPID": str(record.pid)} if record.pid else {}


def _is_over(record: ServiceRecord, process: MainProcess) -> bool:
    """Tell whether *process* has ended: a task for it must not act on the next process."""
    return record.process is not process or process.ended


def _send(process: MainProcess, name: str) -> None:
    process.signal(signal.Signals[f"SIG{name}"])
