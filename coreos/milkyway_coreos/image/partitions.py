"""The partitions of a server's disk. Pure.

The initramfs and the agent find them by name; nothing depends on their order and sizes.
"""

from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from milkyway_formats.errors import RefusedError

MIB = 1024 * 1024
SECTOR = 512
ALIGNMENT = MIB
RESERVED = MIB  # the GPT at the start, and its copy at the end
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
LINUX_TYPE = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
SIZES = {"esp": 64 * MIB, "coreos-a": 64 * MIB, "coreos-b": 64 * MIB, "secure-config": 8 * MIB}
SMALLEST_DATA = 256 * MIB  # with less, btrfs is of no use


class Partition(NamedTuple):
    """A partition at byte *start* of the disk."""

    name: str
    start: int
    size: int
    kind: str = LINUX_TYPE


def layout(disk_bytes: int) -> list[Partition]:
    """Return the partitions of a disk of *disk_bytes*; ``data`` takes the rest. Raises RefusedError if it is too small."""
    start = RESERVED
    partitions = []
    for name, size in SIZES.items():
        partitions.append(Partition(name, start, size, ESP_TYPE if name == "esp" else LINUX_TYPE))
        start += size
    left = (disk_bytes - RESERVED - start) // ALIGNMENT * ALIGNMENT
    if left < SMALLEST_DATA:
        least = (start + SMALLEST_DATA + RESERVED) // MIB
        raise RefusedError(f"cannot lay out a disk of {disk_bytes // MIB} MiB: it needs {least} MiB")
    return [*partitions, Partition("data", start, left)]


def sfdisk_script(partitions: list[Partition], disk_name: str) -> str:
    """Return the script that makes sfdisk write *partitions*. Ids are derived from *disk_name*, not random."""
    lines = ["label: gpt", "unit: sectors", f"sector-size: {SECTOR}", f"label-id: {uuid5(NAMESPACE_URL, disk_name)}", ""]
    for part in partitions:
        identity = uuid5(NAMESPACE_URL, f"{disk_name}/{part.name}")
        lines.append(
            f"start={part.start // SECTOR}, size={part.size // SECTOR}, type={part.kind}, name={part.name}, uuid={identity}"
        )
    return "\n".join(lines) + "\n"
