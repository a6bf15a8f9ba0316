"""``milkyway vm``: development machines that boot the built CoreOS."""

import json
import os
import re
import select
import signal
import socket
import sys
import termios
import tty
from pathlib import Path
from types import FrameType

import click

from milkyway_coreos.vm import qemu
from milkyway_coreos.vm.machine import MIB, Options, VirtualMachine, machines
from milkyway_formats.errors import UnavailableError

LEAVE = b"\x1d"  # Ctrl-]
NAME = click.argument("name", default="dev")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
UNITS = {"": 1, "K": 1024, "M": MIB, "G": 1024 * MIB}


class SizeType(click.ParamType[int]):
    """A number of bytes: 2G, 512M."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return *value* in bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,9})([KMG]?)", value)
        if not found:
            self.fail(f"{value!r} is not a size such as 2G or 512M", param, ctx)
        return int(found[1]) * UNITS[found[2]]


class ForwardType(click.ParamType[tuple[int, int]]):
    """HOST:GUEST, two ports; a HOST of 0 takes any free port."""

    name = "host:guest"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return the two ports."""
        here, _, there = value.partition(":")
        if not (here.isdecimal() and there.isdecimal() and int(here) < 65536 and 0 < int(there) < 65536):
            self.fail(f"{value!r} is not a pair of ports such as 8080:80", param, ctx)
        return int(here), int(there)


@click.group()
def vm() -> None:
    """Run development machines.

    Example: milkyway vm run web --forward 8080:80 && milkyway vm exec web -- mwctl status
    """


@vm.command()
@NAME
@click.option("--disk-size", type=SizeType(), default="2G", show_default=True, help="Size of a new disk.")
@click.option("--memory", type=click.IntRange(256, 65536), default=1024, show_default=True, help="MiB of memory.")
@click.option(
    "--forward", "forwards", type=ForwardType(), multiple=True, help="Forward port HOST of 127.0.0.1 to its port GUEST."
)
@click.option(
    "--secure-config",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory with owner-root.json and machine.json.",
)
@click.option("--production", is_flag=True, help="Boot like a production server, without a shell on the console.")
@click.option("--slot", type=click.Choice(["a", "b"]), default="a", show_default=True, help="The slot to write and boot.")
@click.option("--fresh", is_flag=True, help="Begin with a new disk.")
@click.option("--no-reboot", is_flag=True, help="End instead of rebooting.")
@click.option("--wait", is_flag=True, help="Wait until its shell answers.")
@click.option("--foreground", is_flag=True, help="Stay, show the serial console, and stop the machine when interrupted.")
@AS_JSON
def run(
    name: str,
    disk_size: int,
    memory: int,
    forwards: tuple[tuple[int, int], ...],
    secure_config: Path | None,
    production: bool,
    slot: str,
    fresh: bool,
    no_reboot: bool,
    wait: bool,
    foreground: bool,
    as_json: bool,
) -> None:
    """Boot machine NAME (default: dev) from build/coreos; a new name makes a new machine.

    Example: milkyway vm run web --forward 8080:80 --wait
    """
    machine = VirtualMachine(name)
    options = Options(
        disk_bytes=disk_size,
        memory_mib=memory,
        guest_ports=forwards,
        secure_config=secure_config,
        development=not production,
        slot=slot,
        reboots=not no_reboot,
        dies_with_owner=foreground,
        fresh=fresh,
    )
    machine.start(options)
    if wait:
        machine.execute("true", deadline_s=120)
    _show(machine, as_json)
    if foreground:
        _stay(machine)


@vm.command()
@NAME
@click.option("--now", is_flag=True, help="At once, like a power cut.")
def stop(name: str, now: bool) -> None:
    """Shut machine NAME down in order, or end it if that takes too long.

    Example: milkyway vm stop web
    """
    machine = VirtualMachine(name)
    if now:
        machine.kill()
    else:
        machine.stop()


