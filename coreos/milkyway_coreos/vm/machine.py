"""Development machines: QEMU, a disk, a console's log and a shell, each machine in ``build/vm/NAME``.

One process may start a machine and another find it again, by the file ``vm.json`` in its directory.
Several machines run side by side; each has its own ports on 127.0.0.1.
"""

import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from milkyway_coreos import tools
from milkyway_coreos.image.verity_image import Verity
from milkyway_coreos.vm import disk, qemu
from milkyway_coreos.vm.acceleration import kvm_works
from milkyway_coreos.vm.qemu import Forward, Setup
from milkyway_coreos.vm.shell import Executed, Shell
from milkyway_formats.errors import RefusedError, UnavailableError

MIB = 1024 * 1024
MACHINES = tools.PROJECT / "build/vm"
COREOS = tools.PROJECT / "build/coreos"
STATE = "vm.json"
POWER_OFF = "mwctl poweroff"
POWER_OFF_DEADLINE_S = 20
LOOK_EVERY_S = 0.05


class Options(NamedTuple):
    """How a machine is started."""

    disk_bytes: int = 2048 * MIB
    memory_mib: int = 1024
    guest_ports: Sequence[tuple[int, int]] = ()  # (port here or 0 for any, port there)
    secure_config: Path | None = None
    development: bool = True
    slot: str = "a"
    coreos: Path = COREOS
    kvm: bool | None = None  # None: if it is proved to work
    reboots: bool = True
    dies_with_owner: bool = False
    panic_s: int = 10
    root_hash: str | None = None  # instead of the image's: for tests of the refusal
    fresh: bool = False  # begin with an empty disk


