"""The real organs: processes, pipes, listeners, timers, health checks and commands, put together."""

import os
import signal
from collections.abc import Callable
from functools import partial

from milkyway_agent.launching.child import StartCallback
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.alarms import Alarm, Alarms
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.activation.conditions import unmet
from milkyway_agent.supervisor.activation.connections import Connections
from milkyway_agent.supervisor.activation.triggers import Triggers
from milkyway_agent.supervisor.definition import accepts
from milkyway_agent.supervisor.organs import Reports
from milkyway_agent.supervisor.process.cleanup import Cleanup, clear
from milkyway_agent.supervisor.process.commands import ServiceCommands
from milkyway_agent.supervisor.process.health import HealthChecks
from milkyway_agent.supervisor.process.io import StartIO
from milkyway_agent.supervisor.process.notify import NotifySockets
from milkyway_agent.supervisor.process.output_pipes import OutputPipes
from milkyway_agent.supervisor.process.pressure import PressureWarnings
from milkyway_agent.supervisor.process.readiness import Readiness
from milkyway_agent.supervisor.service_record import MainProcess, Question, ServiceRecord


class LiveOrgans:
    """Implements ``organs.Organs``. *spawn* runs tasks for services (``ServiceTasks.spawn``)."""

    def __init__(
        self,
        log: Log,
        reaper: Reaper,
        watch: Watch,
        alarms: Alarms,
        spawn: Callable[..., None],
        *,
        notify_directory: str,
        clock_ms: Callable[[], int],
        chance: Callable[[], float],
        on_reboot: Callable[[str], None],
    ) -> None:
        self._log = log
        self._reaper = reaper
        self._watch = watch
        self._alarms = alarms
        self._spawn = spawn
        self._on_reboot = on_reboot
        self._reports: Reports | None = None
        self.output = OutputPipes(watch, alarms, log)
        self.health = HealthChecks(alarms, spawn, log.note, PressureWarnings(watch, log.note))
        self.notify = NotifySockets(watch, log.note, notify_directory, self.health.feed)
        self._readiness = Readiness(watch, alarms, self.health.await_ready)
        self.io = StartIO(self.output, self.notify, self._readiness, spawn)
        self.commands = ServiceCommands(log, spawn)
        self.triggers = Triggers(watch, alarms, log.note, spawn, clock_ms=clock_ms, chance=chance)
        self.connections = Connections(watch, reaper, log.note, self.output.open, self.triggers.sockets.on_room)
        self.triggers.sockets.servers = self.connections
        self._cleanup = Cleanup(watch, self.io, reaper, log.note)

    def report_to(self, reports: Reports) -> None:
        """Report to *reports*; see ``Organs`` for this and all that follows."""
        self._reports = reports
        for organ in (self.health, self.notify, self._readiness, self.triggers):
            organ.reports = reports

    # --- starting ------------------------------------------------------------------------------------------------------

    def unmet_condition(self, record: ServiceRecord) -> str:
        """Check its conditions."""
        return unmet(record.definition.service.conditions)

    def open_listeners(self, record: ServiceRecord) -> None:
        """Open its listeners."""
        self.triggers.sockets.open(record)

    def start(self, record: ServiceRecord, done: StartCallback) -> None:
        """Start it through its starter."""
        self.io.start(record, self.triggers.sockets.handed_over(record), done)

    def last_words(self, record: ServiceRecord) -> str:
        """Read what it wrote, and close what was open for it."""
        line = self.output.drain(record)
        self.io.give_up(record)
        return line

    def attend(self, record: ServiceRecord, process: MainProcess) -> None:
        """Watch a process that has started."""
        self._watch.add(process.child.pidfd, partial(self._ended, record, process))
        self.io.attend(record, process)

    def attend_again(self, record: ServiceRecord, process: MainProcess, *, is_ready: bool) -> None:
        """Watch a process that an earlier program has started."""
        self._reaper.claim(process.child.pid)
        record.definition.starter.adopt(process.child)
        self._watch.add(process.child.pidfd, partial(self._ended, record, process))
        self.io.attend_again(record, process, is_ready=is_ready)

    # --- ending --------------------------------------------------------------------------------------------------------

    def _ended(self, record: ServiceRecord, process: MainProcess, _events: int) -> None:
        """Read the last messages of *process*, and report its end. Called once, by ``watch``."""
        self._watch.remove(process.child.pidfd)
        try:
            self.io.drain(record, process)
        except OSError as error:  # the end must be reported nevertheless
            self._log.note("last_words_missed", service=record.definition.name, error=str(error))
        process.ended = True
        assert self._reports is not None, "report_to is called first"
        self._reports.post(record, Question.END, process)

    def reap(self, record: ServiceRecord, process: MainProcess) -> int:
        """Reap it and close what was open for it."""
        return self._cleanup.reap(record, process)

    def terminate(self, record: ServiceRecord) -> None:
        """Ask it to end."""
        self.commands.terminate(record)

    def kill(self, record: ServiceRecord) -> None:
        """Kill all of its processes."""
        record.definition.starter.kill()
        if record.process is not None:
            record.process.signal(signal.SIGKILL)

    def clean_up(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Remove what its start made: at once if no process is left, else in a task."""
        if record.process is None and clear(record):
            return True
        self.output.give_up(record)  # what is left of it may write as long as it lives
        self._spawn(record, self._cleanup.clean_up, record, record.process, done)
        return False

    def rest(self, record: ServiceRecord) -> None:
        """Keep no pipe for its next process."""
        self.output.give_up(record)

    def forget(self, record: ServiceRecord) -> None:
        """Close its listeners, what a start left open, and what it has stored."""
        self.triggers.sockets.close(record)
        self.io.give_up(record)
        self.notify.forget_stored(record)
        self.commands.forget(record)

    def remove(self, record: ServiceRecord) -> None:
        """Forget a service that is removed."""
        self.triggers.remove(record)
        self.forget(record)

    def detach(self, record: ServiceRecord) -> None:
        """Close every descriptor of a service; its processes go on without us."""
        self.io.give_up(record)
        self.notify.forget_stored(record)
        self.output.close(record)
        if record.process is not None:
            self.io.close(record, record.process)
            self._watch.remove(record.process.child.pidfd)
            os.close(record.process.child.pidfd)
        self.connections.detach(record)
        self.triggers.sockets.close(record)

    def close(self) -> None:
        """Close what belongs to no service in particular. Idempotent."""
        self.triggers.timers.close_clock()
        self.health.close()

    # --- triggers, health, commands, time ------------------------------------------------------------------------------

    def arm(self, record: ServiceRecord) -> None:
        """Watch its listeners and set its timers."""
        self.triggers.arm(record)

    def disarm(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Stop watching them; a task ends its connections."""
        self.triggers.disarm(record)
        if not accepts(record.definition.service) or not (self.connections.serving(record) or not clear(record)):
            return True
        self._spawn(record, self._end_connections, record, done)
        return False

    async def _end_connections(self, record: ServiceRecord, done: Callable[[], None]) -> None:
        try:
            await self.connections.end(record)
        except Exception as error:  # noqa: BLE001 (*done* must be called; CLEAN_UP deals with what is left)
            self._log.note("cleaning_up_failed", service=record.definition.name, error=repr(error))
        done()

    def count_start(self, record: ServiceRecord) -> None:
        """Make its timers count from this start."""
        self.triggers.timers.started(record)

    def count_end(self, record: ServiceRecord) -> None:
        """Make its timers count from this end."""
        self.triggers.timers.ended(record)

    def start_health_checks(self, record: ServiceRecord) -> None:
        """Start them."""
        self.health.start(record)

    def stop_health_checks(self, record: ServiceRecord) -> None:
        """Stop them."""
        self.health.stop(record)

    def reload(self, record: ServiceRecord) -> None:
        """Make it reload."""
        self.commands.reload(record)

    def set_alarm(self, milliseconds: int, callback: Callable[[], None]) -> Alarm:
        """Set an alarm."""
        return self._alarms.set(milliseconds / 1000, callback)

    def cancel_alarm(self, alarm: Alarm | None) -> None:
        """Cancel it."""
        self._alarms.cancel(alarm)

    def ask_for_reboot(self, name: str) -> None:
        """Pass it on."""
        self._on_reboot(name)
