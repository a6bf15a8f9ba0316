"""The disk image of a development machine: a sparse file with the partitions of a server.

``make`` writes a new one, ``install`` puts a root image into a slot, ``configure`` writes the
secure configuration. The data partition is never touched: the machine formats it at first boot.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from milkyway_coreos import tools
from milkyway_coreos.image.partitions import Partition, layout, sfdisk_script
from milkyway_formats.errors import RefusedError

CHUNK = 4 * 1024 * 1024
DATA_KEY = "data.key"
DATA_KEY_BYTES = 64


def make(image: Path, disk_bytes: int, name: str) -> None:
    """Make *image*, a disk of *disk_bytes* with empty partitions and a file system on the ESP."""
    partitions = layout(disk_bytes)
    with image.open("xb") as disk:
        disk.truncate(disk_bytes)
    sfdisk = tools.tools_tree().command("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", image)
    tools.run(sfdisk, text=sfdisk_script(partitions, name))
    with tempfile.TemporaryDirectory(dir=image.parent) as temporary:
        esp = Path(temporary, "esp")
        with esp.open("xb") as file:
            file.truncate(_named(partitions, "esp").size)
        tools.run(tools.tools_tree().command("mkfs.vfat", "-n", "ESP", "-i", "4D494C4B", "--invariant", esp))
        write(image, "esp", esp)


def install(image: Path, slot: str, root_image: Path) -> None:
    """Write *root_image* to slot *slot* (``a`` or ``b``) of the disk *image*."""
    write(image, f"coreos-{slot}", root_image)


def configure(image: Path, files: Path | None, data_key: Path) -> None:
    """Write the directory *files* as the secure configuration of *image*, with *data_key* unless *files* has a key."""
    if not data_key.exists():
        data_key.touch(mode=0o600)
        data_key.write_bytes(secrets.token_bytes(DATA_KEY_BYTES))
    with tempfile.TemporaryDirectory(dir=image.parent) as temporary:
        tree, packed = Path(temporary, "tree"), Path(temporary, "image")
        shutil.copytree(files, tree) if files else tree.mkdir()
        if not (tree / DATA_KEY).exists():
            shutil.copyfile(data_key, tree / DATA_KEY)
        # Whatever modes the operator's files have: the verifier, an ordinary user, reads the documents; only root the key.
        tree.chmod(0o755)
        for path in tree.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o600 if path.name == DATA_KEY else 0o644)
        tools.run(tools.tools_tree().command("mkfs.erofs", "--quiet", "-T0", "--all-root", packed, tree))
        write(image, "secure-config", packed)


def write(image: Path, name: str, content: Path) -> None:
    """Copy the file *content* to the start of partition *name* of *image*. Raises RefusedError when it does not fit."""
    partition = _named(layout(image.stat().st_size), name)
    size = content.stat().st_size
    if size > partition.size:
        raise RefusedError(f"cannot write {content.name} to {name}: {size} bytes, the partition has {partition.size}")
    with image.open("r+b") as disk, content.open("rb") as source:
        disk.seek(partition.start)
        while chunk := source.read(CHUNK):
            if chunk.count(0) == len(chunk):
                # Written zeros leave no hole, and an empty file system must not fill a sparse disk.
                _zero(disk.fileno(), disk.tell(), len(chunk))
                disk.seek(len(chunk), os.SEEK_CUR)
            else:
                disk.write(chunk)


def _zero(descriptor: int, start: int, length: int) -> None:
    if os.pread(descriptor, length, start).count(0) != length:
        os.pwrite(descriptor, bytes(length), start)


def _named(partitions: Iterable[Partition], name: str) -> Partition:
    for partition in partitions:
        if partition.name == name:
            return partition
    raise AssertionError(f"no partition is called {name}")
