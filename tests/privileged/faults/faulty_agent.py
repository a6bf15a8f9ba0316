"""A real PID 1 whose kernel fails at will: a fault injector as a separate program.

It is started with a socket as descriptor 3 and waits for orders. For each it makes a new PID 1: the init of a pid
namespace, with its own mount, control group, network and IPC namespaces (``fault_world``), where ``pid1.entry.run`` boots
as on a server. What needs SELinux, dm-verity or a disk finds files that look like them, or fails, which is reported.

One function of ``milkyway_agent.system`` at a time is replaced by a proxy that raises OSError: on every call, on
the first only, or from the third on. This is the only place where attributes of modules are replaced: it is not a mock
in a test but the fault itself, in a process that exists only for that. There are two more replacements, because the
hardware is missing: ``STAND_INS`` act as watchdog, loop and verity devices and group controllers; and the agent's own
programs run without an SELinux domain, as root.
"""

import array
import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from milkyway_agent.core.boot import BOOT
from milkyway_agent.launching import control_groups
from milkyway_agent.log.record import Record, describe
from milkyway_agent.pid1 import agent, boot_run, entry, program_table
from milkyway_agent.pid1.state import Ending, ServerState
from milkyway_agent.system import cgroups, reaper
from milkyway_formats.service import Restart, Service
from tests.fakes import namespaces
from tests.privileged.faults import fault_world
from tests.privileged.faults.fault_exercises import STEP_SECONDS, Exercises
from tests.privileged.faults.fault_injection import STAND_INS, Fault, stand_in

CONTROL = 3
ORDER_BYTES = 65536
INHERITED = "milkyway-inherited"
Facts = dict[str, Any]


def _shortened(line: str) -> str:
    return line if len(line) < 1200 else f"{line[:400]} … {line[-700:]}"  # the end of a traceback says most


class Records:
    """Everything that was logged, in order, for the test to read."""

    def __init__(self) -> None:
        self.all: list[Record] = []

    def write(self, records: Any) -> None:
        """Keep *records*."""
        self.all += records


