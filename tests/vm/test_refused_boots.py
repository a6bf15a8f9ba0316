"""A root image that does not match its root hash never boots, and the console says why."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import run as demo
from milkyway_coreos.image import partitions
from milkyway_coreos.vm.machine import Options, VirtualMachine

pytestmark = pytest.mark.vm

STOPPED = "milkyway: boot stopped:"
DEADLINE_S = 90


@pytest.fixture
def machine(chain: demo.Chain, tmp_path: Path) -> Iterator[VirtualMachine]:
    machine = VirtualMachine("refused-boot", directory=tmp_path)
    yield machine
    machine.kill()


def _options(root_hash: str | None = None) -> Options:
    return Options(dies_with_owner=True, reboots=False, root_hash=root_hash)


def _flip(machine: VirtualMachine, offset: int) -> None:
    """Change one byte of the root image on the machine's disk."""
    slot = next(part for part in partitions.layout(machine.disk.stat().st_size) if part.name == "coreos-a")
    with machine.disk.open("r+b") as disk:
        disk.seek(slot.start + offset)
        (byte,) = disk.read(1)
        disk.seek(slot.start + offset)
        disk.write(bytes([byte ^ 1]))


def _refusal(machine: VirtualMachine, options: Options) -> str:
    machine.start(options, prepared=True)
    console = machine.wait_for_console(STOPPED, DEADLINE_S)
    assert "PID 1 at" not in console
    return next(line for line in machine.console().splitlines() if STOPPED in line)


def test_a_flipped_byte_in_the_data_stops_the_boot(machine: VirtualMachine) -> None:
    machine.prepare(_options())
    _flip(machine, 1024)  # in the first block, which holds the file system's superblock
    assert "dm-verity: the root image does not match milkyway.roothash" in _refusal(machine, _options())


def test_a_flipped_byte_in_the_hash_tree_stops_the_boot(machine: VirtualMachine) -> None:
    blocks = json.loads((demo.BUILD / "coreos/coreos.json").read_text())["data_blocks"]
    machine.prepare(_options())
    _flip(machine, blocks * 4096 + 7)  # the tree's root block
    assert "dm-verity: the root image does not match milkyway.roothash" in _refusal(machine, _options())


def test_another_root_hash_stops_the_boot(machine: VirtualMachine) -> None:
    machine.prepare(_options())
    assert "dm-verity: the root image does not match milkyway.roothash" in _refusal(machine, _options("0" * 64))
