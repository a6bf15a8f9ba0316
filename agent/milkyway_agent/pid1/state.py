"""What outlives an agent that fails: one object, with which the next agent goes on.

An agent (``pid1.agent``) is one run of trio's loop with its tasks. Services, descriptors and what the boot did to the machine
are not tied to an agent. The API's machine, re-execution and the shutdown find all of it here.
"""

import socket
from typing import Literal

import trio

from milkyway_agent.core.boot import BOOT
from milkyway_agent.deployments.convergence import Convergence
from milkyway_agent.deployments.snapshot import KeptDeployments
from milkyway_agent.log.files import FileSink
from milkyway_agent.log.log import Log
from milkyway_agent.pid1 import boot_steps
from milkyway_agent.pid1.agent_programs import Programs
from milkyway_agent.pid1.boot_run import BootRecord
from milkyway_agent.pid1.early_boot import Early
from milkyway_agent.pid1.snapshot import KeptAgent
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.activation.timer_stamps import TimerStamps
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import kernel
from milkyway_agent.system.state_file import PathDirectory
from milkyway_formats.report import ServiceStatus

Ending = Literal["reboot", "poweroff"]
DATA_AGENT = boot_steps.DATA / "agent"
# What these did to the machine holds for the next agent too; the others start tasks, which end with the agent.
LASTING = ("command-line", "selinux", "kernel", "cgroups", "loopback", "network", "secure-config", "data", "console")


class ServerState:
    """A server as PID 1 knows it, from one boot to one shutdown, over all of its agents."""

    def __init__(self, log: Log, born_ms: int) -> None:
        """*born_ms*: when PID 1 began, in milliseconds since the kernel's start."""
        self.log = log
        self.reaper = Reaper(log)
        self.alarms = Alarms(log.note)
        self.watch = Watch(log.note, self.alarms)
        self.supervisor = Supervisor(log, self.reaper, alarms=self.alarms, watch=self.watch)
        self.supervisor.keeps_at_end = True
        self.command_line: kernel.CommandLine | None = None
        self.boot = BootRecord(BOOT)
        self.boot.finished_ms["pid1"] = born_ms
        self.watchdog: int | None = None
        self.api: socket.socket | None = None  # the listening socket
        self.early: Early | None = None  # the first steps of the boot, where they were done before it
        self.handed_over: KeptAgent | None = None  # from the program before this one, until its services are supervised
        self.ending: Ending | None = None  # which end was asked for
        self.ended: Ending | None = None  # set once the shutdown is over
        # Of the agent that lives now:
        self.end_asked = trio.Event()
        self.convergence: Convergence | None = None
        self._programs: Programs | None = None
        self._deployments = KeptDeployments()  # as the convergence before it left them

    def begin_life(self) -> None:
        """Let another agent begin: the tasks of the agent before it ended with it, and are started anew."""
        self._deployments = self.keep_deployments()
        self.convergence = self._programs = None
        self.boot.keep_only(LASTING)
        self.end_asked = trio.Event()
        if self.ending is not None:  # the agent before it failed during the shutdown, which goes on
            self.end_asked.set()

    def take_over(self, kept: KeptAgent) -> None:
        """Go on from what the program before this one has left, once an agent lives.

        Phases that this program does not know, or that end with an agent, are ignored.
        """
        for name in LASTING:
            if name in kept.done:
                self.boot.outcomes[name] = "done"
        self.boot.finished_ms = dict(kept.finished_ms)
        self.watchdog = kept.watchdog if kept.watchdog >= 0 else None
        if kept.api >= 0 and self.api is None:  # else this is the second try
            self.api = socket.socket(fileno=kept.api)
        self.handed_over, self._deployments = kept, kept.deployments
        self.reopen_files()

    def take_early(self, early: Early) -> None:
        """Go on from the first steps of the boot, once an agent lives."""
        self.early = early
        for name, (at_ms, warnings) in early.done.items():
            if name in LASTING:
                self.boot.note_done(name, at_ms, warnings)
                self.log.note("boot_phase_done", phase=name, at_ms=at_ms)

    def lasting(self) -> list[str]:
        """Return the phases of the boot that hold for the program that this one becomes."""
        # Its line is read again: it costs nothing, and is not in the state.
        return [name for name in LASTING if name != "command-line" and self.boot.outcomes.get(name) == "done"]

    def keep_deployments(self) -> KeptDeployments:
        """Return what holds of the deployments now."""
        return self.convergence.keep() if self.convergence is not None else self._deployments

    def end(self, ending: Ending) -> None:
        """Begin the shutdown; which end it is the first call decides."""
        if self.ending is None:
            self.ending = ending
            self.log.note("shutdown_begun", ending=ending)
            self.end_asked.set()

    @property
    def programs(self) -> Programs:
        """The agent's own programs."""
        assert self._programs is not None, "programs are started while an agent lives"
        return self._programs

    @programs.setter
    def programs(self, programs: Programs) -> None:
        self._programs = programs

    def own_programs(self) -> list[ServiceStatus]:
        """Return the agent's own programs that run now, as services."""
        return self._programs.statuses() if self._programs else []

    def services(self) -> list[ServiceStatus]:
        """Return all services: the supervisor's, and the agent's own programs."""
        return self.supervisor.status() + self.own_programs()

    def open_files(self) -> None:
        """Keep the log and the timers' stamps in files: the data disk is there."""
        self.log.open_files(FileSink(str(DATA_AGENT / "log")))
        if not self.supervisor.keeps_stamps:  # else an agent before this one did, and may be writing
            self.supervisor.keep_stamps(TimerStamps(PathDirectory(str(DATA_AGENT / "state"))))

    def reopen_files(self) -> None:
        """Keep them in files again, where the data disk is there."""
        if self.boot.outcomes.get("data") == "done":
            self.open_files()