class Subject(Exercises):
    """PID 1 itself, with one more task, which answers the test."""

    faults: dict[str, Fault] = {}  # noqa: RUF012 (a fault outlives an agent that fails, and the next)
    records = Records()
    lives = 0
    inherited = -1  # a descriptor of the earlier program

    def __init__(self, state: ServerState) -> None:
        super().__init__(state)
        if not Subject.lives:
            state.log.add_sink(self.records)
        Subject.lives += 1
        self.kept: list[str] = []
        self._to_spoil = ""
        self._spoilt = trio.Event()

    async def live(self) -> None:
        """Run as PID 1 does, and answer the test meanwhile."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._spoil, "live")
            await super().live()
            nursery.cancel_scope.cancel()

    def _keep(self, name: str, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Keep *task* running as the agent does; make it fail when the test asks for that."""

        async def spoilable() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._spoil, name)
                await task(*arguments)
                nursery.cancel_scope.cancel()

        self.kept.append(name)
        super()._keep(name, spoilable)

    async def _spoil(self, name: str) -> None:
        while True:
            await self._spoilt.wait()
            if self._to_spoil == name:
                self._to_spoil, self._spoilt = "", trio.Event()
                raise RuntimeError(f"spoilt {name}")
            await trio.sleep(0.01)

    async def _listen(self) -> None:
        async with trio.open_nursery() as nursery:
            control = trio.socket.from_stdlib_socket(socket.socket(fileno=os.dup(CONTROL)))
            while data := await control.recv(ORDER_BYTES):
                nursery.start_soon(self._answer, control, json.loads(data))

    async def _answer(self, control: trio.socket.SocketType, order: Facts) -> None:
        number, verb = order.pop("number"), order.pop("verb")
        try:
            facts = await getattr(self, f"on_{verb}")(**order)
        except Exception as error:  # noqa: BLE001 (reported to the test)
            facts = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        await control.send(json.dumps({"number": number, **(facts or {})}).encode())
        if self._to_spoil:
            self._spoilt.set()

    # --- orders ----------------------------------------------------------------------------------------------------------

    async def on_inject(self, function: str, fault: int, mode: str) -> Facts:
        """Make *function* fail from now on."""
        self.faults[function] = Fault(function, fault, mode)
        return {"records": len(self.records.all)}

    async def on_lift(self, function: str) -> Facts:
        """Make *function* work again; return how often it was called and failed."""
        fault = self.faults.pop(function)
        fault.lift()
        return {"calls": fault.calls, "failures": fault.failures}

    async def on_booted(self) -> Facts:
        """Wait until the boot is over."""
        while "ready" not in self.state.boot.finished_ms:  # noqa: ASYNC110 (on a server nothing waits for it)
            await trio.sleep(0.005)
        return {"outcomes": self.state.boot.outcomes, "failures": self.state.boot.failures(), "lives": Subject.lives}

    async def on_healed(self) -> Facts:
        """Wait a few seconds until what failed in the boot is done; return what is not."""
        with trio.move_on_after(STEP_SECONDS):
            while len(self.state.boot.outcomes) < len(BOOT) or "failed" in self.state.boot.outcomes.values():  # noqa: ASYNC110
                await trio.sleep(0.01)
        return {"failures": self.state.boot.failures()}

    async def on_records(self, since: int) -> Facts:
        """Return what was logged since."""
        return {"lines": [_shortened(describe(record)) for record in self.records.all[since:][-150:]], "lives": Subject.lives}

    async def on_start(self, name: str) -> Facts:
        """Start a plain service; wait until it is started or failed."""
        self.add_plain(name, Service(name=name, command=["/bin/sleep", "1000"], restart=Restart(delay_ms=10)))
        self.supervisor.start(name)
        await self.supervisor.wait_state(name, "started", "failed")
        return await self.on_service(name)

    async def on_service(self, name: str) -> Facts:
        """Return the state, pid and reason of a service."""
        status = self.supervisor.status_of(name)
        return {
            "state": status.state,
            "pid": status.pid,
            "alive": Path(f"/proc/{status.pid}").exists(),
            "reason": status.reason,
        }

    async def on_remove(self, name: str) -> Facts:
        """Stop a service and forget it; return whether a process or a group of it is left."""
        await self.supervisor.remove(name)
        return {"left": Path(program_table.GROUPS, name).exists()}

    async def on_left(self) -> Facts:
        """Return the processes in groups of removed services, and kill them."""
        there = self.supervisor.names()
        groups = [
            path for path in cgroups.children(program_table.GROUPS) if path.rpartition("/")[2].startswith(("probe-", "fresh"))
        ]
        left = {path: cgroups.processes(path) for path in groups if path.rpartition("/")[2] not in there}
        for path in left:
            cgroups.kill(path)
        return {"left": {path: found for path, found in left.items() if found}}

    async def on_zombies(self) -> Facts:
        """Return the zombies that are left after the grace period of orphans."""
        names: list[str] = []
        for _ in range(30):
            names = [process.name for process in reaper.zombies(os.getpid())]
            if not names:
                break
            await trio.sleep(0.1)
        return {"names": names}

    async def on_clear(self) -> None:
        """Stop and forget what exercises left behind."""
        for name in self.supervisor.names():
            if name.startswith("probe-"):
                await self.supervisor.remove(name)

    async def on_exercise(self, what: str) -> None:
        """Make PID 1 do what calls the failing function; it need not succeed."""
        await self.exercise(what)

    async def on_stand_in(self, what: str) -> None:
        """Replace hardware that is not there by stand-ins."""
        for function, answer in STAND_INS[what].items():
            stand_in(function, answer)

    async def on_spoil(self, task: str) -> None:
        """Make a task of PID 1 raise, or ("live") the whole agent."""
        assert task == "live" or task in self.kept, f"there is no task {task}"
        self._to_spoil = task

    async def on_kept(self) -> Facts:
        """Return the tasks that are kept running."""
        return {"tasks": self.kept}

    async def on_kill(self, name: str) -> Facts:
        """Kill the process of a service; return when another one runs."""
        pid = self.supervisor.status_of(name).pid
        os.kill(pid, signal.SIGKILL)
        await self.other_process(name, pid)
        return await self.on_service(name)

    async def on_end(self, ending: Ending) -> None:
        """Begin the shutdown."""
        self.state.end(ending)

    async def on_inherited(self) -> Facts:
        """Return whether the descriptor of the earlier program is still open."""
        path = f"/proc/self/fd/{self.inherited}"
        return {"open": os.path.lexists(path) and INHERITED in os.readlink(path)}

    async def on_api(self) -> Facts:
        """Ask the local API for the status; return the first line of its answer."""
        return {"answer": (await self.ask()).decode().partition("\r\n")[0]}


