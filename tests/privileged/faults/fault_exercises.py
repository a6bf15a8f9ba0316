"""What PID 1 is made to do so that the failing function is called: services come and go, a request is made, a layer opened.

None of it need succeed. Each ``do_`` is an exercise that the fault table names.
"""

import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import trio

from milkyway_agent.core.effects import HoldData, LoadInstance, OpenLayer
from milkyway_agent.deployments.data import DataPlane
from milkyway_agent.deployments.executor import Executor
from milkyway_agent.deployments.layers import LayerPlane
from milkyway_agent.deployments.policy import PolicyPlane
from milkyway_agent.early import launcher
from milkyway_agent.launching import direct
from milkyway_agent.launching.launcher_link import LauncherLink
from milkyway_agent.launching.places import Places
from milkyway_agent.launching.program import Program
from milkyway_agent.launching.spawned import SpawnedStarter
from milkyway_agent.pid1 import agent, program_table
from milkyway_agent.pid1.state import ServerState
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.system import cgroups
from milkyway_formats.deployment import DataBinding
from milkyway_formats.errors import MilkyWayError
from milkyway_formats.listener import Listener, Tcp, UnixStream
from milkyway_formats.manifest import Image
from milkyway_formats.policy_shared import Placed
from milkyway_formats.service import Limits, Pressure, ReadyByExit, ReadyByNotify, ReadyByTcp, Restart, Service, Stop
from milkyway_formats.timer import Timer

STEP_SECONDS = 3.0  # how long a step waits for a service that may never end because of the fault
SOCKET = "/run/probe.sock"
NOTIFIES = """
import os, signal, socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.getenv("NOTIFY_SOCKET"))
signal.pause()
"""
LISTENS = """
import signal, socket
listening = socket.create_server(("127.0.0.1", 4711))
signal.pause()
"""


