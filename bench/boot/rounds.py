"""Boot both roots in turns, and keep the moments of each boot.

The order alternates from round to round (ours, systemd; systemd, ours; …), so that whatever slows the machine down slows
both. Each boot begins with a fresh disk. A boot that does not finish is a failure, and its round is left out.
"""

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.boot import images
from bench.boot.console import read
from bench.boot.record import Boot, BootRecord
from bench.machine import this_machine
from bench.supervisor.tree import BUILD
from milkyway_coreos.image.steps import Say
from milkyway_coreos.vm.machine import Options, VirtualMachine
from milkyway_formats.errors import UnavailableError

NAMES = ("milkyway", "systemd")
FIRST = "bench-boot: first at"
OVER = {"milkyway": "milkyway: boot finished:", "systemd": "bench-boot: over at"}
DISK_BYTES = 1024 << 20
MEMORY_MIB = 1024
DEADLINE_S = 180.0
MACHINES = BUILD / "bench-boot/machines"


def run_boots(rounds: int, say: Say) -> BootRecord:
    """Boot each root *rounds* times. Raises MilkyWayError when an image can't be made."""
    machine, date = this_machine(), datetime.now(UTC).strftime("%Y-%m-%d")
    prepared = images.prepare(say)
    boots: dict[str, dict[int, Boot]] = {name: {} for name in NAMES}
    failures: list[str] = []
    for number in range(rounds):
        for name in NAMES if number % 2 == 0 else NAMES[::-1]:
            say(f"round {number + 1} of {rounds}: {name}")
            try:
                boots[name][number] = _boot(name, prepared[name])
            except UnavailableError as error:
                failures.append(f"{name}, round {number + 1}: {error}")
    return BootRecord(date, machine, rounds, images.kernel_release(), boots, failures)


def _boot(name: str, coreos: Path) -> Boot:
    machine = VirtualMachine(name, MACHINES)
    options = Options(
        coreos=coreos, fresh=True, reboots=False, dies_with_owner=True, disk_bytes=DISK_BYTES, memory_mib=MEMORY_MIB
    )
    machine.prepare(options)
    begun = time.monotonic()
    try:
        machine.start(options, prepared=True)
        machine.wait_for_console(FIRST, DEADLINE_S)
        wall_ms = (time.monotonic() - begun) * 1000
        moments = read(machine.wait_for_console(OVER[name], DEADLINE_S))
        accelerator = str(machine.state["accelerator"])
    finally:
        machine.kill()
        shutil.rmtree(machine.directory, ignore_errors=True)
    return Boot(moments.at, wall_ms, accelerator, moments.failed, moments.systemd)
