"""Every plan leads to what is wanted, from any point where it was cut short, and can be taken back."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from milkyway_agent.core.transition import Plan, Step, after, plan, take_back, wanted_effects


class Deed(NamedTuple):
    """An effect with a version: two with the same key are different."""

    key: str
    version: int = 1
    exclusive: bool = False

    def describe(self) -> str:
        return f"{self.key} {self.version}"


LAYER, STACK1, STACK2 = Deed("layer"), Deed("stack v1"), Deed("stack v2")
RUN1, RUN2 = Deed("services", 1, exclusive=True), Deed("services", 2, exclusive=True)


def words(steps: tuple[Step[Deed], ...]) -> list[str]:
    return [step.describe() for step in steps]


def test_a_first_deployment_is_done_in_order() -> None:
    found = plan((), (LAYER, STACK1, RUN1))
    assert words(found.steps) == ["layer 1", "stack v1 1", "services 1"]
    assert found.clearing == ()


def test_an_upgrade_prepares_first_stops_late_and_clears_last() -> None:
    found = plan((LAYER, STACK1, RUN1), (LAYER, STACK2, RUN2))
    assert words(found.steps) == ["stack v2 1", "undo: services 1", "services 2"]
    assert words(found.clearing) == ["undo: stack v1 1"]


def test_a_removal_goes_backwards() -> None:
    found = plan((LAYER, STACK1, RUN1), ())
    assert words(found.steps) == ["undo: services 1"]
    assert words(found.clearing) == ["undo: stack v1 1", "undo: layer 1"]


def test_what_holds_already_is_not_touched() -> None:
    assert plan((LAYER, STACK1, RUN1), (LAYER, STACK1, RUN1)) == Plan((), ())


def test_what_two_deployments_share_is_done_once() -> None:
    assert wanted_effects([(LAYER, STACK1, RUN1), (LAYER, STACK2)]) == (LAYER, STACK1, RUN1, STACK2)


DEEDS = st.builds(Deed, st.sampled_from("abcdef"), st.integers(1, 3), st.booleans())
LISTS = st.lists(DEEDS, unique_by=lambda deed: deed.key, max_size=6).map(tuple)


@given(LISTS, LISTS)
def test_every_plan_leads_to_what_is_wanted(present: tuple[Deed, ...], wanted: tuple[Deed, ...]) -> None:
    found = plan(present, wanted)
    assert set(after(present, (*found.steps, *found.clearing))) == set(wanted)


@given(LISTS, LISTS, st.integers(0, 20))
def test_a_plan_that_was_cut_short_can_be_taken_back(present: tuple[Deed, ...], wanted: tuple[Deed, ...], cut: int) -> None:
    done = plan(present, wanted).steps[:cut]
    assert set(after(after(present, done), take_back(done))) == set(present)


@given(LISTS, LISTS, st.integers(0, 20))
def test_planning_again_after_a_cut_leads_to_the_same_end(
    present: tuple[Deed, ...], wanted: tuple[Deed, ...], cut: int
) -> None:
    first = plan(present, wanted)
    reached = after(present, (*first.steps, *first.clearing)[:cut])
    again = plan(reached, wanted)
    assert set(after(reached, (*again.steps, *again.clearing))) == set(wanted)


@given(LISTS, LISTS)
def test_two_of_one_key_never_hold_at_once(present: tuple[Deed, ...], wanted: tuple[Deed, ...]) -> None:
    found = plan(present, wanted)
    steps = (*found.steps, *found.clearing)
    for end in range(len(steps) + 1):
        keys = [deed.key for deed in after(present, steps[:end])]
        assert len(keys) == len(set(keys))
