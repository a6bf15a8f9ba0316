"""What a machine's console tells about its boot, as moments: milliseconds since the kernel's start (CLOCK_BOOTTIME). Pure.

Three programs write there: the initramfs, PID 1 (ours prints every phase that is done, systemd its own times at the end)
and the first service. The kernel's lines may come in between, and lines may have a carriage return at either end.
"""

import re
from typing import NamedTuple

_INITRAMFS = re.compile(r"milkyway: initramfs at (\d+\.\d+) s")
_EXECUTED = re.compile(r"starting PID 1 at (\d+\.\d+) s")
_FIRST_LINE = re.compile(r"milkyway: PID 1 at (\d+\.\d+) s")
_PHASE = re.compile(r"milkyway: boot phase done: phase=(\S+) at_ms=(\d+)")
_FINISHED = re.compile(r"milkyway: boot finished: at_ms=(\d+) failures=(\d+)")
_MARK = re.compile(r"bench-boot: (\S+) at (\d+)")
_OWN = re.compile(r"bench-systemd: (\w+)TimestampMonotonic=(\d+)")
_SYSTEMD = re.compile(r"systemd\[1\]: systemd (\S+) running in system mode")
_FAILED = re.compile(r"bench-failed: (\S+)")


class Moments(NamedTuple):
    """One boot: ``at`` by name in milliseconds; ``failed``: units that systemd could not start."""

    at: dict[str, float]
    failed: tuple[str, ...] = ()
    systemd: str = ""  # its version, where it is PID 1


def read(console: str) -> Moments:
    """Return the moments on *console*. Of a moment that comes twice (a service restarted) the first counts."""
    at: dict[str, float] = {}
    for name, pattern in (("initramfs", _INITRAMFS), ("pid1-executed", _EXECUTED), ("pid1-first-line", _FIRST_LINE)):
        if found := pattern.search(console):
            at[name] = float(found[1]) * 1000
    for name, ms in _PHASE.findall(console):
        at.setdefault(f"phase-{name}", float(ms))
    for name, us in _MARK.findall(console):
        at.setdefault(name, int(us) / 1000)
    for name, us in _OWN.findall(console):
        if int(us):  # systemd prints 0 for what did not happen
            at.setdefault(f"systemd-{name}", int(us) / 1000)
    if finished := _FINISHED.search(console):
        at["booted"] = float(finished[1])
    elif "systemd-Finish" in at:
        at["booted"] = at["systemd-Finish"]
    version = _SYSTEMD.search(console)
    return Moments(at, tuple(_FAILED.findall(console)), version[1] if version else "")


class Stretch(NamedTuple):
    """A part of the way from the kernel to the first service, between two moments."""

    title: str
    begin: str  # "" is the kernel's start
    end: str


# For each PID 1 the stretches follow one another without a gap and end at the first service.
STRETCHES: dict[str, tuple[Stretch, ...]] = {
    "milkyway": (
        Stretch("kernel", "", "initramfs"),
        Stretch("initramfs: modules, dm-verity, policy", "initramfs", "pid1-executed"),
        Stretch("exec of PID 1 to its first line (Python)", "pid1-executed", "pid1-first-line"),
        Stretch("imports of the first steps, mounts, labels", "pid1-first-line", "phase-selinux"),
        Stretch("control groups", "phase-selinux", "phase-cgroups"),
        Stretch("the network's driver, start of the service", "phase-cgroups", "first"),
    ),
    "systemd": (
        Stretch("kernel", "", "initramfs"),
        Stretch("initramfs: modules, dm-verity, policy", "initramfs", "pid1-executed"),
        Stretch("exec of PID 1 to its first line", "pid1-executed", "systemd-Userspace"),
        Stretch("early set-up, SELinux", "systemd-Userspace", "systemd-GeneratorsStart"),
        Stretch("generators", "systemd-GeneratorsStart", "systemd-GeneratorsFinish"),
        Stretch("reading units", "systemd-GeneratorsFinish", "systemd-UnitsLoadFinish"),
        Stretch("until it starts anything", "systemd-UnitsLoadFinish", "supervisor"),
        Stretch("the network's driver beside other units; start of the service", "supervisor", "first"),
    ),
}


def lasted(stretch: Stretch, at: dict[str, float]) -> float | None:
    """Return how long *stretch* lasted in milliseconds; None if one of its moments is not known."""
    begin = at.get(stretch.begin) if stretch.begin else 0.0
    end = at.get(stretch.end)
    return None if begin is None or end is None else end - begin
