"""Runs the boot: each phase as soon as the phases that it needs are done, within a deadline. No phase can stop another.

Which phases there are and what they need is ``core.boot``'s; what each does is given by the caller.
"""

import traceback
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence

import trio

from milkyway_agent.core.boot import Outcome, Phase, ready, report
from milkyway_formats.errors import MilkyWayError

# A deed returns lines worth a place in the report though the phase is done, and raises when it failed.
Deed = Callable[[], Awaitable[Sequence[str]]]
PHASE_SECONDS = 120.0
PAUSES = (0.1, 0.4)  # before a phase that failed with an OSError is tried again: a device settles, memory is freed


class BootRecord:
    """What came of the *phases* so far. ``finished_ms``: when each was over, in milliseconds since the kernel's start."""

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = phases
        self.outcomes: dict[str, Outcome] = {}
        self.finished_ms: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self._warnings: dict[str, Sequence[str]] = {}

    def note_done(self, name: str, at_ms: int, warnings: Sequence[str] = ()) -> None:
        """Note that the phase *name* is done, and lines of it that are worth a place in the report."""
        self.outcomes[name], self.finished_ms[name], self._warnings[name] = "done", at_ms, warnings

    def note_failed(self, name: str, at_ms: int, reason: str) -> None:
        """Note that the phase *name* has failed."""
        self.outcomes[name], self.finished_ms[name], self._reasons[name] = "failed", at_ms, reason

    def forget_failures(self) -> list[str]:
        """Let what failed be tried again, and what was lost with it; return the names of what had failed."""
        failed = [name for name, outcome in self.outcomes.items() if outcome == "failed"]
        for name in failed:
            del self.outcomes[name], self._reasons[name]
        return failed

    def keep_only(self, names: Container[str]) -> None:
        """Forget all but the phases of *names* that are done, and when PID 1 began."""
        kept = {name for name, outcome in self.outcomes.items() if outcome == "done" and name in names}
        self.outcomes = {name: "done" for name in self.outcomes if name in kept}
        self.finished_ms = {name: at_ms for name, at_ms in self.finished_ms.items() if name in kept or name == "pid1"}
        self._reasons = {}
        self._warnings = {name: lines for name, lines in self._warnings.items() if name in kept}

    def failures(self) -> list[str]:
        """Return what the boot report says: failed and lost phases, then lesser warnings."""
        return report(self.phases, self.outcomes, self._reasons) + [line for lines in self._warnings.values() for line in lines]


class BootRun:
    """The boot as it goes: *record* grows with it. *deeds*: what each phase does, by its name."""

    def __init__(
        self, record: BootRecord, deeds: Mapping[str, Deed], *, clock_ms: Callable[[], int], note: Callable[..., None]
    ) -> None:
        assert {phase.name for phase in record.phases} == set(deeds), "each phase has a deed, each deed a phase"
        self._record = record
        self._deeds = deeds
        self._clock_ms = clock_ms
        self._note = note

    async def run(self) -> None:
        """Run all phases that can be run; return when none is left. Raises nothing but cancellation."""
        record = self._record
        running: set[str] = set()
        changed = trio.Event()

        async def run_phase(phase: Phase) -> None:
            nonlocal changed
            await self._run_phase(phase)
            running.discard(phase.name)
            changed.set()

        async with trio.open_nursery() as nursery:
            while True:
                for phase in ready(record.phases, record.outcomes, frozenset(running)):
                    running.add(phase.name)
                    nursery.start_soon(run_phase, phase)
                if not running:
                    return
                await changed.wait()
                changed = trio.Event()

    async def _run_phase(self, phase: Phase) -> None:
        reason = f"it took longer than {PHASE_SECONDS:.0f} s"
        warnings: Sequence[str] | None = None
        try:
            with trio.move_on_after(PHASE_SECONDS):
                for pause in (*PAUSES, None):
                    warnings, reason, again = await self._try(phase)
                    if pause is None or not again:
                        break
                    self._note("boot_phase_tried_again", phase=phase.name, why=reason)
                    await trio.sleep(pause)
                    reason = f"it took longer than {PHASE_SECONDS:.0f} s"
        # A deed whose nursery fails while it is cancelled raises both at once, which only this scope can separate.
        except Exception as error:  # noqa: BLE001 (as in _try)
            reason = f"a bug: {error!r}"
        at_ms = self._clock_ms()
        if warnings is None:
            self._record.note_failed(phase.name, at_ms, reason)
            self._note("boot_phase_failed", phase=phase.name, why=reason)
        else:
            self._record.note_done(phase.name, at_ms, warnings)
            self._note("boot_phase_done", phase=phase.name, at_ms=at_ms)

    async def _try(self, phase: Phase) -> tuple[Sequence[str] | None, str, bool]:
        """Do the deed of *phase*; return its warnings (None: it failed), why it failed, and whether to try again may help."""
        try:
            return await self._deeds[phase.name](), "", False
        except OSError as error:
            return None, str(error), True
        except (MilkyWayError, ValueError) as error:
            return None, str(error), False
        except Exception as error:  # noqa: BLE001 (a bug in one phase must not take the boot with it)
            self._note("boot_phase_bug", phase=phase.name, traceback=traceback.format_exc())
            return None, f"a bug: {type(error).__name__}: {error}", False
