"""How long to wait before the next try: backoff that doubles, with jitter, so that a fleet does not come back all at once.

Chance is an argument: a number from [0, 1).
"""

from typing import NamedTuple


class Patience(NamedTuple):
    """The bounds of a backoff, in milliseconds."""

    first_ms: int = 1_000
    limit_ms: int = 300_000


def delay_ms(patience: Patience, failures: int, chance: float) -> int:
    """Return how long to wait after *failures* failed tries in a row (0: the last try succeeded; try again at once).

    "Full jitter": anything from 0 to the bound, so that machines that failed together spread out.
    """
    assert 0 <= chance < 1, f"chance is a number from [0, 1), not {chance}"
    if failures <= 0:
        return 0
    bound = min(patience.first_ms << min(failures - 1, 32), patience.limit_ms)
    return int(bound * chance)
