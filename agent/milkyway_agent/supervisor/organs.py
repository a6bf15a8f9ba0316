"""The interface between the engine and its organs, which carry out effects and report what happens.

An organ does what it is told; it decides nothing, and does not change records. The real ones are ``live_organs``; the tests'
world has others, which keep the same promises with simulated processes and time.
"""

from collections.abc import Callable
from typing import Protocol

from milkyway_agent.core.service_state import Event
from milkyway_agent.launching.child import StartCallback
from milkyway_agent.runtime.alarms import Alarm
from milkyway_agent.supervisor.service_record import MainProcess, Question, ServiceRecord


class Post(Protocol):
    """Tells the engine that something happens to a service."""

    def __call__(self, record: ServiceRecord, what: Event | Question, source: object | None = None, why: str = "") -> None:
        """Let *what* happen: at once, or when the effect that is being carried out is done.

        *source*: the process or alarm that it is about; *what* is dropped if that is not the current one then. *why*: for
        people.
        """


class Reports(Protocol):
    """What organs report to: the engine."""

    @property
    def post(self) -> Post:
        """Tell that something happens to a service."""

    def report_status(self, record: ServiceRecord, text: str) -> None:
        """Pass on the status that a service reports (STATUS= of sd_notify(3))."""


class Organs(Protocol):
    """All effects of all services. Methods that undo something are idempotent.

    *done* is called later, never before the method returns; the record is ``busy`` until then.
    """

    def report_to(self, reports: Reports) -> None:
        """Report to *reports* from now on. Called once, first."""

    # --- starting ------------------------------------------------------------------------------------------------------

    def unmet_condition(self, record: ServiceRecord) -> str:
        """Return which of the service's conditions does not hold, for people; "" if all do."""

    def open_listeners(self, record: ServiceRecord) -> None:
        """Open its listeners, unless they are open. Raises MilkyWayError or OSError; then none is open."""

    def start(self, record: ServiceRecord, done: StartCallback) -> None:
        """Start its main process; *done* is called with it, or with why there is none. Raises MilkyWayError or OSError."""

    def last_words(self, record: ServiceRecord) -> str:
        """Close what a start that failed has opened; return the last line that it wrote."""

    def attend(self, record: ServiceRecord, process: MainProcess) -> None:
        """Watch *process*, which has started: for its end (``Question.END``), its readiness and its messages."""

    def attend_again(self, record: ServiceRecord, process: MainProcess, *, is_ready: bool) -> None:
        """Watch a process that an earlier program has started."""

    # --- ending --------------------------------------------------------------------------------------------------------

    def reap(self, record: ServiceRecord, process: MainProcess) -> int:
        """Reap *process*, which has ended, and close what was open for it.

        Returns its exit status, or minus the signal that killed it.
        """

    def terminate(self, record: ServiceRecord) -> None:
        """Ask its main process to end: by its stop command, then by its stop signal."""

    def kill(self, record: ServiceRecord) -> None:
        """Send SIGKILL to all of its processes."""

    def clean_up(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Kill and reap what is left of it, and remove what a start made. Returns True when done; else *done* is called."""

    def rest(self, record: ServiceRecord) -> None:
        """Close what was kept for its next process: it gets none without a further event."""

    def forget(self, record: ServiceRecord) -> None:
        """Close its listeners and all that was kept for it: it is stopped, or has failed."""

    # --- triggers, health, commands, time ---------------------------------------------------------------------------

    def arm(self, record: ServiceRecord) -> None:
        """Watch its listeners, and set its timers to their next times. Undo: ``disarm``."""

    def disarm(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Stop watching them, and end its connections. Returns True when done; else *done* is called."""

    def count_start(self, record: ServiceRecord) -> None:
        """Make its timers count from this start."""

    def count_end(self, record: ServiceRecord) -> None:
        """Make its timers count from this end."""

    def start_health_checks(self, record: ServiceRecord) -> None:
        """Begin to run its probe, and start its watchdog timer. Undo: ``stop_health_checks``."""

    def stop_health_checks(self, record: ServiceRecord) -> None:
        """Stop its probe and its watchdog timer."""

    def reload(self, record: ServiceRecord) -> None:
        """Make it read its configuration again."""

    def set_alarm(self, milliseconds: int, callback: Callable[[], None]) -> Alarm:
        """Call *callback* in *milliseconds*. Undo: ``cancel_alarm``."""

    def cancel_alarm(self, alarm: Alarm | None) -> None:
        """Keep *alarm* from ringing."""

    def ask_for_reboot(self, name: str) -> None:
        """Ask for a reboot: the service *name* has failed, and its definition asks for that."""
