"""The record of a run of the boot benchmark: every boot with its moments. Pure."""

import msgspec

from bench.machine import MachineFacts
from bench.spread import Rounds, Spread, ratio, spread

OURS, THEIRS = "milkyway", "systemd"
GOAL = 1.0


class Boot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One boot: moments in ms since the kernel's start; ``wall_ms``: from starting QEMU to the first service's line."""

    at: dict[str, float]
    wall_ms: float
    accelerator: str
    failed: tuple[str, ...] = ()
    systemd: str = ""


class BootRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole run. ``boots``: by name of the root and number of the round; a round that failed is left out."""

    date: str
    machine: MachineFacts
    rounds: int
    kernel: str
    boots: dict[str, dict[int, Boot]]
    failures: list[str]

    @property
    def systemd(self) -> str:
        """The version of systemd that was booted; "unknown" when none was."""
        return next((boot.systemd for boot in self.boots[THEIRS].values() if boot.systemd), "unknown")

    def moment(self, name: str, *moments: str) -> Rounds:
        """Return for each boot of *name*, by round, the first of *moments* that it has."""
        found: dict[int, float] = {}
        for number, boot in self.boots[name].items():
            known = next((boot.at[moment] for moment in moments if moment in boot.at), None)
            if known is not None:
                found[number] = known
        return found

    def after(self, name: str, begin: str, end: str) -> Rounds:
        """Return the time from moment *begin* to moment *end* in each boot of *name* that has both."""
        begins, ends = self.moment(name, begin), self.moment(name, end)
        return {number: ends[number] - begins[number] for number in begins.keys() & ends.keys()}

    def wall(self, name: str) -> Rounds:
        """Return the wall time to the first service of each boot of *name*."""
        return {number: boot.wall_ms for number, boot in self.boots[name].items()}

    def first_service(self) -> Spread | None:
        """Return ours divided by systemd's, kernel to first service; None when no round has both."""
        return ratio(self.moment(OURS, "first"), self.moment(THEIRS, "first"))


def summary(rounds: Rounds) -> Spread | None:
    """Return the spread of *rounds*; None if there are none."""
    return spread(list(rounds.values())) if rounds else None
