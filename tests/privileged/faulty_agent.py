"""A real PID 1 whose kernel fails at will: a fault injector in a program of its own.

Started with a socket as descriptor 3, it waits for orders, and for each it makes one new PID 1: the init of a pid
namespace, in mount, control group, network and IPC namespaces of its own (``fault_world``). There ``pid1.run`` boots
as on a server. What needs SELinux, dm-verity or a disk finds files that look like them, or fails and is reported.

One function of ``milkyway_agent.system`` at a time is replaced by a proxy that raises OSError: on every call, on
the first alone, or from the third on. This is the one place where attributes of modules are replaced: it is no mock
inside a test but the fault itself, in a process that lives for it and no longer. Two more replacements go with it, because
the hardware is not there: ``STAND_INS`` answer for a watchdog, loop and verity devices and group controllers; and
the agent's own programs run without an SELinux domain, as root.
"""

import array
import errno
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import trio

from milkyway_agent import boot_run, direct, launcher, pid1, programs, starter
from milkyway_agent.core.boot import BOOT
from milkyway_agent.core.effects import HoldData, LoadInstance, OpenLayer
from milkyway_agent.data_plane import DataPlane
from milkyway_agent.executor import Executor, LayerPlane
from milkyway_agent.log import Log
from milkyway_agent.log_record import Record, describe
from milkyway_agent.policy_plane import PolicyPlane
from milkyway_agent.starter import Launched, Program
from milkyway_agent.supervisor import Definition
from milkyway_agent.system import cgroups, mounts, namespaces, reaper
from milkyway_formats.deployment import DataBinding
from milkyway_formats.errors import MilkyWayError
from milkyway_formats.listener import Listener, Tcp, UnixStream
from milkyway_formats.manifest import Image
from milkyway_formats.policy_shared import Placed
from milkyway_formats.service import Limits, ReadyByExit, ReadyByNotify, ReadyByTcp, Restart, Service, Stop
from milkyway_formats.timer import Timer
from tests.privileged import fault_world

CONTROL = 3
ORDER_BYTES = 65536
STEP_SECONDS = 3.0  # how long one step of an exercise waits for a service that a fault may keep from its end

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

Facts = dict[str, Any]


def find(function: str) -> tuple[Any, str]:
    """Return the module and the name of *function* ("cgroups.kill")."""
    module, _, name = function.partition(".")
    return import_module(f"milkyway_agent.system.{module}"), name


class Fault:
    """One function that fails: "always", "once" (the first call), or from the "third" call on."""

    def __init__(self, function: str, number: int, mode: str) -> None:
        self.calls = self.failures = 0
        self._number = number
        self._mode = mode
        self._module, self._name = find(function)
        self._real = getattr(self._module, self._name)
        setattr(self._module, self._name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if {"always": True, "once": self.calls == 1, "third": self.calls >= 3}[self._mode]:
            self.failures += 1
            raise OSError(self._number, os.strerror(self._number), "injected")
        return self._real(*arguments, **named)

    def lift(self) -> None:
        """Let the function do what it does."""
        setattr(self._module, self._name, self._real)


def _stand_in(function: str, answer: Callable[..., Any]) -> None:
    module, name = find(function)
    setattr(module, name, answer)


def _label_of(path: str) -> str:
    """Return the label of *path*: with SELinux every file has one, here only what was labelled."""
    try:
        return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()
    except OSError as error:
        if error.errno == errno.ENODATA:
            return ""
        raise


_real_mount = mounts.mount


def _mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount what this kernel has; of a disk or of SELinux something is mounted already (``fault_world``)."""
    if fstype not in ("erofs", "btrfs", "selinuxfs"):
        _real_mount(source, target, fstype, flags, data)


def _mount_no_image(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount what this kernel has; the image of a layer is damaged."""
    if target.startswith("/run/milkyway/layers/"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), target)
    _mount(source, target, fstype, flags, data)


