"""What each phase of the boot does on a server.

Which phases there are is ``core.boot``'s; those that need no other process are in ``pid1.boot_steps``.
"""

import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from milkyway_agent.api import server
from milkyway_agent.api.draining import Drain
from milkyway_agent.api.front_link import FrontProcess
from milkyway_agent.api.requests import Answers
from milkyway_agent.deployments.convergence import Convergence
from milkyway_agent.deployments.layer_install import protect_installed
from milkyway_agent.deployments.layer_store import LayerStore
from milkyway_agent.deployments.verifier_link import TrustLink
from milkyway_agent.ipc.messages import Begin
from milkyway_agent.launching.child import Child
from milkyway_agent.pid1 import boot_steps
from milkyway_agent.pid1.boot_run import Deed
from milkyway_agent.pid1.coreos_services import CONSOLES, definition
from milkyway_agent.pid1.machine_api import LiveMachine
from milkyway_agent.pid1.program_table import ADMIN_GROUP, FIRST, VERIFIER_USER
from milkyway_agent.pid1.reexecution import go_on
from milkyway_agent.pid1.state import DATA_AGENT, ServerState
from milkyway_agent.system import kernel, watchdog
from milkyway_formats.errors import UnavailableError

WATCHDOG_SECONDS = 60
WATCHDOG_UNASKED_SECONDS = 15  # less than any known driver's own timeout
DATA_KEY = boot_steps.SECURE_CONFIG / "data.key"


class BootDeeds:
    """The deeds of one agent. *keep*: has a task, by its name, run for as long as the agent lives."""

    def __init__(self, state: ServerState, machine: LiveMachine, drain: Drain, keep: Callable[..., None]) -> None:
        self.link = TrustLink(self._start_program, self._begin, state.log.note)
        self._state = state
        self._machine = machine
        self._drain = drain
        self._keep = keep
        self._supervising = trio.Event()

    def table(self) -> dict[str, Deed]:
        """Return the deed of each phase, by its name."""
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
            "local-api": self._serve_api,
            "deployments": self._start_deployments,
            "console": self._start_consoles,
        }

    async def _mount_filesystems(self) -> Sequence[str]:
        try:
            return boot_steps.filesystems()
        finally:
            await self._start_supervisor()  # now, as it makes a directory below /run; and also where something was not mounted

    async def _start_supervisor(self) -> None:
        self._keep("supervisor", self._run_supervisor)
        with trio.move_on_after(1):
            await self._supervising.wait()

    async def _run_supervisor(self) -> None:
        state = self._state
        async with trio.open_nursery() as nursery:
            await nursery.start(state.supervisor.run)
            if state.handed_over is not None:
                kept, state.handed_over = state.handed_over, None
                go_on(state, kept)
            if state.early is not None and state.early.first_service is not None:
                first, state.early.first_service = state.early.first_service, None
                state.supervisor.add(definition(FIRST, state.reaper))
                state.reaper.claim(first.pid)
                state.supervisor.adopt(FIRST, Child(first.pid, first.pidfd), first.output)
            self._supervising.set()

    async def _read_command_line(self) -> Sequence[str]:
        self._state.command_line = kernel.parse_cmdline(kernel.cmdline())
        return []

    async def _load_modules(self) -> Sequence[str]:
        early = self._state.early
        return await trio.to_thread.run_sync(early.kernel_parameters) if early else boot_steps.kernel_parameters()

    async def _open_watchdog(self) -> Sequence[str]:
        if not Path("/dev/watchdog").exists():
            raise UnavailableError("there is no /dev/watchdog")
        if (descriptor := self._state.watchdog) is None:
            self._state.watchdog = descriptor = watchdog.open_watchdog()
        warnings: list[str] = []
        seconds = WATCHDOG_UNASKED_SECONDS
        try:
            seconds = watchdog.set_timeout(descriptor, WATCHDOG_SECONDS)
        except OSError as error:  # once open it counts: unfed it would reboot a machine that is well
            warnings.append(f"watchdog: it keeps its own timeout: {error}")
        self._keep("watchdog", self._feed_watchdog, descriptor, seconds / 3)
        return warnings

    async def _feed_watchdog(self, descriptor: int, period: float) -> None:
        while True:
            watchdog.keepalive(descriptor)
            await trio.sleep(period)

    async def _start_network(self) -> Sequence[str]:
        self._supervise(FIRST)
        return []

    async def _open_data(self) -> Sequence[str]:
        if not self._is_development():
            raise UnavailableError(
                "there is no key for it: keys from a TPM are not there yet, and a file is for development alone"
            )
        if not DATA_KEY.exists():
            raise UnavailableError(f"there is no {DATA_KEY}")
        code, said = await self._state.programs.run("disk", (str(DATA_KEY),))
        if code:
            raise UnavailableError(said or f"the disk helper ended with {code}")
        self._state.log.note("data_disk_opened", outcome=said)
        boot_steps.mount_data(verifier_user=VERIFIER_USER)
        self._state.open_files()
        return []

    async def _start_verifier(self) -> Sequence[str]:
        self._keep("verifier", lambda: self.link.run(chance=random.random))
        with trio.move_on_after(60):
            await self.link.begun.wait()
            return []
        raise UnavailableError("the verifier did not begin within 60 s")

    async def _serve_api(self) -> Sequence[str]:
        note = self._state.log.note
        answers = Answers(self._machine, note, group=ADMIN_GROUP, local=self._machine.local)
        if self._state.api is None:
            self._state.api = server.listen()

        async def start_front(end: socket.socket) -> FrontProcess:
            return await self._start_program("front", {3: end.fileno()})

        self._keep("local-api", server.serve, self._state.api, answers, start_front, note, self._drain)
        return []

    async def _start_deployments(self) -> Sequence[str]:
        state = self._state
        convergence = Convergence(
            self.link,
            LayerStore(DATA_AGENT, protect=protect_installed),
            state.supervisor,
            state.reaper,
            state.programs,
            state.log,
            order_end=state.end,
            status=self._machine.snapshot,
            chance=random.random,
        )
        convergence.go_on(state.keep_deployments())
        state.convergence = convergence
        self._keep("convergence", convergence.run)
        return []

    async def _start_consoles(self) -> Sequence[str]:
        if not self._is_development():
            return []
        for name, terminal in CONSOLES.items():
            if Path("/dev", terminal).exists():
                self._supervise(name)
        return []

    # --- what the phases need --------------------------------------------------------------------------------------------

    def _is_development(self) -> bool:
        line = self._state.command_line
        return line is not None and line.development

    def _supervise(self, name: str) -> None:
        supervisor = self._state.supervisor
        if name not in supervisor.names():  # else an agent before this one has added it
            supervisor.add(definition(name, self._state.reaper))
        supervisor.start(name, by="the boot")

    async def _start_program(self, name: str, descriptors: dict[int, int]) -> FrontProcess:
        return await self._state.programs.start(name, descriptors)

    def _begin(self, number: int) -> tuple[Begin, list[int]]:
        line = self._state.command_line
        assert line is not None, "the phase verifier needs the command line"
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        begin = Begin(
            request=number,
            now=int(time.time()),
            boot_id=kernel.boot_id(),
            coreos_root_hash=line.root_hash,
            development=line.development,
        )
        trust = os.open(DATA_AGENT / "trust", flags)
        try:
            return begin, [trust, os.open(boot_steps.SECURE_CONFIG, flags)]
        except OSError:
            os.close(trust)
            raise


def _deed(phase: Callable[[], Sequence[str] | None]) -> Deed:
    async def deed() -> Sequence[str]:
        return phase() or []

    return deed
