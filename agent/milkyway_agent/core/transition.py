"""From the effects that hold to those that are wanted: what to do and undo, in order, and how to take back a part of it.

It knows only the protocol of an effect. A plan prepares what is new beside the old, then stops
the old, starts the new, and only then clears away what is not needed any more: until the new
runs, all that the old needs is there, and there is little to take back.

``plan`` for effects that hold already is empty, and planning again from any point where a plan was
cut short leads to the same end: after a power cut, the plan is simply made again.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from milkyway_agent.core.effects import Effect

E = TypeVar("E", bound=Effect)


class Step(NamedTuple, Generic[E]):
    """Do (``forward``) or undo one effect."""

    effect: E
    forward: bool

    def describe(self) -> str:
        """Return the step as people read it."""
        return self.effect.describe() if self.forward else f"undo: {self.effect.describe()}"


class Plan(NamedTuple, Generic[E]):
    """``steps`` must all succeed, or they are taken back; ``clearing`` comes after them and may be tried again at any time."""

    steps: tuple[Step[E], ...]
    clearing: tuple[Step[E], ...]


def wanted_effects(groups: Iterable[Sequence[E]]) -> tuple[E, ...]:
    """Return the effects of several deployments as one list; those that they share are in it once."""
    found: list[E] = []
    for group in groups:
        found += [effect for effect in group if effect not in found]
    return tuple(found)


def plan(present: Sequence[E], wanted: Sequence[E]) -> Plan[E]:
    """Return how to get from the effects that hold, in the order in which they were done, to those that are wanted."""
    keys = {effect.key for effect in wanted}
    assert len(keys) == len(wanted), "two wanted effects have the same key"
    leaving = [effect for effect in reversed(present) if effect not in wanted]
    coming = [effect for effect in wanted if effect not in present]
    # Of two effects with the same key the old must go first, exclusive or not, and with it what was done on top of it.
    replaced = {effect.key for effect in leaving if effect.key in {new.key for new in coming}}
    first = [effect for effect in leaving if effect.exclusive or effect.key in replaced]
    return Plan(
        steps=(
            *(Step(effect, True) for effect in coming if not effect.exclusive and effect.key not in replaced),
            *(Step(effect, False) for effect in first),
            *(Step(effect, True) for effect in coming if effect.exclusive or effect.key in replaced),
        ),
        clearing=tuple(Step(effect, False) for effect in leaving if effect not in first),
    )


def take_back(done: Sequence[Step[E]]) -> tuple[Step[E], ...]:
    """Return the steps that undo *done*, the last first."""
    return tuple(Step(step.effect, not step.forward) for step in reversed(done))


def after(present: Sequence[E], done: Iterable[Step[E]]) -> tuple[E, ...]:
    """Return the effects that hold once *done* was done to *present*."""
    holding = list(present)
    for step in done:
        if not step.forward:
            holding.remove(step.effect)
        elif step.effect not in holding:
            holding.append(step.effect)
    return tuple(holding)
