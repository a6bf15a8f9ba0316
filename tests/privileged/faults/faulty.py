"""The test's side of a faulty PID 1: starts it, sends it orders, and reports what happened."""

import array
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import trio

from tests.privileged.supervisor.supervised import cgroup_root, launch

ORDER_SECONDS = 30.0
STAND_INS = ("labels", "disks", "watchdog")
Facts = dict[str, Any]


class OrderFailedError(Exception):
    """PID 1 could not carry out an order; the text says why."""


class Faulty:
    """A PID 1 that fails at will."""

    def __init__(self, control: socket.socket, status: int, console: Path) -> None:
        self._control = trio.socket.from_stdlib_socket(control)
        self._status = status
        self._console = console
        self._numbers = count()
        self._read = 0
        self._waiting: dict[int, trio.MemorySendChannel[Facts]] = {}

    async def listen(self) -> None:
        """Receive its answers until it ends."""
        with suppress(ConnectionResetError):
            while data := await self._control.recv(1 << 20):
                facts = json.loads(data)
                if (waiting := self._waiting.pop(facts.pop("number"), None)) is not None:
                    waiting.send_nowait(facts)
        for waiting in list(self._waiting.values()):
            waiting.close()

    async def order(self, verb: str, **arguments: object) -> Facts:
        """Send an order; return the answer. Raises OrderFailedError if it can't be carried out, or PID 1 has ended or hangs."""
        number = next(self._numbers)
        send, receive = trio.open_memory_channel[Facts](1)
        self._waiting[number] = send
        try:
            with trio.fail_after(ORDER_SECONDS), send, receive:
                await self._control.send(json.dumps({"number": number, "verb": verb, **arguments}).encode())
                facts = await receive.receive()
        except (trio.TooSlowError, trio.EndOfChannel, OSError) as error:
            raise OrderFailedError(f"no answer to {verb} {arguments}: {type(error).__name__}\n{self.console()}") from error
        finally:
            self._waiting.pop(number, None)
        if "error" in facts:
            raise OrderFailedError(f"{verb} {arguments}: {facts['error']}\n{facts.get('traceback', '')}")
        return facts

    def console(self) -> str:
        """Return what it wrote to the console."""
        return self._console.read_text(errors="replace")[-3000:]

    async def shown(self, text: str) -> None:
        """Wait until *text* is on the console."""
        with trio.fail_after(ORDER_SECONDS):
            while text not in self._console.read_text(errors="replace"):  # noqa: ASYNC110 (a file)
                await trio.sleep(0.01)

    async def noted(self, text: str) -> None:
        """Wait until a line that begins with *text* was logged; earlier lines don't count for the next call."""
        with trio.fail_after(ORDER_SECONDS):
            while True:
                lines: list[str] = []
                with trio.move_on_after(2):  # an agent that fails does not answer
                    lines = (await self.order("records", since=self._read))["lines"]
                if any(line.startswith(text) for line in lines):
                    self._read += len(lines)
                    return
                await trio.sleep(0.02)

    def lives(self) -> bool:
        """Tell whether it has not ended."""
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        return not poll.poll(0)

    async def end(self) -> int:
        """Wait until it has ended; return its wait status."""
        with trio.fail_after(ORDER_SECONDS):
            await trio.lowlevel.wait_readable(self._status)
        return int(os.read(self._status, 64) or b"-1")

    def close(self) -> None:
        """Close its control socket: its init is killed then."""
        self._control.close()


class Factory:
    """Makes faulty agents: a process imports everything once, and each agent is a fork of it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="milkyway-faults-"))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            code = f"import os; os.dup2({theirs.fileno()}, 3); from tests.privileged.faults.faulty_agent import main; main()"
            root = Path(__file__).parents[3]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=environment, cwd=root
            )
        self._orders = ours
        self._numbers = count()
        self._group = f"{cgroup_root()}/milkyway-faults-{os.getpid()}"

    @asynccontextmanager
    async def agent(
        self, *faults: tuple[str, int, str], stand_ins: Sequence[str] = STAND_INS, state: str | None = None
    ) -> AsyncIterator[Faulty]:
        """Yield a PID 1 with *faults* (function, errno, mode) from its first moment on.

        *state*: what an earlier program has handed over to it.
        """
        number = next(self._numbers)
        scratch, console = self.directory / f"world-{number}", self.directory / f"console-{number}"
        scratch.mkdir()
        console.touch()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        status, told = os.pipe()
        order = {
            "scratch": str(scratch),
            "console": str(console),
            "launch": launch(),
            "group": f"{self._group}-{number}",
            "faults": faults,
            "stand_ins": stand_ins,
            "state": state,
        }
        opened = os.open(console, os.O_WRONLY | os.O_APPEND)
        rights = array.array("i", [theirs.fileno(), told, opened])
        self._orders.sendmsg([json.dumps(order).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        theirs.close()
        os.close(told)
        os.close(opened)
        agent = Faulty(control, status, console)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(agent.listen)
                yield agent
                nursery.cancel_scope.cancel()
        finally:
            agent.close()  # which ends it
            with trio.CancelScope(shield=True), trio.move_on_after(20):
                await trio.lowlevel.wait_readable(status)
            os.close(status)

    def close(self) -> None:
        """End the process that makes the agents."""
        self._orders.close()
        self._process.wait(30)
        shutil.rmtree(self.directory)
