"""One run of one peer: start it, measure, end it.

Services are at least SETTLE_SECONDS old when they are killed: several peers delay the restart of one that dies young, and
that is another question. Times come from the services themselves (``slots``); the bench only reads them afterwards.
"""

import os
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from bench.supervisor.container import Container, ContainerError
from bench.supervisor.figures import FigureName
from bench.supervisor.peer import Place
from bench.supervisor.processes import Footprint, read_footprint, read_wakeups
from bench.supervisor.silence import Return, longest_silence
from bench.supervisor.slots import Birth, Slots

UP_SECONDS = 180.0
RESTART_SECONDS = 30.0
SETTLE_SECONDS = 2.5
IDLE_SECONDS = 4.0
KILLS = 10
BLIND_KILLS = 40
BLIND_KILLS_AFTER = 10  # after the command has ended: some commands only request the re-execution
BLIND_INTERVAL_SECONDS = 0.01
MILLISECOND = 1_000_000


class MeasurementError(Exception):
    """A peer did not do what should be measured; the message says what."""


class StartTimes(NamedTuple):
    """The time from exec until the first and the last service ran, in ms."""

    first: float
    last: float


class RunningPeer:
    """A started peer, and the measurements of it. ``samples``: the values behind the medians, by figure."""

    def __init__(self, container: Container, slots: Slots, place: Place) -> None:
        self._container, self._slots = container, slots
        self.place = place
        self.samples: dict[FigureName, list[float]] = {}

    def start(self) -> StartTimes:
        """Wait until every service runs. Raises MeasurementError."""
        slots = self._slots
        if not slots.wait(lambda: slots.births >= slots.services, UP_SECONDS, self._container.alive):
            ended = "" if self._container.alive() else "it ended, and "
            raise MeasurementError(f"{ended}only {slots.births} of {slots.services} services ran within {UP_SECONDS:.0f} s")
        births = slots.all_births()
        if not all(birth.births for birth in births):
            raise MeasurementError("a service was started twice before all had been started once")
        times = [(birth.born_ns - slots.executed_ns) / MILLISECOND for birth in births]
        return StartTimes(min(times), max(times))

    def settle(self) -> None:
        """Wait until every service is older than any peer's idea of a young one."""
        time.sleep(SETTLE_SECONDS)

    def memory(self) -> Footprint:
        """Measure the supervisor's own processes."""
        return read_footprint(self._container.own_pids())

    def wakeups(self) -> float:
        """Return how often per second the supervisor's own threads wake while nothing happens."""
        pids = self._container.own_pids()
        before, begin = read_wakeups(pids), time.monotonic()
        time.sleep(IDLE_SECONDS)
        after, end = read_wakeups(pids), time.monotonic()
        return sum(after.get(thread, count) - count for thread, count in before.items()) / (end - begin)

    def restart(self) -> float:
        """Kill KILLS different services, each once the previous one runs again; return the median gap in ms."""
        services = self._slots.services
        victims = sorted({services * number // KILLS for number in range(KILLS)})
        self.samples["restart"] = [self._gap(victim) for victim in victims]
        return statistics.median(self.samples["restart"])

    def restart_many(self, count: int) -> float:
        """Kill *count* services at once; return the time in ms until the last of them runs again."""
        before, pids = self._slots.all_births(), self._container.service_pids()
        victims = range(min(count, self._slots.services))
        begin = time.monotonic_ns()
        for victim in victims:
            os.kill(pids[before[victim].pid], signal.SIGKILL)
        self._await(list(victims), before)
        return (max(self._slots.birth(victim).born_ns for victim in victims) - begin) / MILLISECOND

    def blind(self, command: list[str], normal: float) -> float:
        """Run *command*, which makes the supervisor re-execute itself, and kill a service every 10 ms meanwhile.

        Returns the longest silence less *normal*, in ms: for that long the supervisor restarted nothing. Raises
        MeasurementError when the command fails, since then nothing was re-executed.
        """
        name = Path(command[0]).name
        before, pids = self._slots.all_births(), self._container.service_pids()
        killed_ns: list[int] = []
        process = self._container.run(command)
        try:
            enough = BLIND_KILLS
            for victim in range(self._slots.services):
                if process.poll() is None:
                    enough = max(enough, victim + BLIND_KILLS_AFTER)
                if victim >= enough:
                    break
                killed_ns.append(time.monotonic_ns())
                os.kill(pids[before[victim].pid], signal.SIGKILL)
                time.sleep(BLIND_INTERVAL_SECONDS)
            self._await(list(range(len(killed_ns))), before)
            code = process.wait(RESTART_SECONDS)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"{name} did not end within {RESTART_SECONDS:.0f} s") from None
        finally:
            process.kill()
            process.wait()
        if code:
            raise MeasurementError(f"{name} ended with {code}")
        returns = [
            Return(killed / MILLISECOND, self._slots.birth(victim).born_ns / MILLISECOND)
            for victim, killed in enumerate(killed_ns)
        ]
        self.samples["blind"] = [returned.born - returned.killed for returned in returns]
        return max(0.0, longest_silence(returns) - normal)

    def _gap(self, victim: int) -> float:
        before = self._slots.all_births()
        pid = self._container.service_pids()[before[victim].pid]
        killed = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        self._await([victim], before)
        return (self._slots.birth(victim).born_ns - killed) / MILLISECOND

    def _await(self, victims: list[int], before: list[Birth]) -> None:
        if not self._slots.wait(self._slots.born_again(victims, before), RESTART_SECONDS, self._container.alive):
            raise MeasurementError(f"not each of {len(victims)} killed services ran again within {RESTART_SECONDS:.0f} s")


def last_words(log: Path) -> str:
    """Return the last line of a peer's log, to be shown with a failure."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:200] if lines else ""


FAILURES = (MeasurementError, ContainerError, ProcessLookupError, KeyError)
