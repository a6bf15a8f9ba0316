"""PID 1: the phases of the boot, one after what it needs; then life; then the way down. Never returns.

It holds the parts together and decides little: what the phases are is ``core.boot``'s, what a plain
phase does ``pid1.boot_steps``', services are the ``supervisor``'s, documents ``convergence``'s. A task that
fails is logged and begun again; an error that reaches the outermost loop begins all tasks again. The
services live through both.
"""

import os
import random
import signal
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import trio

from milkyway_agent.api import server
from milkyway_agent.api.draining import Drain
from milkyway_agent.api.front_link import FrontProcess
from milkyway_agent.api.requests import Answers
from milkyway_agent.core.boot import BOOT
from milkyway_agent.deployments.convergence import Convergence, protect_installed
from milkyway_agent.deployments.layer_store import LayerStore
from milkyway_agent.deployments.verifier_link import TrustLink
from milkyway_agent.ipc.messages import Begin
from milkyway_agent.launching.child import Running
from milkyway_agent.log.log import FileSink, LineSink, Log
from milkyway_agent.pid1 import boot_steps, snapshot
from milkyway_agent.pid1.agent_programs import Programs
from milkyway_agent.pid1.boot_run import BootRun, Deed
from milkyway_agent.pid1.coreos_services import CONSOLES, definition
from milkyway_agent.pid1.early_boot import ORDERS, Early
from milkyway_agent.pid1.machine_api import LiveMachine
from milkyway_agent.pid1.program_table import ADMIN_GROUP, FIRST, VERIFIER_USER
from milkyway_agent.pid1.reexecution import Succession, go_on
from milkyway_agent.pid1.shutdown import go_down
from milkyway_agent.pid1.snapshot import KeptAgent, KeptDeployments
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.reexecution import Renewal
from milkyway_agent.runtime.signal_receiver import arriving
from milkyway_agent.runtime.tasks import keep
from milkyway_agent.supervisor.activation.timer_stamps import TimerStamps
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import console, kernel, memory, power, signals, watchdog
from milkyway_agent.system.state_file import PathDirectory
from milkyway_formats.errors import MilkyWayError, UnavailableError
from milkyway_formats.report import ServiceStatus

Ending = Literal["reboot", "poweroff"]
AGAIN_SECONDS: Sequence[float] = (10, 20, 40, 80, 160, 320)
WATCHDOG_SECONDS = 60
WATCHDOG_UNASKED_SECONDS = 15  # less than any driver's own timeout that is known
DATA_KEY = boot_steps.SECURE_CONFIG / "data.key"
DATA_AGENT = boot_steps.DATA / "agent"
# What these did to the machine holds for the next agent too; the others start tasks, which end with the agent.
LASTING = ("command-line", "selinux", "kernel", "cgroups", "loopback", "network", "secure-config", "data", "console")


class SameClock(trio.abc.Clock):
    """One clock for all runs of the loop: trio's own begins anew with each, and timers outlive an agent that fails."""

    def start_clock(self) -> None:
        """Do nothing: it runs."""

    def current_time(self) -> float:
        """Return seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long it is until *deadline*."""
        return deadline - time.monotonic()


def run(born_ms: int, make: "type[Agent] | None" = None, *, adopted: int = -1, early: Early | None = None) -> NoReturn:
    """Be PID 1. *born_ms*: milliseconds of CLOCK_BOOTTIME at its first line. *make*: which agent (for tests).

    *adopted*: the state that the program before this one has left, as a descriptor (``pid1.snapshot``). *early*: what was done
    before this module was imported.

    Whatever fails, the next agent goes on with the services of the one before: they are not touched.
    """
    signals.block(ORDERS)  # what comes before somebody heeds it waits
    log = Log(kernel.realtime_ms)
    _open_console(log)
    _stay_in_memory(log)
    agent: Agent | None = None
    kept = _adopt(adopted, log) if adopted >= 0 else None
    while agent is None or agent.ended is None:
        try:
            agent = (make or Agent)(log, born_ms, agent)
            if kept is not None:
                agent.take_over(kept)
                kept = None
            if early is not None:
                agent.take_early(early)
                early = None
            trio.run(agent.live, clock=SameClock())
        except BaseException as error:  # noqa: BLE001 (an end of PID 1 is a panic; begin again, services go on)
            log.note("agent_failed", error=repr(error), traceback=traceback.format_exc())
            time.sleep(1)
        # Whatever failed on the way down, a machine that went down doesn't begin again.
    while True:
        for end in (power.restart, power.power_off) if agent.ended == "reboot" else (power.power_off, power.restart):
            try:
                end()
            except OSError as error:  # the other end is better than a machine that is stopped and stays on
                log.note("end_failed", ending=agent.ended, error=str(error))
                time.sleep(1)


