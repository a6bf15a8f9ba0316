"""The local API as on a server, around a fake machine: PID 1's side in this process, the front as a real process."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from milkyway_agent.api import server
from milkyway_agent.api.access import Local, Peer
from milkyway_agent.api.draining import Drain
from milkyway_agent.api.front_link import DEFAULT_LIMITS, FrontProcess, Limits
from milkyway_agent.api.requests import Answers
from milkyway_agent.api.server import StartFront
from tests.fakes.machine import FakeMachine

FRONT = "import os; os.dup2({end}, 3); os.close({end}); from milkyway_agent.front.server import main; main()"
MWCTL = "from milkyway_agent.mwctl.command import main; main()"
# The interpreter may be where only root can read it, so everything is imported before changing the user.
AS_USER = (
    "import json, locale, os, time, milkyway_agent.mwctl.command; os.setgroups([]); os.setgid({group}); os.setuid({user}); "
)
GROUP = 4711
ROOT = Peer(pid=1, uid=0, groups=frozenset({0}))
MEMBER = Peer(pid=2, uid=1000, groups=frozenset({100, GROUP}))
STRANGER = Peer(pid=3, uid=1001, groups=frozenset({100}))


@dataclass
class Events:
    """Records what was logged."""

    seen: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __call__(self, event: str, /, *, service: str = "", **facts: object) -> None:
        assert not service, "the API is not a service"
        self.seen.append((event, facts))

    def names(self) -> list[str]:
        return [name for name, _ in self.seen]


@dataclass
class RealFronts:
    """Starts the real front as a process, as PID 1 does, and remembers all that it started."""

    started: list[trio.Process] = field(default_factory=list)

    async def start(self, end: socket.socket) -> FrontProcess:
        code = FRONT.format(end=end.fileno())
        process = await trio.lowlevel.open_process([sys.executable, "-c", code], pass_fds=[end.fileno()])
        self.started.append(process)
        return process


@dataclass
class RunningApi:
    """A local API that answers at ``path``."""

    path: str
    machine: FakeMachine
    events: Events
    fronts: RealFronts
    drain: Drain

    async def mwctl(
        self, *arguments: str, user: int | None = None, group: int | None = None, stdin: bytes = b""
    ) -> tuple[int, str, str]:
        """Run the real command; return exit code, standard output, standard error."""
        code = MWCTL if user is None else AS_USER.format(user=user, group=group) + MWCTL
        done = await trio.run_process(
            [sys.executable, "-c", code, "--socket", self.path, *arguments],
            check=False,
            capture_stdout=True,
            capture_stderr=True,
            stdin=stdin,
            env={name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")},
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    async def raw(self, request: bytes) -> bytes:
        """Send *request* as it is; return everything that comes back until the other side closes."""
        stream = await trio.open_unix_socket(self.path)
        async with stream:
            answer = bytearray()
            with suppress(trio.BrokenResourceError):  # it answered and closed before it had read everything
                await stream.send_all(request)
            with suppress(trio.BrokenResourceError):
                async for data in stream:
                    answer += data
            return bytes(answer)


@asynccontextmanager
async def running_api(
    machine: FakeMachine | None = None,
    *,
    limits: Limits = DEFAULT_LIMITS,
    start_front: StartFront | None = None,
    group: int | None = None,
    local: Local = "read",
) -> AsyncIterator[RunningApi]:
    """Run the API in a directory that every user may enter; remove it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="milkyway-api-"))
    directory.chmod(0o755)
    fake, events, fronts, drain = machine or FakeMachine(), Events(), RealFronts(), Drain()
    path = str(directory / "mwctl.sock")
    answers = Answers(fake, events, group=group, local=lambda: local)
    try:
        with server.listen(path) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    lambda: server.serve(listener, answers, start_front or fronts.start, events, drain, limits=limits)
                )
                with trio.fail_after(30):
                    yield RunningApi(path, fake, events, fronts, drain)
                nursery.cancel_scope.cancel()
    finally:
        for process in fronts.started:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
        shutil.rmtree(directory)
