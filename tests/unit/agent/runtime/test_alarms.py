"""Alarms on trio's mock clock: everything rings when it should, and no test waits."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import trio
import trio.testing

from milkyway_agent.runtime.alarms import Alarm, Alarms


class Notes:
    """Records the names of the events that were logged."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, event: str, **_: object) -> None:
        self.events.append(event)


@asynccontextmanager
async def ringing() -> AsyncIterator[tuple[Alarms, Notes]]:
    notes = Notes()
    alarms = Alarms(notes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        yield alarms, notes
        nursery.cancel_scope.cancel()


async def test_alarms_ring_once_each_in_the_order_of_their_times(autojump_clock: trio.testing.MockClock) -> None:
    rung: list[tuple[str, float]] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: rung.append((name, trio.current_time() - begin))

    async with ringing() as (alarms, _):
        begin = trio.current_time()
        for name, seconds in (("c", 3.0), ("a", 1.0), ("past", -5.0), ("b", 2.0)):
            alarms.set(seconds, note(name))
        await trio.sleep(10)
    assert rung == [("past", 0.0), ("a", 1.0), ("b", 2.0), ("c", 3.0)]


async def test_an_earlier_alarm_that_is_set_meanwhile_wakes_the_task(autojump_clock: trio.testing.MockClock) -> None:
    rung: list[float] = []
    async with ringing() as (alarms, _):
        begin = trio.current_time()
        alarms.set(100, lambda: rung.append(100))
        await trio.sleep(1)
        alarms.set(1, lambda: rung.append(trio.current_time() - begin))
        await trio.sleep(5)
    assert rung == [2.0]


async def test_a_cancelled_alarm_never_rings_and_may_be_cancelled_again(autojump_clock: trio.testing.MockClock) -> None:
    rung: list[str] = []
    async with ringing() as (alarms, _):
        cancelled = alarms.set(1, lambda: rung.append("cancelled"))
        kept = alarms.set(1, lambda: rung.append("kept"))
        alarms.cancel(cancelled)
        alarms.cancel(cancelled)
        alarms.cancel(None)
        await trio.sleep(2)
        alarms.cancel(kept)  # it has rung
        await trio.sleep(2)
    assert rung == ["kept"]


async def test_an_alarm_may_cancel_another_that_is_due_at_the_same_time(autojump_clock: trio.testing.MockClock) -> None:
    rung: list[str] = []
    async with ringing() as (alarms, _):
        second: list[Alarm] = []

        def first() -> None:
            rung.append("first")
            alarms.cancel(second[0])

        alarms.set(1, first)
        second.append(alarms.set(1, lambda: rung.append("second")))
        await trio.sleep(3)
    assert rung == ["first"]


async def test_an_alarm_that_raises_is_logged_and_the_others_ring(autojump_clock: trio.testing.MockClock) -> None:
    rung: list[str] = []
    async with ringing() as (alarms, notes):
        alarms.set(1, lambda: [][0])
        alarms.set(1, lambda: rung.append("other"))
        await trio.sleep(2)
    assert (rung, notes.events) == (["other"], ["alarm_failed"])


async def test_a_watchdog_that_is_fed_for_ever_leaves_a_short_heap(autojump_clock: trio.testing.MockClock) -> None:
    alarms = Alarms(Notes())
    rung: list[int] = []
    kept = [alarms.set(50 + number, lambda number=number: rung.append(number)) for number in range(10)]  # type: ignore[misc] # bound early
    for _ in range(10_000):
        alarms.cancel(alarms.set(100, lambda: rung.append(-1)))
        assert len(alarms._heap) <= len(kept) + 2 * 65
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        await trio.sleep(200)
        nursery.cancel_scope.cancel()
    assert rung == list(range(10)), "only cancelled alarms were swept"


async def test_an_alarm_that_sets_itself_again_at_once_for_ever_starves_no_task() -> None:
    async with ringing() as (alarms, _):

        def again() -> None:
            alarms.set(0, again)

        alarms.set(0, again)
        for _ in range(10):
            await trio.lowlevel.checkpoint()


async def test_an_alarm_that_sets_itself_again_lets_others_have_their_turn(autojump_clock: trio.testing.MockClock) -> None:
    async with ringing() as (alarms, _):
        rung: list[float] = []

        def again() -> None:
            rung.append(trio.current_time())
            if len(rung) < 5:
                alarms.set(1, again)

        alarms.set(1, again)
        await trio.sleep(10)
    assert [after - before for before, after in pairwise(rung)] == [1.0] * 4
