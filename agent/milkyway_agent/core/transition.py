"""From what holds to what is wanted: a list of effects to do and to undo, in order, and how to take half of it back.

It knows only the protocol of an effect. A plan prepares what is new beside the old, then stops
the old, starts the new, and only then clears away what nobody needs: so until the new runs, all
that the old needs is there, and taking back is short.

``plan`` of what already holds is empty, and planning again from any point where a plan was cut
short leads to the same end: after a power cut the same plan is simply made again.
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
    """``steps`` must all succeed, or are taken back; ``clearing`` comes after and may be tried again any time."""

    steps: tuple[Step[E], ...]
    clearing: tuple[Step[E], ...]


def wanted_effects(groups: Iterable[Sequence[E]]) -> tuple[E, ...]:
    """Return the effects of several deployments as one list, what they share once."""
    found: list[E] = []
    for group in groups:
        found += [effect for effect in group if effect not in found]
    return tuple(found)


def plan(present: Sequence[E], wanted: Sequence[E]) -> Plan[E]:
    """Return how to come from the effects that hold, in the order they were done, to those that are wanted."""
    keys = {effect.key for effect in wanted}
    assert len(keys) == len(wanted), "two wanted effects have one key"
    leaving = [effect for effect in reversed(present) if effect not in wanted]
    coming = [effect for effect in wanted if effect not in present]
    # Of two effects with one key the old must go first, exclusive or not: and then what was done on top of it, too.
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