STAND_INS: dict[str, dict[str, Callable[..., Any]]] = {
    "labels": {"selinux.getfilecon": _label_of, "selinux.setfscreatecon": lambda _: None},
    "disks": {"mounts.mount": _mount},
    "watchdog": {
        "watchdog.set_timeout": lambda _, seconds: 3 if seconds else 0,  # fed every second
        "watchdog.keepalive": lambda _: None,
    },
    "no_image": {"mounts.mount": _mount_no_image},
    "controllers": {
        "cgroups.controllers": lambda _: ["memory", "pids", "cpu"],
        "cgroups.set_memory_max": lambda *_: None,
        "cgroups.set_pids_max": lambda *_: None,
        "cgroups.set_cpu_weight": lambda *_: None,
        "cgroups.enable": lambda *_: None,
    },
    "layers": {
        "verity.status": lambda _: None,
        "verity.create": lambda _: None,
        "verity.load": lambda *_: None,
        "verity.resume": lambda _: "/dev/dm-0",
        "verity.remove": lambda *_, **__: None,
        "loop.get_free": lambda: 0,
        "loop.configure": lambda *_: ("/dev/loop0", os.open("/dev/null", os.O_RDONLY)),
    },
}


def _shortened(line: str) -> str:
    return line if len(line) < 1200 else f"{line[:400]} … {line[-700:]}"  # a traceback's end is what says most


class Records:
    """Everything that was noted, in order: what the test reads."""

    def __init__(self) -> None:
        self.all: list[Record] = []

    def write(self, records: Any) -> None:
        """Keep *records*."""
        self.all += records


