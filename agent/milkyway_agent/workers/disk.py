"""The disk worker: opens the data partition, and formats it at first boot.

A short-lived process in a domain of its own (``disk_t``): PID 1 itself can neither read nor
write the raw disk. The partition called ``data`` becomes a LUKS2 volume with btrfs inside.

A partition is formatted only when it is certainly new: its first MiB is all zero, or it is a
LUKS2 volume of ours whose formatting was interrupted. The label ``milkyway-data`` is written
last, so a power cut at any moment leaves "new" or "interrupted", never "looks complete".
Anything else is somebody's data and is refused.

Exits with 0 when ``/dev/mapper/data`` is there; otherwise prints one line and exits with a code
of ``milkyway_formats.errors.ExitCode``. Its argument is the key file, which PID 1 chooses.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from milkyway_formats.errors import ExitCode, MilkyWayError, RefusedError, UnavailableError

MAPPED_NAME = "data"
MAPPED = Path("/dev/mapper") / MAPPED_NAME
LABEL = "milkyway-data"
PROBED_BYTES = 1024 * 1024
LUKS2_MAGIC = b"LUKS\xba\xbe\x00\x02"
LUKS2_LABEL_OFFSET, LUKS2_LABEL_BYTES = 24, 48  # struct luks2_hdr_disk, LUKS2 on-disk format specification, 2.1
BTRFS_MAGIC_OFFSET, BTRFS_MAGIC = 0x10040, b"_BHRfS_M"

# A random key needs no slow derivation: pbkdf2 with the fewest iterations cryptsetup takes.
FORMAT = (
    "luksFormat", "--batch-mode", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512",
    "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "4096",
)  # fmt: skip


def partition(name: str, uevents: Iterable[str]) -> str:
    """Return the device name of the partition called *name*, among the ``uevent`` texts of /sys/class/block.

    Raises UnavailableError when there is none of that name, RefusedError when there are several.
    """
    found = []
    for text in uevents:
        facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if facts.get("PARTNAME") == name:
            found.append(facts["DEVNAME"])
    if not found:
        raise UnavailableError(f"cannot open the data disk: no partition is called {name!r}")
    if len(found) > 1:
        raise RefusedError(
            f"cannot open the data disk: {len(found)} partitions are called {name!r}: {', '.join(sorted(found))}"
        )
    return found[0]


def is_new(head: bytes) -> bool:
    """Tell whether the partition whose first MiB is *head* may be formatted (again).

    Raises RefusedError when it holds something that is not ours.
    """
    if head.count(0) == len(head):
        return True
    if not head.startswith(LUKS2_MAGIC):
        raise RefusedError(
            "cannot open the data disk: the data partition holds something that is not a LUKS2 volume",
            hint="wipe its first MiB to let it be formatted",
        )
    label = head[LUKS2_LABEL_OFFSET : LUKS2_LABEL_OFFSET + LUKS2_LABEL_BYTES].rstrip(b"\0")
    return label != LABEL.encode()


def _run(*command: str) -> None:
    """Run *command* (an absolute path and its arguments) to its end. Raises UnavailableError unless it ends with 0."""
    # Without udev, libdevmapper must make the nodes in /dev/mapper itself (dmsetup(8), DM_DISABLE_UDEV).
    environment = {"PATH": "/usr/sbin:/usr/bin", "DM_DISABLE_UDEV": "1", "LC_ALL": "C.UTF-8"}
    pid = os.posix_spawn(command[0], command, environment)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise UnavailableError(f"cannot open the data disk: {Path(command[0]).name} {command[1]} ended with {code}")


def _cryptsetup(*arguments: str) -> None:
    _run("/usr/sbin/cryptsetup", *arguments, "--disable-locks")


def _open(device: str, key: str) -> None:
    _cryptsetup("open", "--type", "luks2", "--key-file", key, "--allow-discards", device, MAPPED_NAME)


def _holds_btrfs(device: Path) -> bool:
    with device.open("rb") as disk:
        disk.seek(BTRFS_MAGIC_OFFSET)
        return disk.read(len(BTRFS_MAGIC)) == BTRFS_MAGIC


def prepare(device: str, key: str) -> str:
    """Open the LUKS2 volume on *device* with the key in the file *key*; format *device* first if it is new.

    Returns "formatted" or "opened".
    """
    with Path(device).open("rb") as disk:
        head = disk.read(PROBED_BYTES)
    if not is_new(head):
        _open(device, key)
        if not _holds_btrfs(MAPPED):
            raise RefusedError("cannot open the data disk: it is damaged: the key fits but there is no btrfs inside")
        return "opened"
    _cryptsetup(*FORMAT, "--key-file", key, device)
    _open(device, key)
    _run("/usr/sbin/mkfs.btrfs", "--quiet", "--force", "--nodiscard", "--label", LABEL, str(MAPPED))
    _cryptsetup("config", device, "--label", LABEL)
    return "formatted"


def main() -> None:
    """Open the data partition with the key file named by the only argument."""
    try:
        if len(sys.argv) != 2:
            raise RefusedError("cannot open the data disk: expected one argument, the key file")
        uevents = (path.read_text() for path in Path("/sys/class/block").glob("*/uevent"))
        outcome = prepare(f"/dev/{partition('data', uevents)}", sys.argv[1])
    except MilkyWayError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"cannot open the data disk: {error}", file=sys.stderr)
        sys.exit(ExitCode.UNAVAILABLE)
    print(outcome)