@vm.command()
@NAME
def remove(name: str) -> None:
    """Remove machine NAME with its disk.

    Example: milkyway vm remove web
    """
    VirtualMachine(name).remove()


@vm.command("list")
@AS_JSON
def list_machines(as_json: bool) -> None:
    """List the machines that were started here.

    Example: milkyway vm list
    """
    known = machines()
    if as_json:
        click.echo(json.dumps([_description(machine) for machine in known], indent=1))
        return
    for machine in known:
        ports = ", ".join(f"127.0.0.1:{host} → {guest}" for guest, host in machine.forwards.items())
        click.echo(f"{machine.name:16} {'running' if machine.is_running() else 'off':8} {ports}")


@vm.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--deadline", type=click.IntRange(1, 86400), default=60, show_default=True, help="Seconds until giving up.")
def execute(name: str, command: tuple[str, ...], deadline: int) -> None:
    """Run COMMAND in machine NAME's development shell; end with its exit code.

    Example: milkyway vm exec web -- mwctl status
    """
    stdin = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    executed = VirtualMachine(name).execute(command[0] if len(command) == 1 else command, stdin=stdin, deadline_s=deadline)
    sys.stdout.buffer.write(executed.stdout)
    sys.stderr.buffer.write(executed.stderr)
    sys.exit(executed.code)


@vm.command()
@NAME
@click.option("--serial", is_flag=True, help="Connect to the kernel's console instead.")
def console(name: str, serial: bool) -> None:
    """Connect this terminal to machine NAME's shell; Ctrl-] leaves.

    Example: milkyway vm console web
    """
    machine = VirtualMachine(name)
    with machine.connection(qemu.CONSOLE_SOCKET if serial else qemu.SHELL_SOCKET) as connection:
        connection.settimeout(None)
        if not serial:
            connection.sendall(b"\nstty sane; PS1='# '\n")
        click.echo(f"{name}: Ctrl-] leaves", err=True)
        _connect_terminal(connection)


def _connect_terminal(connection: socket.socket) -> None:
    """Carry bytes between this terminal and *connection* until Ctrl-] or the machine's end."""
    keys, screen = sys.stdin.fileno(), sys.stdout.fileno()
    before = termios.tcgetattr(keys) if os.isatty(keys) else None
    try:
        if before:
            tty.setraw(keys)
        while True:
            ready, _, _ = select.select([keys, connection], [], [])
            if connection in ready:
                data = connection.recv(65536)
                if not data:
                    return
                os.write(screen, data)
            if keys in ready:
                typed = os.read(keys, 4096)
                if not typed or LEAVE in typed:
                    return
                connection.sendall(typed)
    finally:
        if before:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)


def _stay(machine: VirtualMachine) -> None:
    """Show the serial console until the machine ends, or stop the machine on Ctrl-C or SIGTERM."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's signature)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    try:
        shown = 0
        while True:
            said = machine.console()
            click.echo(said[shown:], nl=False, err=True)
            shown = len(said)
            if machine.wait_until_off(0.2):
                return
    except KeyboardInterrupt:
        machine.stop()
    except UnavailableError:
        return


def _description(machine: VirtualMachine) -> dict[str, object]:
    state = machine.state
    return {
        "name": machine.name,
        "running": machine.is_running(),
        "pid": state.get("pid"),
        "accelerator": state.get("accelerator"),
        "forwards": state.get("forwards", []),
        "directory": str(machine.directory),
        "console_log": str(machine.directory / qemu.CONSOLE_LOG),
    }


def _show(machine: VirtualMachine, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_description(machine), indent=1))
        return
    click.echo(f"{machine.name} is booting ({machine.state['accelerator']}); its console is in {machine.directory}/console.log")
    for guest, host in machine.forwards.items():
        click.echo(f"  127.0.0.1:{host} leads to its port {guest}")
    click.echo(f"  shell: milkyway vm console {machine.name}    off: milkyway vm stop {machine.name}")
