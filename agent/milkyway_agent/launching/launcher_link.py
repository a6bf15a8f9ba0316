"""Requests to the launcher of one supervisor, and its answers."""

import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count

from milkyway_agent.early.launcher import Launcher, Launchers, NotStarted, Started
from milkyway_agent.launching.child import Child, StartCallback
from milkyway_agent.runtime.alarms import Alarm, Alarms
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.system import processes
from milkyway_formats.errors import UnavailableError

PATIENCE_SECONDS = 30.0  # a program on a slow disk is read in less


class LauncherLink:
    """Passes requests to a launcher, and each of its answers to the callback of its request."""

    def __init__(
        self, launcher: Launcher | Launchers, watch: Watch, alarms: Alarms, reaper: Reaper, patience: float = PATIENCE_SECONDS
    ) -> None:
        """*patience*: seconds for one start in the launcher; a launcher that hangs is ended after at most twice that."""
        self._launcher = launcher
        self._seconds = patience
        self._alarms = alarms
        self._patience: Alarm | None = None  # set while requests are pending
        self.reaper = reaper
        self._numbers = count(1_000_000)  # lower numbers were used before, for the first starts
        self._asked: dict[int, StartCallback] = {}
        watch.add(launcher.fileno(), self._answer)
        reaper.hold_while(lambda: launcher.pending > 0)

    def submit(self, arguments: list[str] | bytes, descriptors: Mapping[int, int], done: StartCallback) -> None:
        """Request a start; its outcome is passed to *done*, which must not raise. Raises OSError."""
        number = next(self._numbers)
        self._launcher.submit(number, arguments, descriptors)
        self._asked[number] = done
        if self._patience is None:
            self._be_patient()

    def _be_patient(self) -> None:
        self._patience = self._alarms.set(self._seconds, partial(self._lose_patience, self._launcher.at_hand))

    def _lose_patience(self, at_hand: tuple[int, ...]) -> None:
        """End launchers that are still busy with one of *at_hand*: a start that hangs must not hold up all others for ever."""
        self._take(self._launcher.give_up(at_hand))
        if self._launcher.pending:
            self._be_patient()

    def _answer(self, _events: int) -> None:
        self._take(self._launcher.results())

    def _take(self, results: Sequence[Started | NotStarted]) -> None:
        for result in results:
            done = self._asked.pop(result.number, None)
            if isinstance(result, Started):
                child = Child(result.pid, result.pidfd)
                if done is None:  # its request was made by a program before this one
                    processes.pidfd_send_signal(child.pidfd, signal.SIGKILL)
                    os.close(child.pidfd)
                else:
                    self.reaper.claim(result.pid)
                    done(child)
            elif done is not None:
                done(UnavailableError(result.why))
        if not self._launcher.pending:
            self._alarms.cancel(self._patience)
            self._patience = None
            self.reaper.look_again()