def _adopt(descriptor: int, log: Log) -> KeptAgent | None:
    try:
        return snapshot.adopt(descriptor)
    except (MilkyWayError, OSError) as error:  # begin as after a boot: each service is cleared away before it starts
        log.note("state_not_adopted", why=str(error))
        snapshot.close_inherited()
        return None


def _open_console(log: Log) -> None:
    try:
        descriptor = console.open_console()
    except OSError as error:  # then whoever asks mwctl, or reads the disk, finds what was noted
        log.note("console_failed", error=str(error))
        return
    log.add_sink(LineSink(lambda line: console.write_line(descriptor, f"milkyway: {line}")))


def _stay_in_memory(log: Log) -> None:
    """Lock what is mapped now and whatever is touched later: a damaged block of its own code must not kill it."""
    try:
        memory.mlockall(memory.MCL_CURRENT)
        # On fault: a thread's stack is 8 MiB of which it uses a few KiB.
        memory.mlockall(memory.MCL_CURRENT | memory.MCL_FUTURE | memory.MCL_ONFAULT)
    except OSError as error:
        log.note("memory_not_locked", why=str(error))


class Agent:
    """All that lives in PID 1, from one boot to one shutdown."""

    def __init__(self, log: Log, born_ms: int, before: "Agent | None" = None) -> None:
        """*before*: an agent that has failed, whose services this one goes on with."""
        self.log = log
        self.reaper: Reaper = before.reaper if before else Reaper(log)
        self.supervisor: Supervisor = before.supervisor if before else Supervisor(log, self.reaper)
        self.supervisor.keeps_at_end = True
        self.command_line: kernel.CommandLine | None = before.command_line if before else None
        self.boot: BootRun = BootRun(BOOT, self._deeds(), clock_ms=kernel.boottime_ms, note=log.note)
        self.boot.finished_ms["pid1"] = born_ms
        if before is not None:
            for name in LASTING:
                if before.boot.outcomes.get(name) == "done":
                    self.boot.outcomes[name] = "done"
                    self.boot.finished_ms[name] = before.boot.finished_ms[name]
        self.link = TrustLink(self._start_program, self._begin, log.note)
        self.convergence: Convergence | None = None
        self._machine = LiveMachine(self)
        self._programs: Programs | None = None
        self._nursery: trio.Nursery | None = None
        self.watchdog: int | None = before.watchdog if before else None
        self.api: socket.socket | None = before.api if before else None
        self.drain = Drain()
        self._renewal = Renewal(Succession(self), self.reaper, [snapshot.PROGRAM])
        self._handed_over: KeptAgent | None = before._handed_over if before else None
        self._early: Early | None = before._early if before else None
        self._deployed = before.keep_deployments() if before else KeptDeployments()
        self._supervising = trio.Event()
        self._kept: set[str] = set()
        self.ended: Ending | None = None  # said once the way down is over
        self._ending: Ending = "poweroff"
        self._end = trio.Event()
        if before is not None and before._end.is_set():  # it failed on the way down, which goes on
            self._ending = before._ending
            self._end.set()

    def take_over(self, kept: KeptAgent) -> None:
        """Go on from what the program before this one has left, once ``live`` runs."""
        for name in kept.done:
            self.boot.outcomes[name] = "done"
        self.boot.finished_ms = dict(kept.finished_ms)
        self.watchdog = kept.watchdog if kept.watchdog >= 0 else None
        self.api = socket.socket(fileno=kept.api) if kept.api >= 0 else None
        self._handed_over, self._deployed = kept, kept.deployments
        self.reopen_files()

    def take_early(self, early: Early) -> None:
        """Go on from the first steps of the boot, once ``live`` runs."""
        self._early = early
        for name, (at_ms, warnings) in early.done.items():
            if name in LASTING:
                self.boot.outcomes[name], self.boot.finished_ms[name] = "done", at_ms
                self.boot.warnings += warnings
                self.log.note("boot_phase_done", phase=name, at_ms=at_ms)

    def lasting(self) -> list[str]:
        """Return the phases of the boot that hold for the program that this one becomes."""
        # Its line is read again: it costs nothing, and is not in the state.
        return [name for name in LASTING if name != "command-line" and self.boot.outcomes.get(name) == "done"]

    def keep_deployments(self) -> KeptDeployments:
        """Return what holds of the deployments now."""
        return self.convergence.keep() if self.convergence is not None else self._deployed

    async def reexecute(self) -> None:
        """Have this program executed anew soon after this returns; services go on. Raises UnavailableError when it can't."""
        await self._renewal.ask()

    async def live(self) -> None:
        """Boot, live until an end is asked for, go down in order; ``ended`` is then which end it is."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._programs = Programs(self.log, self.reaper, nursery)
            self._keep("reaper", self.reaper.run)
            self._keep("signals", self._heed_signals)
            self._keep("log", self.log.keep_files)
            self._keep("renewal", self._renewal.run)
            with trio.CancelScope() as booting:
                nursery.start_soon(self._cancel_at_end, booting)
                await self._boot()
            await self._end.wait()
            with trio.CancelScope(shield=True):
                await go_down(self)
            self.ended = self._ending
            nursery.cancel_scope.cancel()

    async def _boot(self) -> None:
        """Boot, and try again what failed, less and less often: what was in its way may pass, and a boot is not repeated."""
        before = dict(self.boot.finished_ms) if self._handed_over else {}
        await self.boot.run()
        self.boot.finished_ms["ready"] = kernel.boottime_ms()
        self.boot.finished_ms.update(before)  # the boot was another program's; what was done again is no part of it
        self.log.note("boot_finished", at_ms=self.boot.finished_ms["ready"], failures=len(self.boot.failures()))
        for line in self.boot.failures():
            self.log.note("boot_report", line=line)
        for pause in AGAIN_SECONDS:
            if "failed" not in self.boot.outcomes.values():
                return
            await trio.sleep(pause)
            self.log.note("boot_tried_again", phases=", ".join(self.boot.forget_failures()))
            await self.boot.run()

    def end(self, ending: Ending) -> None:
        """Begin the way down; the first word counts."""
        if not self._end.is_set():
            self._ending = ending
            self.log.note("shutdown_begun", ending=ending)
            self._end.set()

    def services(self) -> list[ServiceStatus]:
        """Return all services: the supervisor's, and the agent's own programs."""
        return self.supervisor.status() + self.own_programs()

    def own_programs(self) -> list[ServiceStatus]:
        """Return the agent's own programs that run now, as services."""
        return self._programs.statuses() if self._programs else []

    # --- the phases of the boot ------------------------------------------------------------------------------------------

    def _deeds(self) -> dict[str, Deed]:
        return {
            "filesystems": self._mount_filesystems,
            "command-line": self._read_command_line,
            "selinux": _deed(boot_steps.labels),
            "kernel": self._load_modules,
            "watchdog": self._open_watchdog,
            "cgroups": _deed(boot_steps.groups),
            "loopback": _deed(boot_steps.loopback),
            "network": self._start_network,
            "secure-config": _deed(boot_steps.secure_config),
            "data": self._open_data,
            "verifier": self._start_verifier,
            "uplink": self._await_uplink,
            "local-api": self._serve_api,
            "deployments": self._start_deployments,
            "console": self._start_consoles,
        }

    async def _mount_filesystems(self) -> Sequence[str]:
        try:
            return boot_steps.filesystems()
        finally:
            await self._start_supervisor()  # now, as it makes a directory below /run; and whatever was not mounted

    async def _start_supervisor(self) -> None:
        self._keep("supervisor", self._run_supervisor)
        with trio.move_on_after(1):
            await self._supervising.wait()

    async def _run_supervisor(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.supervisor.run)
            if self._handed_over is not None:
                kept, self._handed_over = self._handed_over, None
                go_on(self, kept)
            if self._early is not None and self._early.started is not None:
                first, self._early.started = self._early.started, None
                self.supervisor.add(definition(FIRST, self.reaper))
                self.reaper.claim(first.pid)
                self.supervisor.adopt(FIRST, Running(first.pid, first.pidfd), first.output)
            self._supervising.set()

    async def _read_command_line(self) -> Sequence[str]:
        self.command_line = kernel.parse_cmdline(kernel.cmdline())
        return []

    async def _load_modules(self) -> Sequence[str]:
        if self._early is None:
            return boot_steps.kernel_parameters()
        return await trio.to_thread.run_sync(self._early.kernel_parameters)

    async def _open_watchdog(self) -> Sequence[str]:
        if not Path("/dev/watchdog").exists():
            raise UnavailableError("there is no /dev/watchdog")
        if self.watchdog is None:
            self.watchdog = watchdog.open_watchdog()
        warnings: list[str] = []
        seconds = WATCHDOG_UNASKED_SECONDS
        try:
            seconds = watchdog.set_timeout(self.watchdog, WATCHDOG_SECONDS)
        except OSError as error:  # open, it counts: left alone it would reboot a machine that lives
            warnings.append(f"watchdog: it keeps its own timeout: {error}")
        self._keep("watchdog", self._feed_watchdog, self.watchdog, seconds / 3)
        return warnings

    async def _feed_watchdog(self, descriptor: int, period: float) -> None:
        while True:
            watchdog.keepalive(descriptor)
            await trio.sleep(period)

    async def _start_network(self) -> Sequence[str]:
        self._supervise(FIRST)
        return []

    async def _open_data(self) -> Sequence[str]:
        if self.command_line is None or not self.command_line.development:
            raise UnavailableError(
                "there is no key for it: keys from a TPM are not there yet, and a file is for development alone"
            )
        if not DATA_KEY.exists():
            raise UnavailableError(f"there is no {DATA_KEY}")
        code, said = await self.programs().run("disk", (str(DATA_KEY),))
        if code:
            raise UnavailableError(said or f"the disk helper ended with {code}")
        self.log.note("data_disk_opened", outcome=said)
        boot_steps.mount_data(verifier_user=VERIFIER_USER)
        self._open_files()
        return []

    def _open_files(self) -> None:
        self.log.open_files(FileSink(str(DATA_AGENT / "log")))
        if not self.supervisor.triggers.keeps_stamps:  # else an agent before this one did, and may be writing
            self.supervisor.triggers.keep_stamps(TimerStamps(PathDirectory(str(DATA_AGENT / "state"))))

    def reopen_files(self) -> None:
        """Keep the log and the timers' stamps in files again, where the data disk is there."""
        if self.boot.outcomes.get("data") == "done":
            self._open_files()

    async def _start_verifier(self) -> Sequence[str]:
        self._keep("verifier", lambda: self.link.run(chance=random.random))
        with trio.move_on_after(60):
            await self.link.begun.wait()
            return []
        raise UnavailableError("the verifier did not begin within 60 s")

    async def _await_uplink(self) -> Sequence[str]:
        return []  # it is started with the verifier, and its link comes and goes

    async def _serve_api(self) -> Sequence[str]:
        answers = Answers(self._machine, self.log.note, group=ADMIN_GROUP, local=self._machine.local)
        if self.api is None:
            self.api = server.listen()

        async def start_front(end: socket.socket) -> FrontProcess:
            return await self._start_program("front", {3: end.fileno()})

        self._keep("local-api", server.serve, self.api, answers, start_front, self.log.note, self.drain)
        return []

    async def _start_deployments(self) -> Sequence[str]:
        convergence = Convergence(
            self.link,
            LayerStore(DATA_AGENT, protect=protect_installed),
            self.supervisor,
            self.reaper,
            self.programs(),
            self.log,
            order_end=self.end,
            status=self._machine.snapshot,
            chance=random.random,
        )
        convergence.go_on(self._deployed)
        self.convergence = convergence
        self._keep("convergence", convergence.run)
        return []

    async def _start_consoles(self) -> Sequence[str]:
        if self.command_line is None or not self.command_line.development:
            return []
        for name, terminal in CONSOLES.items():
            if Path("/dev", terminal).exists():
                self._supervise(name)
        return []

    # --- what the phases need --------------------------------------------------------------------------------------------

    def _supervise(self, name: str) -> None:
        if name not in self.supervisor.names():  # an agent that failed before this one may have begun
            self.supervisor.add(definition(name, self.reaper))
        self.supervisor.start(name, by="the boot")

    async def _start_program(self, name: str, descriptors: dict[int, int]) -> FrontProcess:
        return await self.programs().start(name, descriptors)

    def programs(self) -> Programs:
        """Return the agent's own programs."""
        assert self._programs is not None, "programs are started while the agent lives"
        return self._programs

    def _begin(self, number: int) -> tuple[Begin, list[int]]:
        assert self.command_line is not None, "the phase verifier needs the command line"
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        begin = Begin(
            request=number,
            now=int(time.time()),
            boot_id=kernel.boot_id(),
            coreos_root_hash=self.command_line.root_hash,
            development=self.command_line.development,
        )
        trust = os.open(DATA_AGENT / "trust", flags)
        try:
            return begin, [trust, os.open(boot_steps.SECURE_CONFIG, flags)]
        except OSError:
            os.close(trust)
            raise

    def _keep(self, name: str, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Run *task* for as long as the agent lives; once, though the phase that starts it is tried again."""
        assert self._nursery is not None, "tasks run while the agent lives"
        if name in self._kept:
            return
        self._kept.add(name)
        self._nursery.start_soon(self._keep_for_good, name, task, *arguments)

    async def _keep_for_good(self, name: str, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        await keep(name, task, self.log.note, *arguments)
        self.log.note("task_lost", task=name)  # it came to an end by itself, which none of them should

    async def _heed_signals(self) -> None:
        with arriving(*ORDERS) as orders:
            try:
                power.set_ctrl_alt_del(reboots=False)
            except OSError as error:  # the other ways to end the machine are heeded nevertheless
                self.log.note("ctrl_alt_del_failed", error=str(error))
            async for number in orders:
                self.end("reboot" if number == signal.SIGINT else "poweroff")

    async def _cancel_at_end(self, scope: trio.CancelScope) -> None:
        await self._end.wait()
        scope.cancel()


def _deed(phase: Callable[[], Sequence[str] | None]) -> Deed:
    async def deed() -> Sequence[str]:
        return phase() or []

    return deed