class VirtualMachine:
    """The machine *name*, running or not."""

    def __init__(self, name: str, directory: Path = MACHINES) -> None:
        if not name.isidentifier() and not name.replace("-", "_").isidentifier():
            raise RefusedError(f"cannot use {name!r} as a machine's name: letters, digits, - and _ only")
        self.name = name
        self.directory = directory / name
        self._child: subprocess.Popen[bytes] | None = None

    # --- its state -------------------------------------------------------------------------------------------------

    @property
    def disk(self) -> Path:
        """Return the disk's image."""
        return self.directory / "disk.img"

    @property
    def state(self) -> dict[str, Any]:
        """Return what its last start recorded: pid, start, forwards, accelerator, command line; {} if there was none."""
        try:
            state: dict[str, Any] = json.loads((self.directory / STATE).read_text())
        except FileNotFoundError:
            return {}
        return state

    @property
    def forwards(self) -> dict[int, int]:
        """Return the port on 127.0.0.1 for each forwarded port of the machine."""
        return {forward["guest"]: forward["host"] for forward in self.state.get("forwards", [])}

    def is_running(self) -> bool:
        """Tell whether its process exists."""
        if self._child:
            return self._child.poll() is None
        state = self.state
        return bool(state) and _start_of(state["pid"]) == state["start"]

    def console(self) -> str:
        """Return what its serial console has printed since it was started."""
        try:
            return (self.directory / qemu.CONSOLE_LOG).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    # --- its life --------------------------------------------------------------------------------------------------

    def prepare(self, options: Options) -> None:
        """Make its disk, or bring it up to date: the slot's image and the secure configuration. Data stays."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if options.fresh:
            self.disk.unlink(missing_ok=True)
        if self.disk.exists() and self.disk.stat().st_size != options.disk_bytes:
            has, wanted = self.disk.stat().st_size // MIB, options.disk_bytes // MIB
            raise RefusedError(
                f"cannot start {self.name}: its disk has {has} MiB, not {wanted}",
                hint=f"remove it with: milkyway vm remove {self.name}",
            )
        if not self.disk.exists():
            disk.make(self.disk, options.disk_bytes, self.name)
        disk.install(self.disk, options.slot, _built(options.coreos / "root.img"))
        disk.configure(self.disk, options.secure_config, self.directory / disk.DATA_KEY)

    def start(self, options: Options | None = None, *, prepared: bool = False) -> None:
        """Start it and return at once. ``prepare`` is called first unless its disk is *prepared* already."""
        options = options or Options()
        if self.is_running():
            raise RefusedError(f"cannot start {self.name}: it is running", hint=f"stop it with: milkyway vm stop {self.name}")
        if not prepared:
            self.prepare(options)
        description = json.loads(_built(options.coreos / "coreos.json").read_text())
        verity = Verity(options.root_hash or description["root_hash"], description["salt"], description["data_blocks"])
        kvm = kvm_works(options.coreos) if options.kvm is None else options.kvm
        setup = Setup(
            kernel=_built(options.coreos / ("vmlinuz" if kvm else "vmlinux")).resolve(),
            initramfs=_built(options.coreos / "initramfs.img").resolve(),
            disk=self.disk.resolve(),
            command_line=qemu.command_line(options.slot, verity, development=options.development, panic_s=options.panic_s),
            memory_mib=options.memory_mib,
            forwards=[Forward(here or free_port(), there) for here, there in options.guest_ports],
            kvm=kvm,
            reboots=options.reboots,
        )
        for stale in (qemu.CONSOLE_SOCKET, qemu.SHELL_SOCKET, qemu.CONTROL_SOCKET, qemu.CONSOLE_LOG):
            (self.directory / stale).unlink(missing_ok=True)
        self._child = launch(setup, self.directory, dies_with_owner=options.dies_with_owner)
        self._record(setup, self._child.pid)
        self._until(lambda: (self.directory / qemu.CONTROL_SOCKET).exists(), "start it", 20)

    def _record(self, setup: Setup, pid: int) -> None:
        state = {
            "pid": pid,
            "start": _start_of(pid),
            "forwards": [forward._asdict() for forward in setup.forwards],
            "accelerator": "kvm" if setup.kvm else "tcg",
            "command_line": setup.command_line,
        }
        (self.directory / STATE).write_text(json.dumps(state, indent=1))

    def stop(self, *, deadline_s: float = POWER_OFF_DEADLINE_S) -> None:
        """Let the machine power itself off; kill its process if it is not off in time. Does nothing when it is off."""
        if not self.is_running():
            return
        try:
            self.execute(POWER_OFF, deadline_s=deadline_s / 2)
        except UnavailableError:
            self._press_power_button()
        if not self.wait_until_off(deadline_s):
            self.kill()

    def kill(self) -> None:
        """Kill its process, like a power cut. Does nothing when it is off."""
        if self._child:
            self._child.kill()
            self._child.wait()
        elif self.is_running():
            os.kill(self.state["pid"], signal.SIGKILL)
            self.wait_until_off(10)

    def remove(self) -> None:
        """Remove the machine and its disk. Raises RefusedError while it runs."""
        if self.is_running():
            raise RefusedError(f"cannot remove {self.name}: it is running", hint=f"stop it with: milkyway vm stop {self.name}")
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def wait_until_off(self, deadline_s: float) -> bool:
        """Wait for its process to end; return whether it has."""
        until = time.monotonic() + deadline_s
        while self.is_running() and time.monotonic() < until:
            self._look_again()
        return not self.is_running()

    # --- talking to it ---------------------------------------------------------------------------------------------

    def wait_for_console(self, text: str, deadline_s: float = 60) -> str:
        """Wait until the serial console shows *text* and return its whole output. Raises UnavailableError at the deadline."""
        self._until(lambda: text in self.console(), f"see {text!r} on its console", deadline_s)
        return self.console()

    def execute(self, command: str | Sequence[str], *, stdin: bytes = b"", deadline_s: float = 60) -> Executed:
        """Run *command* (a line for ``sh``, or words) in the machine's development shell and return its result."""
        text = command if isinstance(command, str) else shlex.join(command)
        with self.connection(qemu.SHELL_SOCKET) as connection:
            return Shell(connection).execute(text, stdin=stdin, deadline_s=deadline_s)

    @contextmanager
    def connection(self, name: str) -> Iterator[socket.socket]:
        """Return a connection to the machine's socket *name*; QEMU serves only one client at a time on each."""
        if not self.is_running():
            raise UnavailableError(f"cannot reach {self.name}: it is not running", hint=f"milkyway vm run {self.name}")
        directory = os.open(self.directory, os.O_PATH | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(10)
                # Through /proc: a socket's path may have at most 107 bytes, and our directory may be anywhere.
                connection.connect(f"/proc/self/fd/{directory}/{name}")
                yield connection
        except OSError as error:
            raise UnavailableError(f"cannot reach {self.name}: {name}: {error}") from error
        finally:
            os.close(directory)

    def _press_power_button(self) -> None:
        try:
            with self.connection(qemu.CONTROL_SOCKET) as control:
                for question in ("qmp_capabilities", "system_powerdown"):
                    control.sendall(json.dumps({"execute": question}).encode())
                    control.recv(4096)
        except UnavailableError:
            return  # it is ending already

    def _until(self, done: Callable[[], bool], what: str, deadline_s: float) -> None:
        until = time.monotonic() + deadline_s
        while not done():
            if not self.is_running():
                if done():
                    return
                raise UnavailableError(f"cannot {what}: {self.name} has ended", hint=self._last_words())
            if time.monotonic() > until:
                raise UnavailableError(f"cannot {what}: nothing within {deadline_s:.0f} s", hint=self._last_words())
            self._look_again()

    def _look_again(self) -> None:
        """Wait a moment, or until the process has ended."""
        try:
            process = os.pidfd_open(self.state["pid"])
        except ProcessLookupError:
            return
        try:
            select.select([process], [], [], LOOK_EVERY_S)
        finally:
            os.close(process)

    def _last_words(self) -> str:
        errors = self.directory / "qemu.log"
        said = self.console() or (errors.read_text(errors="replace") if errors.exists() else "")
        return "\n".join(said.splitlines()[-6:])


def launch(setup: Setup, directory: Path, *, dies_with_owner: bool) -> subprocess.Popen[bytes]:
    """Start QEMU with *setup* in *directory*."""
    tree = tools.tools_tree()
    share = tree.root / "usr/share"
    command = tree.command("qemu-system-x86_64", "-L", share / "qemu", "-L", share / "seabios", *qemu.arguments(setup))
    if dies_with_owner:
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    environment = {**os.environ, "QEMU_MODULE_DIR": str(tree.root / "usr/lib/x86_64-linux-gnu/qemu")}
    with (directory / "qemu.log").open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, env=environment, start_new_session=True
        )


def machines(directory: Path = MACHINES) -> list[VirtualMachine]:
    """Return every machine that has a directory, sorted by name."""
    return [VirtualMachine(path.parent.name, directory) for path in sorted(directory.glob(f"*/{STATE}"))]


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _built(path: Path) -> Path:
    if not path.exists():
        raise UnavailableError(f"cannot start a machine: {path.name} is not built", hint="run: milkyway coreos build")
    return path


def _start_of(pid: int) -> int | None:
    """Return when process *pid* started (ticks since boot), which tells it from a later one; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