class Subject(pid1.Agent):
    """PID 1 itself, with one task more, that answers the test."""

    faults: dict[str, Fault] = {}  # noqa: RUF012 (a fault outlives an agent that fails, and its successor)
    records = Records()
    lives = 0

    def __init__(self, log: Log, born_ms: int, before: pid1.Agent | None = None) -> None:
        super().__init__(log, born_ms, before)
        if not Subject.lives:
            log.add_sink(self.records)
        Subject.lives += 1
        self._numbers = count()
        self.kept: list[str] = []
        self._to_spoil = ""
        self._spoilt = trio.Event()
        self._launching: direct.Launching | None = None

    async def live(self) -> None:
        """Live as PID 1 does, and answer the test meanwhile."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._spoil, "live")
            await super().live()
            nursery.cancel_scope.cancel()

    def _keep(self, name: str, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Keep *task* as the agent does; it fails when the test says so."""

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
        except Exception as error:  # noqa: BLE001 (told to the test)
            facts = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        await control.send(json.dumps({"number": number, **(facts or {})}).encode())
        if self._to_spoil:
            self._spoilt.set()

    # --- orders ----------------------------------------------------------------------------------------------------------

    async def on_inject(self, function: str, fault: int, mode: str) -> Facts:
        """Have *function* fail from now on."""
        self.faults[function] = Fault(function, fault, mode)
        return {"records": len(self.records.all)}

    async def on_lift(self, function: str) -> Facts:
        """Have *function* work again; say how often it was called and failed."""
        fault = self.faults.pop(function)
        fault.lift()
        return {"calls": fault.calls, "failures": fault.failures}

    async def on_booted(self) -> Facts:
        """Wait until the boot is over."""
        while "ready" not in self.boot.finished_ms:  # noqa: ASYNC110 (nobody waits for it on a server)
            await trio.sleep(0.005)
        return {"outcomes": self.boot.outcomes, "reasons": self.boot.reasons, "lives": Subject.lives}

    async def on_healed(self) -> Facts:
        """Wait until what failed in the boot is done after all; return what is not in a few seconds."""
        with trio.move_on_after(STEP_SECONDS):
            while len(self.boot.outcomes) < len(BOOT) or "failed" in self.boot.outcomes.values():  # noqa: ASYNC110
                await trio.sleep(0.01)
        return {"failures": self.boot.failures()}

    async def on_records(self, since: int) -> Facts:
        """Return what was noted since."""
        return {"lines": [_shortened(describe(one)) for one in self.records.all[since:][-150:]], "lives": Subject.lives}

    async def on_start(self, name: str) -> Facts:
        """Start a plain service; wait until it is started or failed."""
        self._add(name, Service(name=name, command=["/bin/sleep", "1000"], restart=Restart(delay_ms=10)))
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
        """Stop a service and forget it; say whether a process or a group of it is left."""
        await self.supervisor.remove(name)
        return {"left": Path(programs.GROUPS, name).exists()}

    async def on_left(self) -> Facts:
        """Return the processes in groups of services that are no more, and kill them."""
        there = self.supervisor.names()
        groups = [path for path in cgroups.children(programs.GROUPS) if path.rpartition("/")[2].startswith(("probe-", "fresh"))]
        left = {path: cgroups.processes(path) for path in groups if path.rpartition("/")[2] not in there}
        for path in left:
            cgroups.kill(path)
        return {"left": {path: found for path, found in left.items() if found}}

    async def on_zombies(self) -> Facts:
        """Return the children that nobody reaps, once orphans have had their grace."""
        names: list[str] = []
        for _ in range(30):
            names = [one.name for one in reaper.zombies(os.getpid())]
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
        """Have PID 1 do what calls the function at fault; nothing of it need succeed."""
        await getattr(self, f"do_{what}")()

    async def on_stand_in(self, what: str) -> None:
        """Put stand-ins in the place of hardware that is not there."""
        for function, answer in STAND_INS[what].items():
            _stand_in(function, answer)

    async def on_spoil(self, task: str) -> None:
        """Have a task of PID 1 raise, or ("live") the agent as a whole."""
        assert task == "live" or task in self.kept, f"there is no task {task}"
        self._to_spoil = task

    async def on_kept(self) -> Facts:
        """Return the tasks that are kept."""
        return {"tasks": self.kept}

    async def on_kill(self, name: str) -> Facts:
        """Kill the process of a service; return when another one runs."""
        pid = self.supervisor.status_of(name).pid
        os.kill(pid, signal.SIGKILL)
        await self._other_process(name, pid)
        return await self.on_service(name)

    async def on_end(self, ending: pid1.Ending) -> None:
        """Begin the way down."""
        self.end(ending)

    # --- exercises -------------------------------------------------------------------------------------------------------

    def _add(self, name: str, service: Service, **program: Any) -> None:
        program_of = Program(tuple(service.command), environment=service.environment, limits=service.limits, **program)
        self.supervisor.add(Definition(name, service, Launched(program_of, f"{programs.GROUPS}/{name}", self.reaper)))

    def _add_direct(self, name: str, service: Service) -> None:
        """Supervise a service that is started by the waiting launcher, as those of ``--supervise`` are."""
        if self._launching is None:
            self._launching = direct.Launching(launcher.Launcher(), self.supervisor.watch, self.reaper)
        places = direct.Places(programs.GROUPS, Path("/run/milkyway"))
        self.supervisor.add(Definition(name, service, direct.Direct(name, service, self._launching, places)))

    def _name(self) -> str:
        return f"probe-{next(self._numbers)}"

    async def _try(self, step: Callable[..., Awaitable[object]], *arguments: object) -> None:
        with trio.move_on_after(STEP_SECONDS):
            try:
                await step(*arguments)
            except (MilkyWayError, OSError) as error:
                self.log.note("exercise_refused", why=str(error))

    async def _live_through(self, name: str) -> None:
        """Start a service, kill its process, see it start again, and stop it, as far as that goes."""
        self.supervisor.start(name)
        await self._try(self.supervisor.wait_state, name, "started", "failed")
        before = self.supervisor.status_of(name)
        if before.pid:
            os.kill(before.pid, signal.SIGKILL)
            await self._try(self._other_process, name, before.pid)
        await self._try(self.supervisor.stop, name)

    async def _other_process(self, name: str, before: int) -> None:
        """Wait until the service is started with another process, or failed."""
        while (status := self.supervisor.status_of(name)).pid in (before, 0) and status.state != "failed":  # noqa: ASYNC110
            await trio.sleep(0.005)
        await self.supervisor.wait_state(name, "started", "failed")

    async def do_life(self) -> None:
        """A service that says when it is ready lives, dies, is started again and stopped; one leaves a child behind."""
        name = self._name()
        again = Restart(delay_ms=10, start_limit=3)
        command = [sys.executable, "-IS", "-c", NOTIFIES]
        limits = Limits(memory_bytes=1 << 30, pids=100)
        self._add(
            name,
            Service(name=name, command=command, readiness=ReadyByNotify(), restart=again, limits=limits, ready_timeout_ms=1000),
        )
        await self._live_through(name)

    async def do_stubborn(self) -> None:
        """A service that does not heed its stop signal and leaves children is killed with all that it has."""
        name = self._name()
        script = "trap '' TERM; sleep 1000 & while :; do sleep 1000; done"
        self._add(name, Service(name=name, command=["/bin/sh", "-c", script], stop=Stop(timeout_ms=20)))
        await self._live_through(name)

    async def do_port(self) -> None:
        """A service is ready when it listens."""
        name = self._name()
        command = [sys.executable, "-IS", "-c", LISTENS]
        self._add(name, Service(name=name, command=command, readiness=ReadyByTcp(port=4711), ready_timeout_ms=1000))
        await self._live_through(name)

    async def do_orphan(self) -> None:
        """A child that nobody knows ends: it is reaped after its grace."""
        pid = os.posix_spawn("/bin/true", ["true"], {})  # noqa: ASYNC221 (it does not wait)
        for _ in range(15):
            await trio.sleep(0.1)
            if not Path(f"/proc/{pid}").exists():
                return

    async def do_listeners(self) -> None:
        """A service with listeners and a timer is armed, served, and stopped again."""
        name = self._name()
        listeners = [
            Listener(name="web", address=Tcp(address="127.0.0.1", port=4712), start="on-demand"),
            Listener(name="unix", address=UnixStream(path=SOCKET, mode=0o666), start="on-demand"),
            Listener(name="each", address=Tcp(address="127.0.0.1", port=4713), accept=True),
        ]
        service = Service(
            name=name,
            command=["/bin/sleep", "1000"],
            listeners=listeners,
            timers=[Timer(calendar=["*-*-* 00:00:00"])],
            restart=Restart(delay_ms=10, start_limit=3),
        )
        self._add_direct(name, service)
        self.supervisor.start(name)
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
        Path(SOCKET).unlink(missing_ok=True)

    async def do_stale_socket(self) -> None:
        """A listener's socket is there already, and nobody has it open."""
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(SOCKET)
        stale.close()
        await self.do_listeners()

    async def do_timer(self) -> None:
        """A timer of the calendar starts a service at the next second."""
        name = self._name()
        service = Service(
            name=name, command=["/bin/true"], type="oneshot", readiness=ReadyByExit(), timers=[Timer(calendar=["*-*-* *:*:*"])]
        )
        self._add_direct(name, service)
        self.supervisor.start(name)
        with trio.move_on_after(1.2):
            await self.supervisor.wait_state(name, "started", "failed")

    async def do_survivor(self) -> None:
        """Something of a service survives SIGKILL, as it seems, for longer than is waited."""
        populated, cgroups.is_populated = cgroups.is_populated, lambda path: bool(path)
        try:
            await self.do_stubborn()
        finally:
            cgroups.is_populated = populated

    async def do_other_speaks(self) -> None:
        """A child of the service says that it is ready."""
        name = self._name()
        command = ["/bin/sh", "-c", f"{sys.executable} -IS -c '{NOTIFIES}' & wait"]
        self._add(name, Service(name=name, command=command, readiness=ReadyByNotify(), ready_timeout_ms=200))
        await self._live_through(name)

    async def do_figures(self) -> None:
        """Somebody asks what services use."""
        await self._try(self._machine.view.top)

    async def do_policy(self) -> None:
        """A policy without a deployment's instance is loaded, as when it is taken down."""
        effect = LoadInstance("web_k3v9", 1, "0" * 64)
        plane = PolicyPlane(self.link, self._programs_(), lambda _: Path("/dev/null"))
        plane._instances[effect.key] = (Placed("web_k3v9", 1, (), ()), b"")
        executor = Executor({LoadInstance: plane}, self.log)
        executor.present = (effect,)
        await self._try(executor.converge, ())

    async def do_api(self) -> None:
        """Somebody asks the local API."""
        await self._try(self._ask)

    async def _ask(self) -> bytes:
        answer = bytearray()
        async with await trio.open_unix_socket("/run/milkyway/mwctl.sock") as stream:
            await stream.send_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            async for data in stream:
                answer += data
        return bytes(answer)

    async def on_api(self) -> Facts:
        """Ask the local API for the status; return the first line of its answer."""
        return {"answer": (await self._ask()).decode().partition("\r\n")[0]}

    async def do_layer(self) -> None:
        """A layer is opened and closed, and a data source made, by the executor as for a deployment."""
        image = Image(root_hash="0" * 64, salt="0" * 64, data_blocks=8, hash_blocks=1)
        sha256 = f"{next(self._numbers):064x}"
        effect = OpenLayer(sha256=sha256, path="web", version="1", image=image)
        plane = LayerPlane(lambda _: Path("/usr/lib/milkyway/launch"), selinux=True)
        source = f"source{next(self._numbers)}"
        held = HoldData("web_k3v9", DataBinding(name="data", source=source, data_class="secure"), 1000)
        data = DataPlane(Path("/data"), selinux=True)
        await self._try(Executor({OpenLayer: plane}, self.log).converge, (effect,))
        await self._try(plane.undo, effect)
        await self._try(Executor({HoldData: data}, self.log).converge, (held,))
        await self._try(data.do, held)

    async def do_nothing(self) -> None:
        """Wait until what happens by itself has happened: the watchdog is fed every second."""
        await trio.sleep(1.1)


