"""QEMU's command line for a development machine. Pure.

Under emulation (TCG) the kernel is booted as ELF image, which saves its decompression; under KVM as it is shipped.
Paths of sockets are relative to the machine's directory: a Unix socket's path may have 107 bytes only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CONSOLE_SOCKET, CONSOLE_LOG, SHELL_SOCKET, CONTROL_SOCKET = "console.sock", "console.log", "shell.sock", "control.sock"


class Forward(NamedTuple):
    """A port of the workstation (on 127.0.0.1) that leads to a port of the machine."""

    host: int
    guest: int


class Verity(NamedTuple):
    """What the command line says of the root image."""

    root_hash: str
    salt: str
    blocks: int


class Machine(NamedTuple):
    """What is booted, and on what."""

    kernel: Path
    initramfs: Path
    disk: Path
    command_line: str
    memory_mib: int
    forwards: Sequence[Forward]
    kvm: bool
    reboots: bool


def command_line(slot: str, verity: Verity, *, development: bool, panic_s: int = 10) -> str:
    """Return the kernel's command line."""
    words = [
        "console=ttyS0", "security=selinux", f"panic={panic_s}", f"milkyway.slot={slot}",
        f"milkyway.roothash={verity.root_hash}", f"milkyway.salt={verity.salt}", f"milkyway.blocks={verity.blocks}",
    ]  # fmt: skip
    return " ".join([*words, "milkyway.development=1"] if development else words)


def arguments(machine: Machine) -> list[str]:
    """Return QEMU's arguments for *machine*, to be started in the machine's directory."""
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:{forward.host}-:{forward.guest}" for forward in machine.forwards)
    processor = ["-accel", "kvm", "-cpu", "host"] if machine.kvm else ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]
    return [
        "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", *processor,
        "-smp", "2", "-m", str(machine.memory_mib),
        "-kernel", str(machine.kernel), "-initrd", str(machine.initramfs), "-append", machine.command_line,
        "-drive", f"file={escaped(machine.disk)},format=raw,if=none,id=disk,cache=unsafe,aio=threads,discard=unmap",
        "-device", "virtio-blk-pci,drive=disk",
        "-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net,romfile=",
        "-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random",
        "-chardev", f"socket,id=console,path={CONSOLE_SOCKET},server=on,wait=off,logfile={CONSOLE_LOG},logappend=off",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=shell,path={SHELL_SOCKET},server=on,wait=off",
        "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=shell",
        "-chardev", f"socket,id=control,path={CONTROL_SOCKET},server=on,wait=off", "-mon", "chardev=control,mode=control",
        "-device", "i6300esb", "-action", "watchdog=reset",
        *([] if machine.reboots else ["-no-reboot"]),
    ]  # fmt: skip


def escaped(path: Path) -> str:
    """Return *path* for an option whose values end at a comma."""
    return str(path).replace(",", ",,")
