"""Run the boot: every phase as soon as what it needs is done, each with a deadline, none able to stop another.

Which phases there are and what they need is ``core.boot``'s; what each does is given by the caller.
"""

import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from milkyway_agent.core.boot import Outcome, Phase, ready, report
from milkyway_formats.errors import MilkyWayError

# A deed returns lines worth a place in the report though the phase is done, and raises when it failed.
Deed = Callable[[], Awaitable[Sequence[str]]]
Note = Callable[..., None]
PHASE_SECONDS = 120.0


class BootRun:
    """The boot as it goes. ``outcomes`` and ``finished_ms`` (milliseconds since the kernel's start) grow with it."""

    def __init__(self, phases: Sequence[Phase], deeds: Mapping[str, Deed], *, clock_ms: Callable[[], int], note: Note) -> None:
        missing = [phase.name for phase in phases if phase.name not in deeds]
        assert not missing, f"no deed for the phases {missing}"
        self.outcomes: dict[str, Outcome] = {}
        self.reasons: dict[str, str] = {}
        self.warnings: list[str] = []
        self.finished_ms: dict[str, int] = {}
        self._phases = phases
        self._deeds = deeds
        self._clock_ms = clock_ms
        self._note = note

    async def run(self) -> None:
        """Run all phases that can be run; return when none is left. Raises nothing but cancellation."""
        running: set[str] = set()
        changed = trio.Event()

        async def one(phase: Phase) -> None:
            nonlocal changed
            await self._one(phase)
            running.discard(phase.name)
            changed.set()

        async with trio.open_nursery() as nursery:
            while True:
                for phase in ready(self._phases, self.outcomes, frozenset(running)):
                    running.add(phase.name)
                    nursery.start_soon(one, phase)
                if not running:
                    return
                await changed.wait()
                changed = trio.Event()

    def failures(self) -> list[str]:
        """Return what the boot report says: failed and lost phases, then lesser warnings."""
        return report(self._phases, self.outcomes, self.reasons) + self.warnings

    async def _one(self, phase: Phase) -> None:
        reason = f"it took longer than {PHASE_SECONDS:.0f} s"
        outcome: Outcome = "failed"
        try:
            with trio.move_on_after(PHASE_SECONDS):
                self.warnings += await self._deeds[phase.name]()
                outcome = "done"
        except (MilkyWayError, OSError, ValueError) as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 (a bug in one phase must not take the boot with it)
            reason = f"a bug: {type(error).__name__}: {error}"
            self._note("boot_phase_bug", phase=phase.name, traceback=traceback.format_exc())
        self.outcomes[phase.name] = outcome
        self.finished_ms[phase.name] = self._clock_ms()
        if outcome == "failed":
            self.reasons[phase.name] = reason
            self._note("boot_phase_failed", phase=phase.name, why=reason)
        else:
            self._note("boot_phase_done", phase=phase.name, at_ms=self.finished_ms[phase.name])