# --- one PID 1 for each order ------------------------------------------------------------------------------------------


def become_init(order: Facts) -> None:
    """Be PID 1 of the new namespaces, for ever. *order*: the faults that are there from the first moment on."""
    fault_world.enter(order["scratch"], order["launch"], order["console"])
    for name, program in programs.PROGRAMS.items():
        program = program._replace(context="", user=0, capabilities=(), empty_network=False, limits=None)
        programs.PROGRAMS[name] = program  # type: ignore[index]  # a Mapping to all others
    # What takes minutes on a server that is stuck would take as long here.
    boot_run.PHASE_SECONDS = 2.0
    starter.EMPTY_SECONDS = 0.2
    pid1.AGAIN_SECONDS = (0.2,) * 20
    for what in order["stand_ins"]:
        for function, answer in STAND_INS[what].items():
            _stand_in(function, answer)
    for function, number, mode in order["faults"]:
        Subject.faults[function] = Fault(function, number, mode)
    pid1.run(0, Subject)


def accompany(order: Facts, status: int) -> None:
    """Make the namespaces and their init, wait for its end and tell it through *status*; then take everything back."""
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
    """Return when *init* has ended; it is killed when the test lets go of its control socket."""
    pidfd = os.pidfd_open(init)
    poll = select.poll()
    poll.register(CONTROL, 0)  # a hang-up is reported unasked
    poll.register(pidfd, select.POLLIN)
    if any(descriptor == CONTROL for descriptor, _ in poll.poll()):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def main() -> None:
    """Take orders until the socket is closed: each comes with the ends of a control socket, a status pipe, a console."""
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
