"""What carries out effects for the engine, and what it tells: the two sides of one line.

An organ does as it is told and reports what happens; it decides nothing, and changes nothing in a record. The real ones are
``live_organs``; the tests' world has others, which keep the same promises over processes and a clock of its own.
"""

from collections.abc import Callable
from typing import Protocol

from milkyway_agent.core.service_state import Event
from milkyway_agent.launching.child import StartCallback
from milkyway_agent.runtime.alarms import Alarm
from milkyway_agent.supervisor.service_record import MainProcess, Question, ServiceRecord


class Post(Protocol):
    """Lets something happen to a service."""

    def __call__(self, record: ServiceRecord, what: Event | Question, source: object | None = None, why: str = "") -> None:
        """Let *what* happen: at once, or when what is being done to the service is done.

        *source*: the process or alarm that it is about; when that is history by then, so is *what*. *why*: for people.
        """


class Reports(Protocol):
    """Whom organs report to: the engine."""

    @property
    def post(self) -> Post:
        """Let something happen to a service."""

    def say(self, record: ServiceRecord, text: str) -> None:
        """Take what a service says that it is at (STATUS= of sd_notify(3))."""


class Organs(Protocol):
    """All effects of all services. A method that undoes is idempotent.

    *done*, where there is one, is called later, never before the method returns; the record is ``busy`` meanwhile.
    """

    def report_to(self, reports: Reports) -> None:
        """Report to *reports* from now on. Called once, before anything else."""

    # --- starting ------------------------------------------------------------------------------------------------------

    def unmet_condition(self, record: ServiceRecord) -> str:
        """Return which of its conditions does not hold, for people; "" when all do."""

    def open_listeners(self, record: ServiceRecord) -> None:
        """Open its listeners, if they are not. Raises MilkyWayError or OSError when one can't be; then none is."""

    def start(self, record: ServiceRecord, done: StartCallback) -> None:
        """Start its main process; *done* is told it, or why there is none. Raises MilkyWayError or OSError."""

    def last_words(self, record: ServiceRecord) -> str:
        """Take back what a start that came to nothing has opened; return the last line that it wrote."""

    def attend(self, record: ServiceRecord, process: MainProcess) -> None:
        """Watch *process*, which has started: for its end (``Question.END``), its readiness and what it says."""

    def attend_again(self, record: ServiceRecord, process: MainProcess, *, is_ready: bool) -> None:
        """The same for one that a program before this one has started."""

    # --- ending --------------------------------------------------------------------------------------------------------

    def reap(self, record: ServiceRecord, process: MainProcess) -> int:
        """Reap *process*, which has ended, and close what was open for it.

        Returns its exit status, or minus the signal that killed it.
        """

    def terminate(self, record: ServiceRecord) -> None:
        """Ask its main process to end: by its stop command, then its stop signal."""

    def kill(self, record: ServiceRecord) -> None:
        """Send SIGKILL to all of its processes."""

    def clean_up(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Kill what is left of it, reap it, and remove what a start made. True: that is done; else *done* is called."""

    def rest(self, record: ServiceRecord) -> None:
        """No process follows by itself: close what was kept for the next."""

    def forget(self, record: ServiceRecord) -> None:
        """It is stopped, or has failed: close its listeners and all that was kept for it."""

    # --- triggers, health, commands, time ---------------------------------------------------------------------------

    def arm(self, record: ServiceRecord) -> None:
        """Watch its listeners, and set its timers to their next times. Undo: ``disarm``."""

    def disarm(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Watch them no more, and end its connections. True: that is done; else *done* is called."""

    def count_start(self, record: ServiceRecord) -> None:
        """Have its timers count from this start."""

    def count_end(self, record: ServiceRecord) -> None:
        """Have its timers count from this end."""

    def start_health_checks(self, record: ServiceRecord) -> None:
        """Begin to ask its probe and to listen for its watchdog. Undo: ``stop_health_checks``."""

    def stop_health_checks(self, record: ServiceRecord) -> None:
        """Ask and listen no more."""

    def reload(self, record: ServiceRecord) -> None:
        """Have it read its configuration again."""

    def set_alarm(self, milliseconds: int, callback: Callable[[], None]) -> Alarm:
        """Call *callback* in so many *milliseconds*. Undo: ``cancel_alarm``."""

    def cancel_alarm(self, alarm: Alarm | None) -> None:
        """Let *alarm* never ring."""

    def ask_for_reboot(self, name: str) -> None:
        """The service *name* has failed, and asks for a reboot."""
