"""A service's limits as values of its control group's files (cgroup-v2.rst). Pure."""

from collections.abc import Set as AbstractSet

from milkyway_formats.service import Limits


def group_files(limits: Limits, controllers: AbstractSet[str]) -> dict[str, str]:
    """Return what to write into a group's files for *limits*, as far as there are *controllers* for them."""
    found: dict[str, str] = {}
    if "memory" in controllers:
        if limits.memory_bytes:
            found["memory.max"] = str(limits.memory_bytes)
        if limits.memory_high_bytes:
            found["memory.high"] = str(limits.memory_high_bytes)
    if "pids" in controllers and limits.pids:
        found["pids.max"] = str(limits.pids)
    if "cpu" in controllers:
        if limits.cpu_weight != Limits().cpu_weight:
            found["cpu.weight"] = str(limits.cpu_weight)
        if limits.cpu_percent:
            found["cpu.max"] = f"{limits.cpu_percent * 1000} 100000"
    if "io" in controllers and limits.io_weight != Limits().io_weight:
        found["io.weight"] = f"default {limits.io_weight}"
    return found
