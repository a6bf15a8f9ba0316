"""The summary of several rounds, and how it compares with the goals."""

import math

import pytest

from bench.spread import Spread, ratio, slope, spread
from bench.supervisor.figures import FIGURES, GOALS, OURS, Goal, Results, outcome, share


def test_a_spread_has_the_median_the_ends_and_the_quartiles() -> None:
    assert spread([5, 1, 3, 2, 4]) == Spread(3, 1, 5, 2, 4)
    assert spread([5, 1, 3, 2, 4]).interquartile == 2


def test_one_round_alone_has_no_width() -> None:
    assert spread([7.5]) == Spread(7.5, 7.5, 7.5, 7.5, 7.5)
    assert spread([7.5]).interquartile == 0


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="nothing"):
        spread([])


def test_a_ratio_is_taken_within_each_round_and_not_between_medians() -> None:
    """A machine that is ten times slower in one round slows both: the ratio stays."""
    assert ratio({1: 1, 2: 10, 3: 2}, {1: 2, 2: 20, 3: 4}) == Spread(0.5, 0.5, 0.5, 0.5, 0.5)


def test_a_round_that_either_lacks_does_not_count_for_their_ratio() -> None:
    assert ratio({1: 1, 2: 9}, {1: 4, 3: 9}) == Spread(0.25, 0.25, 0.25, 0.25, 0.25)
    assert ratio({1: 1}, {2: 1}) is None


def test_nothing_compared_with_nothing_is_equal_and_something_with_nothing_infinite() -> None:
    none, some = ratio({1: 0}, {1: 0}), ratio({1: 1}, {1: 0})
    assert none is not None
    assert some is not None
    assert none.median == 1
    assert math.isinf(some.median)


def test_a_slope_is_the_cost_of_one_more() -> None:
    assert slope((100, 5000), (500, 9800)) == 12
    with pytest.raises(ValueError, match="100 alone"):
        slope((100, 1), (100, 2))


def test_a_goal_that_names_a_peer_is_compared_with_the_ratio() -> None:
    results: Results = {OURS: {"up": {1: 30, 2: 31}}, "runit": {"up": {1: 100, 2: 100}}}
    assert outcome(Goal("up", 1 / 3, "runit"), results).reached
    assert outcome(Goal("up", 0.3, "runit"), results).reached is False


def test_a_goal_without_a_peer_is_compared_with_the_amount() -> None:
    results: Results = {OURS: {"first": {1: 15.0, 2: 15.0, 3: 90.0}}}
    assert outcome(Goal("first", 15), results).reached
    assert outcome(Goal("first", 14.9), results).reached is False


def test_a_goal_is_neither_reached_nor_missed_if_either_was_not_measured() -> None:
    assert outcome(Goal("up", 1, "dinit"), {OURS: {"up": {1: 30}}}).reached is None
    assert outcome(Goal("first", 15), {"s6": {"first": {1: 1}}}).reached is None


def test_shares_are_written_as_people_write_them() -> None:
    assert [share(value) for value in (1 / 12, 1 / 3, 0.5, 0.4, 0.85, 1, 1.05)] == [
        "1/12",
        "1/3",
        "1/2",
        "0.4",
        "0.85",
        "1",
        "1.05",
    ]


def test_every_goal_is_of_a_figure_that_is_measured() -> None:
    assert {goal.figure for goal in GOALS} <= {figure.name for figure in FIGURES}