# --- a PID 1 for each order --------------------------------------------------------------------------------------------


def become_init(order: Facts) -> None:
    """Be PID 1 of the new namespaces, for ever.

    *order*: the faults from the first moment on, and the state that an earlier program has handed over, if any.
    """
    fault_world.enter(order["scratch"], order["launch"], order["console"])
    for name, program in program_table.PROGRAMS.items():
        program = program._replace(context="", user=0, capabilities=(), empty_network=False, limits=None)
        program_table.PROGRAMS[name] = program  # type: ignore[index]  # a Mapping to all others
    # These take minutes on a server that hangs, and would here.
    boot_run.PHASE_SECONDS = 2.0
    control_groups.EMPTY_SECONDS = 0.2
    agent.AGAIN_SECONDS = (0.2,) * 20
    for what in order["stand_ins"]:
        for function, answer in STAND_INS[what].items():
            stand_in(function, answer)
    for function, number, mode in order["faults"]:
        Subject.faults[function] = Fault(function, number, mode)
    adopted = -1
    if order["state"] is not None:
        adopted, Subject.inherited = os.memfd_create("milkyway-state"), os.memfd_create(INHERITED)
        os.write(adopted, order["state"].encode())
        for descriptor in (adopted, Subject.inherited):
            os.set_inheritable(descriptor, True)
    entry.run(0, Subject, adopted=adopted)


def accompany(order: Facts, status: int) -> None:
    """Make the namespaces and their init, wait for its end and report it through *status*; then undo everything."""
    with fault_world.hold_group(order["group"]):
        namespaces.unshare(fault_world.OWN)
        init = os.fork()
        if not init:
            try:
                become_init(order)
            except BaseException:  # noqa: BLE001 (the test reads it, and sees that PID 1 has ended)
                traceback.print_exc()
            finally:
                os._exit(99)
        _kill_at_hangup(init)
        _, code = os.waitpid(init, 0)
    fault_world.remove_groups(order["group"])
    os.write(status, str(code).encode())


def _kill_at_hangup(init: int) -> None:
    """Return when *init* has ended; it is killed when the test closes its control socket."""
    pidfd = os.pidfd_open(init)
    poll = select.poll()
    poll.register(CONTROL, 0)  # hang-ups are always reported
    poll.register(pidfd, select.POLLIN)
    if any(descriptor == CONTROL for descriptor, _ in poll.poll()):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def main() -> None:
    """Take orders until the socket is closed; each comes with a control socket, a status pipe and a console."""
    orders = socket.socket(fileno=CONTROL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, ancillary, _, _ = orders.recvmsg(ORDER_BYTES, socket.CMSG_SPACE(3 * 4))
        if not data:
            return
        received = array.array("i", ancillary[0][2])
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control, status, console = received
            orders.detach()
            os.dup2(control, CONTROL)
            for number in (1, 2):
                os.dup2(console, number)
            os.set_inheritable(CONTROL, False)
            try:
                accompany(json.loads(data), status)
            except BaseException:  # noqa: BLE001 (the test reads it)
                traceback.print_exc()
            finally:
                os._exit(0)
        for descriptor in received:
            os.close(descriptor)


if __name__ == "__main__":
    main()
