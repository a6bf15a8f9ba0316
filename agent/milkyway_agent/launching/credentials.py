"""Credentials: a service's secrets as files that only it can read, in memory that is never swapped out.

``place`` mounts a file system for one service at a directory, which is what CREDENTIALS_DIRECTORY (systemd.exec(5))
names; ``remove`` removes it with all that is in it. Where mounting is not permitted (an ordinary user, a plain
container) it is a directory instead, as private as file modes make it; the returned ``Storage`` says so.

The caller tells the service about them, and removes them when it has ended.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from milkyway_agent.system import mounts
from milkyway_formats.errors import RefusedError, UnavailableError

ENVIRONMENT = "CREDENTIALS_DIRECTORY"
MOST_BYTES = 1 << 20  # of one secret, as in systemd
_FLAGS = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC | mounts.MS_NOSYMFOLLOW


class Secret(NamedTuple):
    """The file *source* on this machine, which the service finds as *name*."""

    name: str
    source: str


class Storage(Enum):
    """Where secrets are kept, from best to worst."""

    TMPFS = "tmpfs without swap"
    RAMFS = "ramfs"
    DIRECTORY = "a directory, because mounting was refused"


def place(directory: str, secrets: Sequence[Secret], user: int, group: int) -> Storage:
    """Give *secrets* to *user* and its main *group* in *directory*, which is made; return where they are kept.

    What was there before is removed. Raises RefusedError if a source is missing, too large or no file, and UnavailableError
    for other failures, with nothing left behind. *directory* must not contain commas.
    """
    texts = {secret.name: _read(secret) for secret in secrets}
    remove(directory)
    try:
        Path(directory).mkdir(0o700, parents=True)
        kept = _mount(directory, sum(map(len, texts.values())), len(texts))
        for name, text in texts.items():
            _write(f"{directory}/{name}", text, user, group)
        _give(directory, user, group, 0o500)
        if kept is not Storage.DIRECTORY:
            mounts.remount(directory, mounts.MS_BIND | mounts.MS_RDONLY | _FLAGS)
    except OSError as error:
        remove(directory)
        raise UnavailableError(f"cannot place credentials in {directory}: {error.strerror}") from error
    return kept


def remove(directory: str) -> None:
    """Undo ``place``, even if it was done in part: *directory* is removed with all secrets. Idempotent."""
    if not Path(directory).is_dir():
        return
    _unmount(directory)
    Path(directory).chmod(0o700)
    shutil.rmtree(directory)


def _mount(directory: str, size: int, count: int) -> Storage:
    """Mount the best file system for this that the kernel has; return which, or DIRECTORY if none can be mounted."""
    # Each file takes whole pages; the directory takes an inode, too.
    options = f"mode=0700,size={size + (count + 1) * 4096},nr_inodes={count + 2},noswap"
    for kept, kind, data in ((Storage.TMPFS, "tmpfs", options), (Storage.RAMFS, "ramfs", "mode=0700")):
        # noswap: Linux 6.4, and no tmpfs of a user namespace has it (tmpfs(5)); ramfs is never swapped.
        with contextlib.suppress(OSError):
            mounts.mount(kind, directory, kind, _FLAGS, data)
            return kept
    return Storage.DIRECTORY


def _unmount(directory: str) -> None:
    """Detach everything that is mounted at *directory*."""
    while True:
        try:
            # MNT_DETACH: a process that outlives the service may still have one of its files open.
            mounts.umount2(directory, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):  # not a mount point, or mounting is not permitted
                raise
            return


def _read(secret: Secret) -> bytes:
    try:
        with open(secret.source, "rb", opener=_open_file) as source:
            text = source.read(MOST_BYTES + 1)
    except OSError as error:
        raise RefusedError(f"cannot give {secret.name}: {secret.source}: {error.strerror}") from error
    if len(text) > MOST_BYTES:
        raise RefusedError(f"cannot give {secret.name}: {secret.source} is larger than {MOST_BYTES} bytes")
    return text


def _open_file(path: str, flags: int) -> int:
    # O_NONBLOCK: opening a FIFO must not block; it then reads as empty or as unavailable.
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)


def _write(path: str, text: bytes, user: int, group: int) -> None:
    written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
    with open(written, "wb") as file:  # noqa: PTH123 (a descriptor)
        file.write(text)
    _give(path, user, group, 0o400)


def _give(path: str, user: int, group: int, mode: int) -> None:
    if (user, group) != (os.geteuid(), os.getegid()):
        os.chown(path, user, group)
    Path(path).chmod(mode)
