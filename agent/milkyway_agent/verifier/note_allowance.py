"""A rate limit for notes that the network can cause: PID 1 gets a burst, then a few, and the number of those left out."""

from dataclasses import dataclass

from milkyway_agent.ipc.messages import RefusalNoted

BURST = 16
SECONDS_EACH = 5.0


@dataclass
class NoteAllowance:
    """Full at the start, refilled by one every SECONDS_EACH, so that a flood of input from the uplink does not reach PID 1."""

    left: float = float(BURST)
    boottime: float = 0.0
    untold: int = 0

    def take(self, boottime: float) -> bool:
        """Tell whether another note may be sent at *boottime*; if not it is counted."""
        self.left = min(float(BURST), self.left + max(0.0, boottime - self.boottime) / SECONDS_EACH)
        self.boottime = boottime
        if self.left < 1.0:
            self.untold += 1
            return False
        self.left -= 1.0
        return True

    def with_untold(self, note: RefusalNoted) -> RefusalNoted:
        """Return *note* with the number of notes that were left out before it."""
        if not self.untold:
            return note
        untold, self.untold = self.untold, 0
        return RefusalNoted(check=note.check, message=f"{note.message} (and {untold} more before)")
