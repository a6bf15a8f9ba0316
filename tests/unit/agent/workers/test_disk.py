"""The disk worker formats what is certainly new, and nothing else."""

import pytest

from milkyway_agent.workers import disk
from milkyway_formats.errors import RefusedError, UnavailableError

HEAD = disk.PROBED_BYTES


def _luks2(label: bytes) -> bytes:
    return (disk.LUKS2_MAGIC + bytes(16) + label.ljust(48, b"\0")).ljust(HEAD, b"\0")


def test_an_empty_partition_is_new() -> None:
    assert disk.is_new(bytes(HEAD))


def test_a_volume_whose_formatting_was_interrupted_is_formatted_again() -> None:
    assert disk.is_new(_luks2(b""))


def test_a_finished_volume_is_kept() -> None:
    assert not disk.is_new(_luks2(b"milkyway-data"))


@pytest.mark.parametrize("at", [0, 511, 0x10040, HEAD - 1])
def test_one_foreign_byte_anywhere_is_somebodys_data(at: int) -> None:
    head = bytearray(HEAD)
    head[at] = 1
    with pytest.raises(RefusedError, match="not a LUKS2 volume"):
        disk.is_new(bytes(head))


def test_the_partition_is_found_by_its_name() -> None:
    uevents = ["MAJOR=254\nDEVNAME=vda4\nPARTNAME=secure-config\n", "DEVNAME=vda5\nPARTNAME=data\n", "DEVNAME=vda\n"]
    assert disk.partition("data", uevents) == "vda5"


def test_a_missing_partition_is_unavailable_not_refused() -> None:
    with pytest.raises(UnavailableError, match="no partition is called 'data'"):
        disk.partition("data", ["DEVNAME=vda1\nPARTNAME=esp\n"])


def test_two_partitions_of_the_same_name_are_refused_and_named() -> None:
    with pytest.raises(RefusedError, match="vda5, vdb1"):
        disk.partition("data", ["DEVNAME=vdb1\nPARTNAME=data\n", "DEVNAME=vda5\nPARTNAME=data\n"])
