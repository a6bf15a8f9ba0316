"""How long the uplink waits before it asks again: arithmetic, and the one loop that goes by it."""

from collections.abc import Awaitable, Callable

import trio

from milkyway_formats.errors import RefusedError, UnavailableError

FIRST_S = 1.0
LONGEST_S = 60.0
REFUSED_S = 300.0  # after a refusal that only an operator can lift
FREE_ANSWERS = 8  # so many answers may follow each other at once (a desired state, some commands)
SPACING_S = 1.0

Chance = Callable[[], float]
Answered = Callable[[str], Awaitable[None]]  # told what there is to say although all is well; mostly nothing
Attempt = Callable[[Answered], Awaitable[None]]
Say = Callable[[bool, str], Awaitable[None]]


def after_failure(failures: int, chance: float) -> float:
    """Return the seconds to wait after so many *failures* in a row (1, 2, …); *chance* is in [0, 1).

    Doubling, and spread over the upper half: a fleet that lost its server at one moment does not come back at one.
    """
    whole = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 16))
    return whole * (0.5 + chance / 2)


def after_refusal(chance: float) -> float:
    """Return the seconds to wait when the server answers, and says no."""
    return REFUSED_S * (0.5 + chance / 2)


def after_answer(answers: int) -> float:
    """Return the seconds to wait after so many *answers* that came without any holding: a server can't keep us spinning."""
    return 0.0 if answers <= FREE_ANSWERS else SPACING_S


async def persist(attempt: Attempt, say: Say, chance: Chance) -> None:
    """Attempt again and again, until *attempt* returns. It says by its argument that the server answered well.

    *say* is told whether the server answers: True when it does, False and why when an attempt fails.
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
