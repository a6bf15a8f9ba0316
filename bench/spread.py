"""The summary of several rounds: the median with its spread, and the ratio of two peers.

Pure. A ratio is taken within each round, where both ran under the same conditions, and only then summarised.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Rounds = Mapping[int, float]  # by number of the round; a round that failed is left out


class Spread(NamedTuple):
    """A median with the least, the greatest and the quartiles (inclusive method: of this sample, not of a population)."""

    median: float
    least: float
    greatest: float
    lower_quartile: float
    upper_quartile: float

    @property
    def interquartile(self) -> float:
        """The width of the middle half."""
        return self.upper_quartile - self.lower_quartile


def spread(values: Sequence[float]) -> Spread:
    """Summarise *values*. Raises ValueError when there are none."""
    if not values:
        raise ValueError("cannot summarise nothing")
    if len(values) == 1:
        return Spread(*[values[0]] * 5)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, min(values), max(values), lower, upper)


def ratio(ours: Rounds, theirs: Rounds) -> Spread | None:
    """Return ours divided by theirs, round by round; None when no round has both.

    If both are 0, the ratio is 1; if only theirs is 0, it is infinite.
    """
    quotients = [_quotient(ours[number], theirs[number]) for number in sorted(ours.keys() & theirs.keys())]
    return spread(quotients) if quotients else None


def _quotient(ours: float, theirs: float) -> float:
    if theirs:
        return ours / theirs
    return float("inf") if ours else 1.0


def slope(few: tuple[int, float], many: tuple[int, float]) -> float:
    """Return the cost of one more, from (number, cost) at two points. Raises ValueError if their numbers are equal."""
    if few[0] == many[0]:
        raise ValueError(f"cannot tell a slope from {few[0]} alone")
    return (many[1] - few[1]) / (many[0] - few[0])
