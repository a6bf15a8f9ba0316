"""``python -m bench.boot`` (``make bench``): boot both roots in turn, show the times, write them down if asked."""

import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from bench.boot.figures import Boot, read
from bench.boot.images import OURS, THEIRS, prepare
from bench.boot.report import section
from bench.machine import this_machine
from bench.section import replace_section
from bench.supervisor.tree import ROOT, PreparationError, package_version, prepare_all
from milkyway_coreos.vm import Options, VirtualMachine

PAGE = ROOT / "docs/performance.md"
DEADLINE_S = 120.0
LOOK_EVERY_S = 0.05


@click.command()
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 100), help="how often each root is booted")
@click.option("--write", is_flag=True, help="write the figures to docs/performance.md")
def main(rounds: int, write: bool) -> None:
    """Compare boots, kernel to first service: our root, and the same root with systemd as PID 1. Needs root."""
    if os.geteuid():
        raise click.ClickException("cannot make the roots: the benchmarks run as root")
    machine = this_machine()
    try:
        prepare_all(_say)
        images = prepare(_say)
    except PreparationError as error:
        raise click.ClickException(str(error)) from None
    boots: dict[str, dict[int, Boot]] = {OURS: {}, THEIRS: {}}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            order = (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS)
            for name in order:
                found = _boot(VirtualMachine(f"boot-{name}", Path(directory)), images[name])
                if found is None:
                    _say(f"round {number + 1}: {name} did not come up in {DEADLINE_S:.0f} s")
                    continue
                boots[name][number] = found
                _say(f"round {number + 1}: {name}: first service at {found.first_s:.2f} s")
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    text = section(date, machine, rounds, boots, package_version("systemd"))
    print(text)
    if write:
        PAGE.write_text(replace_section(PAGE.read_text(), text))
    sys.exit(0 if all(len(found) == rounds for found in boots.values()) else 1)


def _boot(machine: VirtualMachine, image: Path) -> Boot | None:
    """Boot *image* until its first service speaks; the machine is off afterwards."""
    machine.start(Options(coreos=image, reboots=False, dies_with_owner=True))
    try:
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until and machine.is_running():
            found = read(machine.console())
            if found is not None:
                return found
            time.sleep(LOOK_EVERY_S)
        return None
    finally:
        machine.kill()


def _say(line: str) -> None:
    print(f"· {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
