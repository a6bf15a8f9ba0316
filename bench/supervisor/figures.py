"""What is measured, in which unit, and which goals are set for it.

Most goals are a share of a peer's figure in the same run, some are an amount. Pure.
"""

import math
from typing import Literal, NamedTuple

from bench.spread import Rounds, Spread, ratio, spread

FigureName = Literal[
    "up_few", "up", "first", "rest", "restart", "restart_many", "memory_few", "memory", "slope", "wakeups", "blind"
]
Results = dict[str, dict[FigureName, dict[int, float]]]  # by peer, by figure, by round
OURS = "milkyway"
LEAST = "floor"  # the peer that does only what every start needs
FEW = 100  # the smaller number of services; also how many are killed at once


class Figure(NamedTuple):
    """A measured figure: what it means, for *services* and *few* services, and how it is printed."""

    name: FigureName
    title: str
    unit: str
    digits: int
    meaning: str


FIGURES = (
    Figure("up_few", "{few} up", "ms", 0, "from exec of the supervisor until each of {few} services has begun to run"),
    Figure("up", "{services} up", "ms", 0, "from exec of the supervisor until each of {services} services has begun to run"),
    Figure("first", "first up", "ms", 1, "from exec of the supervisor until the first of {services} services runs"),
    Figure("rest", "first to last", "ms", 0, "from the first of {services} services to the last, leaving out its own start"),
    Figure("restart", "kill -9 → running", "ms", 2, "one service killed → the new one runs; median of {kills} services"),
    Figure("restart_many", "{killed} killed at once", "ms", 1, "{killed} services killed at once → each runs again"),
    Figure("memory_few", "memory at {few}", "MiB", 1, "as below with {few} services"),
    Figure(
        "memory", "memory at {services}", "MiB", 1,
        "PSS and page tables of all the supervisor's own processes; files that other programs map too count in full",
    ),
    Figure("slope", "per further service", "KiB", 1, "memory at {services} less memory at {few}, for each further service"),
    Figure("wakeups", "idle wakeups", "1/s", 2, "how often a thread of the supervisor wakes while nothing happens"),
    Figure(
        "blind", "re-execution", "ms", 1,
        "during re-execution, the longest time in which no killed service comes back, less a restart",
    ),
)  # fmt: skip


class Goal(NamedTuple):
    """Our figure shall be at most *at_most* times the *peer*'s, or, without a peer, *at_most* in the figure's unit."""

    figure: FigureName
    at_most: float
    peer: str = ""


GOALS = (
    Goal("up", 1 / 3, "runit"),
    Goal("up", 1 / 7, "s6"),
    Goal("up", 1 / 12, "systemd"),
    Goal("up", 1 / 50, "supervisord"),
    Goal("up", 1, "dinit"),
    Goal("first", 15),
    Goal("restart", 1 / 10, "systemd-0s"),
    Goal("restart", 1 / 2, "runit"),
    Goal("restart", 1, "dinit"),
    Goal("restart_many", 1 / 2, "runit"),
    Goal("restart_many", 1.05, "dinit"),
    Goal("memory", 1 / 3, "s6"),
    Goal("memory", 0.4, "runit"),
    Goal("memory", 0.85, "supervisord"),
    Goal("slope", 12),
    Goal("wakeups", 0),
    Goal("blind", 120),
)


SPEEDS: frozenset[FigureName] = frozenset({"up_few", "up", "first", "rest", "restart", "restart_many"})


class Outcome(NamedTuple):
    """A goal and what was measured. ``reached``: by the median; None if one of the two peers was not measured.

    ``least``: the same for the floor; None also where that means nothing, since the floor never re-executes and has
    nothing to keep in memory.
    """

    goal: Goal
    measured: Spread | None
    reached: bool | None
    least: Spread | None


def outcome(goal: Goal, results: Results) -> Outcome:
    """Compare *results* with *goal*."""
    measured = _measured(goal, results, OURS)
    least = _measured(goal, results, LEAST) if goal.figure in SPEEDS else None
    return Outcome(goal, measured, None if measured is None else measured.median <= goal.at_most, least)


def _measured(goal: Goal, results: Results, whose: str) -> Spread | None:
    theirs = results.get(whose, {}).get(goal.figure, {})
    return ratio(theirs, results.get(goal.peer, {}).get(goal.figure, {})) if goal.peer else _sum_up(theirs)


def _sum_up(rounds: Rounds) -> Spread | None:
    return spread(list(rounds.values())) if rounds else None


def share(value: float) -> str:
    """Return a ratio as people write it: 1/12, 0.4, 1.05."""
    parts = 1 / value if value else 0.0
    if parts > 1.5 and math.isclose(parts, round(parts), rel_tol=1e-9):
        return f"1/{round(parts)}"
    return f"{value:g}"
