"""The machine that figures come from, without which they mean nothing."""

import os
import platform
from pathlib import Path

import msgspec


class MachineFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a reader must know about a machine. ``load``: its load average in the minute before the run."""

    processor: str
    cores: int
    memory_mib: int
    kernel: str
    virtual: bool
    python: str
    load: float


def this_machine() -> MachineFacts:
    """Describe the machine that this program runs on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    return MachineFacts(
        processor=processor(cpuinfo),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2,
        kernel=platform.release(),
        virtual=is_virtual(cpuinfo),
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 2),
    )


def processor(cpuinfo: str) -> str:
    """Return the name of the first processor in the text of /proc/cpuinfo, or "unknown"."""
    names = (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    return next(names, "unknown")


def is_virtual(cpuinfo: str) -> bool:
    """Tell from /proc/cpuinfo whether the machine is virtual (x86 only: elsewhere there is no such flag)."""
    return any(line.startswith("flags") and "hypervisor" in line.split() for line in cpuinfo.splitlines())
