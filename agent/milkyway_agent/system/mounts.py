"""Mounts: mount(2), umount2(2) and the list in /proc/self/mountinfo. The classic call, with all options in a string.

Each function is one kernel call; the caller decides what is mounted where.
"""

from pathlib import Path
from typing import NamedTuple

from milkyway_agent.system.libc import call

# linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8


class Mount(NamedTuple):
    """A line of mountinfo (proc_pid_mountinfo(5)). ``super_options`` are the file system's own, as it prints them."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    target: str
    options: str
    fstype: str
    source: str
    super_options: str


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount *source* at *target* as a file system of type *fstype*."""
    call("mount", source.encode(), target.encode(), fstype.encode(), flags, data.encode() if data else None, path=target)


def umount2(target: str, flags: int = 0) -> None:
    """Detach what is mounted at *target*."""
    call("umount2", target.encode(), flags, path=target)


def remount(target: str, flags: int, data: str = "") -> None:
    """Change the flags of the mount at *target* (with MS_BIND in *flags*: only of this mount, not of its file system)."""
    call("mount", None, target.encode(), None, MS_REMOUNT | flags, data.encode() if data else None, path=target)


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts in *text* (of a mountinfo file), in its order: a later mount may hide an earlier one."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        first, last = left.split(" "), right.split(" ", 2)
        mounts.append(
            Mount(
                mount_id=int(first[0]),
                parent_id=int(first[1]),
                device=first[2],
                root=_unescape(first[3]),
                target=_unescape(first[4]),
                options=first[5],
                fstype=last[0],
                source=_unescape(last[1]),
                super_options=last[2] if len(last) > 2 else "",
            )
        )
    return mounts


def mountinfo(pid: int | str = "self") -> list[Mount]:
    """Return the mounts of *pid*'s mount namespace."""
    return parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape"))


def is_mounted(target: str) -> bool:
    """Tell whether something is mounted at exactly *target*."""
    return any(mount.target == target for mount in mountinfo())


def _unescape(name: str) -> str:
    """Undo mountinfo's octal escapes of space, tab, newline and backslash."""
    if "\\" not in name:
        return name
    for escaped, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        name = name.replace(escaped, plain)
    return name
