"""Carrying out a plan: each effect is done or undone by the plane of its kind, and taken back if a later step fails.

Every plane has a ``do`` and an ``undo``. Both are idempotent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import trio

from milkyway_agent.core import transition
from milkyway_agent.core.effects import DeploymentEffect
from milkyway_agent.core.transition import Step
from milkyway_agent.log.log import Log
from milkyway_formats.errors import MilkyWayError

TAKE_BACK_SECONDS = 60.0


class Plane(Protocol):
    """Does and undoes the effects of one kind."""

    async def do(self, effect: Any) -> None:
        """Make *effect* hold. Raises MilkyWayError or OSError and then leaves nothing of it."""

    async def undo(self, effect: Any) -> None:
        """Make *effect* hold no more. Raises MilkyWayError or OSError if it still does."""


class Executor:
    """Carries out plans, one at a time. ``present`` are the effects that hold, in the order in which they were done."""

    def __init__(self, planes: Mapping[type, Plane], log: Log) -> None:
        self.present: tuple[DeploymentEffect, ...] = ()
        self._planes = planes
        self._log = log

    async def converge(self, wanted: Sequence[DeploymentEffect]) -> None:
        """Make exactly *wanted* hold.

        Raises what the first failing step raised, after taking back the steps before it. What can't be cleared
        away afterwards is noted, still counts as present, and is tried again the next time.
        """
        plan = transition.plan(self.present, wanted)
        done: list[Step[DeploymentEffect]] = []
        try:
            for step in plan.steps:
                await self._take(step)
                done.append(step)
        except BaseException as error:
            self._log.note("transition_failed", step=step.describe(), error=str(error) or repr(error))
            with trio.move_on_after(TAKE_BACK_SECONDS, shield=True):
                for back in transition.take_back(done):
                    await self._try(back)
            raise
        for step in plan.clearing:
            await self._try(step)

    async def _take(self, step: Step[DeploymentEffect]) -> None:
        plane = self._planes[type(step.effect)]
        await (plane.do if step.forward else plane.undo)(step.effect)
        self.present = transition.after(self.present, [step])
        self._log.note("step_taken", step=step.describe())

    async def _try(self, step: Step[DeploymentEffect]) -> None:
        try:
            await self._take(step)
        except (MilkyWayError, OSError) as error:
            self._log.note("step_failed", step=step.describe(), error=str(error))
