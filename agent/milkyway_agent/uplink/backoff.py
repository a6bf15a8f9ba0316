"""How long the uplink waits before it asks again: the arithmetic, and the loop that uses it."""

from collections.abc import Awaitable, Callable

import trio

from milkyway_formats.errors import RefusedError, UnavailableError

FIRST_S = 1.0
LONGEST_S = 60.0
REFUSED_S = 300.0  # after a refusal that only an operator can lift
FREE_ANSWERS = 8  # this many answers in a row are not slowed down (a desired state, some commands)
SPACING_S = 1.0

Chance = Callable[[], float]
Answered = Callable[[str], Awaitable[None]]  # its argument is a remark although all is well; mostly empty
Attempt = Callable[[Answered], Awaitable[None]]
Say = Callable[[bool, str], Awaitable[None]]


def after_failure(failures: int, chance: float) -> float:
    """Return the seconds to wait after *failures* in a row (1, 2, …); *chance* is in [0, 1).

    Doubles, spread over the upper half: a fleet that lost its server all at once does not return all at once.
    """
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + chance / 2)


def after_refusal(chance: float) -> float:
    """Return the seconds to wait when the server has answered with a refusal."""
    return REFUSED_S * (0.5 + chance / 2)


def after_answer(answers: int) -> float:
    """Return the seconds to wait after *answers* in a row that were not held: no server can keep us spinning."""
    return 0.0 if answers <= FREE_ANSWERS else SPACING_S


async def persist(attempt: Attempt, say: Say, chance: Chance) -> None:
    """Repeat *attempt* until it returns. It calls its argument whenever the server has answered well.

    *say* is told whether the server answers: True when it does, False with the reason when an attempt fails.
    """
    failures = 0

    async def answered(detail: str) -> None:
        nonlocal failures
        failures = 0
        await say(True, detail)

    while True:
        try:
            await attempt(answered)
        except RefusedError as error:
            pause, reason = after_refusal(chance()), str(error)
        except UnavailableError as error:
            failures += 1
            pause, reason = after_failure(failures, chance()), str(error)
        else:
            return
        await say(False, reason)
        await trio.sleep(pause)
