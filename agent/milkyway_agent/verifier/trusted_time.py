"""The time that decisions rely on: an estimate that advances, above a floor that only signed times raise.

The estimate comes from PID 1 (RTC, network time) and is never persisted, so a clock that is far ahead
does no harm after it was corrected. The floor is persisted by ``trust_state``. Both are
arguments here: nothing in this module reads a clock.
"""

from dataclasses import dataclass

from milkyway_formats.names import UnixSeconds


@dataclass
class TrustedTime:
    """An estimate taken at *boottime* (seconds of CLOCK_BOOTTIME, which also counts suspension), and the floor below it."""

    estimate: UnixSeconds
    boottime: float
    floor: UnixSeconds = 0

    def now(self, boottime: float) -> UnixSeconds:
        """Return the time at *boottime*: the estimate plus the time since it was taken, but never less than the floor."""
        return max(self.estimate + max(0, int(boottime - self.boottime)), self.floor)

    def estimated(self, estimate: UnixSeconds, boottime: float) -> None:
        """Take a newer estimate, which may be earlier or later than the last."""
        self.estimate, self.boottime = estimate, boottime

    def signed(self, time: UnixSeconds) -> None:
        """Raise the floor to a *time* that somebody trusted has signed, if it is below that."""
        self.floor = max(self.floor, time)
