"""How long nobody looked, told from when services were killed and when they ran again. Pure.

While a supervisor executes itself anew it starts nothing. How long a single killed service waited says too much of
that: after the silence a slow supervisor works through a queue. So the silence itself is measured: the longest time
in which a service was missing and none came back.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Return(NamedTuple):
    """A service that was killed and ran again: when, in any unit."""

    killed: float
    born: float


def longest_silence(returns: Sequence[Return]) -> float:
    """Return the longest time in which a killed service was missing and none came back. Raises ValueError without any.

    It is known as finely as services were killed: a silence is noticed with the first kill that falls into it.
    """
    if not returns:
        raise ValueError("cannot tell a silence from nothing")
    in_order = sorted(returns, key=lambda one: one.born)
    silences: list[float] = []
    for number, one in enumerate(in_order):
        first_missing = min(other.killed for other in in_order[number:])
        begun = max(first_missing, in_order[number - 1].born) if number else first_missing
        silences.append(one.born - begun)
    return max(silences)
