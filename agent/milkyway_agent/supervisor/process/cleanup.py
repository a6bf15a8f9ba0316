"""Removing what the start of a service made: at once if no process is left, else in a task with a deadline."""

import os
import signal
from collections.abc import Callable

import trio

from milkyway_agent.launching.child import reap
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.process.io import StartIO
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord

END_SECONDS = 10.0


def clear(record: ServiceRecord) -> bool:
    """Remove what can be removed at once; tell whether that is all."""
    try:
        return record.definition.starter.clear()
    except OSError:
        return False  # ``Cleanup.clean_up`` will log why


class Cleanup:
    """Ends the processes of services, and removes what they leave behind."""

    def __init__(self, watch: Watch, io: StartIO, reaper: Reaper, note: Callable[..., None]) -> None:
        self._watch = watch
        self._io = io
        self._reaper = reaper
        self._note = note

    def reap(self, record: ServiceRecord, process: MainProcess) -> int:
        """Reap *process*, which has ended, and close what was open for it; see ``Organs.reap``."""
        process.ended = True  # before its pidfd is closed: nobody must signal what has that number next
        record.definition.starter.ended()
        code = reap(process.child, self._reaper)
        self._io.close(record, process)
        return code

    async def clean_up(self, record: ServiceRecord, process: MainProcess | None, done: Callable[[], None]) -> None:
        """Kill and remove whatever is left of a service, then call *done*. Takes END_SECONDS at most.

        Failures are logged and not raised, because INTERNAL_ERROR would only clean up again.
        """
        name = record.definition.name
        alive = process
        with trio.move_on_after(END_SECONDS, shield=True) as scope:
            try:
                if alive is not None:
                    await self._end(record, alive)
                    ended, alive = alive, None  # whatever fails from here on, its pidfd is closed
                    self.reap(record, ended)
            except Exception as error:  # noqa: BLE001 (see above)
                self._note("cleaning_up_failed", service=name, error=str(error))
            try:
                await record.definition.starter.clean_up()
            except Exception as error:  # noqa: BLE001 (see above)
                self._note("cleaning_up_failed", service=name, error=str(error))
        if scope.cancelled_caught:
            self._note("cleaning_up_failed", service=name, error=f"not done within {END_SECONDS:g} s")
        if alive is not None:  # it does not die, and is left to the reaper like any orphan
            self._leave(record, alive)
        done()

    def _leave(self, record: ServiceRecord, process: MainProcess) -> None:
        """Close what is open for a process that does not end. Never raises: its service waits for that."""
        process.ended = True
        self._reaper.release(process.child.pid)
        try:
            os.close(process.child.pidfd)
            self._io.close(record, process)
        except OSError as error:  # there is nothing more to try
            self._note("cleaning_up_failed", service=record.definition.name, error=str(error))

    async def _end(self, record: ServiceRecord, process: MainProcess) -> None:
        self._watch.remove(process.child.pidfd)
        record.definition.starter.kill()
        process.signal(signal.SIGKILL)
        await trio.lowlevel.wait_readable(process.child.pidfd)
