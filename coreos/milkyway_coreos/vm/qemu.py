"""QEMU's command line for a development machine. Pure.

Under emulation (TCG) the kernel is booted as an ELF image, which saves decompressing it; under KVM as it is shipped.
Paths of sockets are relative to the machine's directory: a Unix socket's path may have at most 107 bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from milkyway_coreos.image.verity_image import Verity

CONSOLE_SOCKET, CONSOLE_LOG, SHELL_SOCKET, CONTROL_SOCKET = "console.sock", "console.log", "shell.sock", "control.sock"


class Forward(NamedTuple):
    """A port of the workstation (on 127.0.0.1) that leads to a port of the machine."""

    host: int
    guest: int


class Setup(NamedTuple):
    """What is booted, and on which hardware."""

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


def arguments(setup: Setup) -> list[str]:
    """Return QEMU's arguments for *setup*, to be started in the machine's directory."""
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:{forward.host}-:{forward.guest}" for forward in setup.forwards)
    processor = ["-accel", "kvm", "-cpu", "host"] if setup.kvm else ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]
    return [
        "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", *processor,
        "-smp", "2", "-m", str(setup.memory_mib),
        "-kernel", str(setup.kernel), "-initrd", str(setup.initramfs), "-append", setup.command_line,
        "-drive", f"file={escaped(setup.disk)},format=raw,if=none,id=disk,cache=unsafe,aio=threads,discard=unmap",
        "-device", "virtio-blk-pci,drive=disk",
        "-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net,romfile=",
        "-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random",
        "-chardev", f"socket,id=console,path={CONSOLE_SOCKET},server=on,wait=off,logfile={CONSOLE_LOG},logappend=off",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=shell,path={SHELL_SOCKET},server=on,wait=off",
        "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=shell",
        "-chardev", f"socket,id=control,path={CONTROL_SOCKET},server=on,wait=off", "-mon", "chardev=control,mode=control",
        "-device", "i6300esb", "-action", "watchdog=reset",
        *([] if setup.reboots else ["-no-reboot"]),
    ]  # fmt: skip


def escaped(path: Path) -> str:
    """Return *path* escaped for an option whose values end at a comma."""
    return str(path).replace(",", ",,")
