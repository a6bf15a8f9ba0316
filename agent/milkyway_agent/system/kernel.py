"""The kernel itself: its command line, parameters, modules, clocks and the id of this boot."""

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from milkyway_agent.system.libc import call

# The C library has no wrapper for finit_module(2) (asm/unistd.h).
_NR_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
MODULE_INIT_COMPRESSED_FILE = 4


class CommandLine(NamedTuple):
    """The ``milkyway.*`` words of the kernel's command line."""

    slot: str
    root_hash: str
    salt: str
    blocks: int
    development: bool


def parse_cmdline(text: str) -> CommandLine:
    """Return our words on the kernel's command line; all others are ignored.

    Raises ValueError naming the word of ours that is unknown, repeated, missing or malformed.
    """
    words: dict[str, str] = {}
    for word in text.split():
        key, _, value = word.partition("=")
        if not key.startswith("milkyway."):
            continue
        name = key.removeprefix("milkyway.")
        if name not in {"slot", "roothash", "salt", "blocks", "development"}:
            raise ValueError(f"cannot read the kernel's command line: {key} is unknown")
        if name in words:
            raise ValueError(f"cannot read the kernel's command line: {key} is there twice")
        words[name] = value
    shapes = {"slot": "[ab]", "roothash": "[0-9a-f]{64}", "salt": "[0-9a-f]{64}", "blocks": "[1-9][0-9]{0,11}"}
    for name, shape in shapes.items():
        if name not in words:
            raise ValueError(f"cannot read the kernel's command line: milkyway.{name} is missing")
        if not re.fullmatch(shape, words[name]):
            raise ValueError(f"cannot read the kernel's command line: milkyway.{name} is not {shape}: {words[name]!r}")
    if words.get("development", "1") != "1":
        raise ValueError("cannot read the kernel's command line: milkyway.development is 1 or absent")
    return CommandLine(words["slot"], words["roothash"], words["salt"], int(words["blocks"]), "development" in words)


def cmdline() -> str:
    """Return the kernel's command line."""
    return Path("/proc/cmdline").read_text()


def sysctl(name: str, value: str) -> None:
    """Set a kernel parameter, such as ``vm.memfd_noexec``."""
    Path("/proc/sys", name.replace(".", "/")).write_text(value)


def finit_module(path: str, parameters: str = "") -> None:
    """Load the module in the file *path* (the kernel decompresses it if necessary)."""
    flags = MODULE_INIT_COMPRESSED_FILE if path.endswith((".xz", ".zst", ".gz")) else 0
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        call("syscall", _NR_FINIT_MODULE[os.uname().machine], opened, parameters.encode(), flags, path=path)
    finally:
        os.close(opened)


def boot_id() -> str:
    """Return the random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boottime_ms() -> int:
    """Return the milliseconds since the kernel started, sleep included (CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def realtime_ms() -> int:
    """Return the milliseconds since 1970 (CLOCK_REALTIME), which are not to be trusted."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000
