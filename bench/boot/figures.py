"""What a boot's console says of its steps. Pure.

All times are seconds of CLOCK_BOOTTIME, which starts with the kernel.
"""

import re
from typing import NamedTuple

_VERIFIED = re.compile(r"root verified, policy loaded, starting PID 1 at (\d+\.\d+) s")
_PID1 = re.compile(r"milkyway: PID 1 at (\d+\.\d+) s")
_FIRST = re.compile(r"first service at (\d+\.\d+) s")
STEPS = ("kernel and initramfs", "PID 1's first line", "first service")


class Boot(NamedTuple):
    """One boot. *verified_s*: PID 1 is about to be executed; *pid1_s*: its first line; *first_s*: the service's first line."""

    verified_s: float
    pid1_s: float
    first_s: float

    def steps(self) -> dict[str, float]:
        """Return how long each step took, in seconds: the boot's breakdown."""
        return {
            "kernel and initramfs": self.verified_s,
            "PID 1's first line": self.pid1_s - self.verified_s,
            "first service": self.first_s - self.pid1_s,
        }


def read(console: str) -> Boot | None:
    """Return the boot that *console* tells of; None while it does not tell all of it."""
    found = [pattern.search(console) for pattern in (_VERIFIED, _PID1, _FIRST)]
    times = [float(match[1]) for match in found if match is not None]
    return Boot(*times) if len(times) == len(found) else None
