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
PAUSES = (0.1, 0.4)  # before a phase is tried again that the kernel refused something: a device settles, memory is freed


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

    def forget_failures(self) -> list[str]:
        """Let ``run`` try again what failed, and what was lost with it; return the names of what had failed."""
        failed = [name for name, outcome in self.outcomes.items() if outcome == "failed"]
        for name in failed:
            del self.outcomes[name], self.reasons[name]
        return failed

    def failures(self) -> list[str]:
        """Return what the boot report says: failed and lost phases, then lesser warnings."""
        return report(self._phases, self.outcomes, self.reasons) + self.warnings

    async def _one(self, phase: Phase) -> None:
        reason = f"it took longer than {PHASE_SECONDS:.0f} s"
        outcome: Outcome = "failed"
        try:
            with trio.move_on_after(PHASE_SECONDS):
                for pause in (*PAUSES, None):
                    reason, again = await self._try(phase)
                    if not reason:
                        outcome = "done"
                    if pause is None or not again:
                        break
                    self._note("boot_phase_tried_again", phase=phase.name, why=reason)
                    await trio.sleep(pause)
                    reason = f"it took longer than {PHASE_SECONDS:.0f} s"
        # A deed whose own nursery fails while it is cut short raises both at once, and only this scope takes them apart.
        except Exception as error:  # noqa: BLE001 (as in _try)
            reason = f"a bug: {error!r}"
        self.outcomes[phase.name] = outcome
        self.finished_ms[phase.name] = self._clock_ms()
        if outcome == "failed":
            self.reasons[phase.name] = reason
            self._note("boot_phase_failed", phase=phase.name, why=reason)
        else:
            self._note("boot_phase_done", phase=phase.name, at_ms=self.finished_ms[phase.name])

    async def _try(self, phase: Phase) -> tuple[str, bool]:
        """Do the deed of *phase*; return why it failed ("": it did not), and whether to do it again may help."""
        try:
            self.warnings += await self._deeds[phase.name]()
        except OSError as error:
            return str(error), True
        except (MilkyWayError, ValueError) as error:
            return str(error), False
        except Exception as error:  # noqa: BLE001 (a bug in one phase must not take the boot with it)
            self._note("boot_phase_bug", phase=phase.name, traceback=traceback.format_exc())
            return f"a bug: {type(error).__name__}: {error}", False
        return "", False
