"""How long a supervisor restarted nothing, from the times when services were killed and ran again. Pure.

While a supervisor re-executes itself it starts nothing. The wait of a single killed service overstates that: after the
silence a slow supervisor works through a queue. So the silence itself is measured: the longest time in which a service
was missing and none came back.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Return(NamedTuple):
    """A service that was killed and ran again: the two times, in any unit."""

    killed: float
    born: float


def longest_silence(returns: Sequence[Return]) -> float:
    """Return the longest time in which a killed service was missing and none came back. Raises ValueError without *returns*.

    Its resolution is the time between kills: a silence is noticed by the first kill that falls into it.
    """
    if not returns:
        raise ValueError("cannot tell a silence from nothing")
    in_order = sorted(returns, key=lambda service: service.born)
    silences: list[float] = []
    for number, service in enumerate(in_order):
        first_missing = min(missing.killed for missing in in_order[number:])
        begun = max(first_missing, in_order[number - 1].born) if number else first_missing
        silences.append(service.born - begun)
    return max(silences)