class Exercises(agent.Agent):
    """PID 1, and what it can be made to do."""

    def __init__(self, state: ServerState) -> None:
        super().__init__(state)
        self.supervisor = state.supervisor
        self._numbers = count()
        self._link: LauncherLink | None = None

    async def exercise(self, what: str) -> None:
        """Do the exercise *what*."""
        await getattr(self, f"do_{what}")()

    def add_plain(self, name: str, service: Service, **program: Any) -> None:
        """Supervise a service that is started like those of CoreOS."""
        program_of = Program(tuple(service.command), environment=service.environment, limits=service.limits, **program)
        self.supervisor.add(
            Definition(name, service, SpawnedStarter(program_of, f"{program_table.GROUPS}/{name}", self.state.reaper))
        )

    def _add_direct(self, name: str, service: Service, *, socket_context: str = "") -> None:
        """Supervise a service that is started through the launcher, like those of ``--supervise``."""
        if self._link is None:
            self._link = LauncherLink(launcher.Launcher(), self.state.watch, self.state.alarms, self.state.reaper)
        places = Places(program_table.GROUPS, Path("/run/milkyway"))
        starter = direct.DirectStarter(name, service, self._link, places)
        self.supervisor.add(Definition(name, service, starter, socket_context=socket_context))

    def _name(self) -> str:
        return f"probe-{next(self._numbers)}"

    async def _try(self, step: Callable[..., Awaitable[object]], *arguments: object) -> None:
        with trio.move_on_after(STEP_SECONDS):
            try:
                await step(*arguments)
            except (MilkyWayError, OSError) as error:
                self.state.log.note("exercise_refused", why=str(error))

    async def _live_through(self, name: str) -> None:
        """Start a service, kill its process, wait for the next, and stop it, as far as that is possible."""
        self.supervisor.start(name)
        await self._try(self.supervisor.wait_state, name, "started", "failed")
        before = self.supervisor.status_of(name)
        if before.pid:
            os.kill(before.pid, signal.SIGKILL)
            await self._try(self.other_process, name, before.pid)
        await self._try(self.supervisor.stop, name)

    async def other_process(self, name: str, before: int) -> None:
        """Wait until the service is started with another process, or failed."""
        while (status := self.supervisor.status_of(name)).pid in (before, 0) and status.state != "failed":  # noqa: ASYNC110
            await trio.sleep(0.005)
        await self.supervisor.wait_state(name, "started", "failed")

    async def do_life(self) -> None:
        """A service that reports its readiness is killed, started again and stopped; another leaves a child behind."""
        name = self._name()
        again = Restart(delay_ms=10, start_limit=3)
        command = [sys.executable, "-IS", "-c", NOTIFIES]
        limits = Limits(memory_bytes=1 << 30, pids=100)
        self.add_plain(
            name,
            Service(
                name=name,
                command=command,
                readiness=ReadyByNotify(),
                restart=again,
                limits=limits,
                pressure=Pressure(memory_percent=50),
                ready_timeout_ms=1000,
            ),
        )
        await self._live_through(name)

    async def do_stubborn(self) -> None:
        """A service that ignores its stop signal and has children is killed with all of them."""
        name = self._name()
        script = "trap '' TERM; sleep 1000 & while :; do sleep 1000; done"
        self.add_plain(name, Service(name=name, command=["/bin/sh", "-c", script], stop=Stop(timeout_ms=20)))
        await self._live_through(name)

    async def do_port(self) -> None:
        """A service is ready when it listens."""
        name = self._name()
        command = [sys.executable, "-IS", "-c", LISTENS]
        self.add_plain(name, Service(name=name, command=command, readiness=ReadyByTcp(port=4711), ready_timeout_ms=1000))
        await self._live_through(name)

    async def do_orphan(self) -> None:
        """An unclaimed child ends: it is reaped after the grace period."""
        pid = os.posix_spawn("/bin/true", ["true"], {})  # noqa: ASYNC221 (it does not wait)
        for _ in range(15):
            await trio.sleep(0.1)
            if not Path(f"/proc/{pid}").exists():
                return

    async def do_listeners(self) -> None:
        """A service with listeners and a timer, and one that accepts, are armed, served, and stopped again."""
        name, accepting = self._name(), self._name()
        listeners = [
            Listener(name="web", address=Tcp(address="127.0.0.1", port=4712), start="on-demand"),
            Listener(name="unix", address=UnixStream(path=SOCKET, mode=0o666), start="on-demand"),
        ]
        each = [Listener(name="each", address=Tcp(address="127.0.0.1", port=4713), accept=True)]
        patience = Restart(delay_ms=10, start_limit=3)
        self._add_direct(accepting, Service(name=accepting, command=["/bin/sleep", "1000"], listeners=each, restart=patience))
        service = Service(
            name=name,
            command=["/bin/sleep", "1000"],
            listeners=listeners,
            timers=[Timer(calendar=["*-*-* 00:00:00"])],
            restart=patience,
        )
        self._add_direct(name, service, socket_context="u:r:web.process:s0")
        self.supervisor.start(name, accepting)
        await trio.sleep(0.02)
        for address in (("127.0.0.1", 4713), ("127.0.0.1", 4712)):
            with trio.move_on_after(0.2):
                try:
                    stream = await trio.open_tcp_stream(*address)
                    await stream.aclose()
                except OSError:
                    continue
        await self._try(self.supervisor.wait_state, name, "started", "failed")
        await self._try(self.supervisor.stop, name)
        await self._try(self.supervisor.stop, accepting)
        Path(SOCKET).unlink(missing_ok=True)

    async def do_stale_socket(self) -> None:
        """The file of a listener's socket exists already, and no process has it open."""
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(SOCKET)
        stale.close()
        await self.do_listeners()

    async def do_timer(self) -> None:
        """A calendar timer starts a service at the next second."""
        name = self._name()
        timers = [Timer(calendar=["*-*-* *:*:*"], persistent=True)]
        service = Service(name=name, command=["/bin/true"], type="oneshot", readiness=ReadyByExit(), timers=timers)
        self._add_direct(name, service)
        self.supervisor.start(name)
        with trio.move_on_after(1.2):
            await self.supervisor.wait_state(name, "started", "failed")

    async def do_survivor(self) -> None:
        """A process of a service seems to survive SIGKILL for longer than the deadline."""
        populated, cgroups.is_populated = cgroups.is_populated, lambda path: bool(path)
        try:
            await self.do_stubborn()
        finally:
            cgroups.is_populated = populated

    async def do_other_speaks(self) -> None:
        """A child of the service reports that it is ready."""
        name = self._name()
        command = ["/bin/sh", "-c", f"{sys.executable} -IS -c '{NOTIFIES}' & wait"]
        self.add_plain(name, Service(name=name, command=command, readiness=ReadyByNotify(), ready_timeout_ms=200))
        await self._live_through(name)

    async def do_figures(self) -> None:
        """The figures of services are asked for."""
        await self._try(self.machine.view.top)

    async def do_policy(self) -> None:
        """A policy without a deployment's instance is loaded, as when the deployment is removed."""
        effect = LoadInstance("web_k3v9", 1, "0" * 64)
        plane = PolicyPlane(self.deeds.link, self.state.programs, lambda _: Path("/dev/null"))
        plane._instances[effect.key] = (Placed("web_k3v9", 1, (), ()), b"")
        executor = Executor({LoadInstance: plane}, self.state.log)
        executor.present = (effect,)
        await self._try(executor.converge, ())

    async def do_api(self) -> None:
        """The local API gets a request."""
        await self._try(self.ask)

    async def ask(self) -> bytes:
        answer = bytearray()
        async with await trio.open_unix_socket("/run/milkyway/mwctl.sock") as stream:
            await stream.send_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            async for data in stream:
                answer += data
        return bytes(answer)

    async def do_layer(self) -> None:
        """A layer is opened and closed, and a data source made, by the executor as for a deployment."""
        image = Image(root_hash="0" * 64, salt="0" * 64, data_blocks=8, hash_blocks=1)
        sha256 = f"{next(self._numbers):064x}"
        effect = OpenLayer(sha256=sha256, path="web", version="1", image=image)
        plane = LayerPlane(lambda _: Path("/usr/lib/milkyway/launch"), selinux=True)
        source = f"source{next(self._numbers)}"
        held = HoldData("web_k3v9", DataBinding(name="data", source=source, data_class="secure"), 1000)
        data = DataPlane(Path("/data"), selinux=True)
        await self._try(Executor({OpenLayer: plane}, self.state.log).converge, (effect,))
        await self._try(plane.undo, effect)
        await self._try(Executor({HoldData: data}, self.state.log).converge, (held,))
        await self._try(data.do, held)

    async def do_nothing(self) -> None:
        """Wait for what happens by itself: the watchdog is fed every second."""
        await trio.sleep(1.1)
