"""When a timer starts its service, whatever happens to the clocks."""

import datetime
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milkyway_agent.core.calendar import next_after, parse
from milkyway_agent.core.schedule import WRONG_CLOCK_MS, Due, Past, arm, clock_set, due, ended, fired, started
from milkyway_formats.errors import RefusedError
from milkyway_formats.timer import Timer

NOON = 1_710_504_000_000  # 2024-03-15 12:00:00
HOUR = 3_600_000
DAY = 24 * HOUR
UP = 5_000  # the machine booted this long before


def armed(timer: Timer, *, now_ms: int = NOON, boottime_ms: int = UP, stamp_ms: int | None = None, chance: float = 0.0) -> Past:
    return arm(timer, now_ms=now_ms, boottime_ms=boottime_ms, stamp_ms=stamp_ms, chance=chance)


def test_a_calendar_time_is_due_when_it_comes() -> None:
    timer = Timer(calendar=["*:30", "13:15"])
    assert due(timer, armed(timer), now_ms=NOON, boottime_ms=UP) == Due("realtime", NOON + HOUR // 2, "calendar", "*:30")


def test_the_second_it_is_armed_in_is_over() -> None:
    timer = Timer(calendar=["12:00"])
    found = due(timer, armed(timer), now_ms=NOON, boottime_ms=UP)
    assert found is not None and found.at == NOON + DAY


def test_a_second_before_it_is_not_too_late() -> None:
    timer = Timer(calendar=["12:00"])
    found = due(timer, armed(timer, now_ms=NOON - 1), now_ms=NOON - 1, boottime_ms=UP)
    assert found is not None and found.at == NOON


def test_a_time_that_never_comes_is_never_due() -> None:
    timer = Timer(calendar=["*-02-30", "2003-1-1"])
    assert due(timer, armed(timer), now_ms=NOON, boottime_ms=UP) is None


def test_a_calendar_that_cannot_be_read_is_refused() -> None:
    timer = Timer(calendar=["25:00"])
    with pytest.raises(RefusedError, match="hour 25"):
        due(timer, armed(timer), now_ms=NOON, boottime_ms=UP)


def test_after_the_boot_it_starts_once() -> None:
    timer = Timer(after_boot_ms=60_000)
    past = armed(timer)
    found = due(timer, past, now_ms=NOON, boottime_ms=UP)
    assert found == Due("boottime", 60_000, "boot", "60 s after the boot")
    assert due(timer, fired(past, found, now_ms=NOON, chance=0), now_ms=NOON, boottime_ms=60_000) is None


def test_armed_long_after_the_boot_it_starts_at_once() -> None:
    timer = Timer(after_boot_ms=60_000)
    found = due(timer, armed(timer, boottime_ms=DAY), now_ms=NOON, boottime_ms=DAY)
    assert found is not None and found.at <= DAY


def test_after_an_end_it_starts_again_and_not_while_it_runs() -> None:
    timer = Timer(after_end_ms=1500)
    past = armed(timer)
    assert due(timer, past, now_ms=NOON, boottime_ms=UP) is None
    past = ended(past, boottime_ms=9_000)
    found = due(timer, past, now_ms=NOON, boottime_ms=9_000)
    assert found == Due("boottime", 10_500, "end", "1.5 s after it ended")
    assert due(timer, fired(past, found, now_ms=NOON, chance=0), now_ms=NOON, boottime_ms=10_500) is None
    assert due(timer, started(past), now_ms=NOON, boottime_ms=9_500) is None


def test_the_earliest_of_both_clocks_wins() -> None:
    timer = Timer(calendar=["12:10"], after_boot_ms=HOUR)
    late, early = armed(timer, boottime_ms=HOUR - 700_000), armed(timer, boottime_ms=HOUR - 500_000)
    first = due(timer, late, now_ms=NOON, boottime_ms=HOUR - 700_000)
    second = due(timer, early, now_ms=NOON, boottime_ms=HOUR - 500_000)
    assert (first and first.cause, second and second.cause) == ("calendar", "boot")


def test_a_start_after_the_boot_uses_no_calendar_time_up() -> None:
    timer = Timer(calendar=["12:10"], after_boot_ms=10_000, random_delay_ms=HOUR)
    past = armed(timer)
    first = due(timer, past, now_ms=NOON, boottime_ms=UP)
    assert first is not None and first.cause == "boot"
    past = fired(past, first, now_ms=NOON + 900_000, chance=0.5)  # 12:15, and 12:10 still waits for its random delay
    assert due(timer, past, now_ms=NOON + 900_000, boottime_ms=UP) == Due(
        "realtime", NOON + 600_000 + HOUR // 2, "calendar", "12:10"
    )


def test_what_was_missed_is_due_at_once_and_once() -> None:
    timer = Timer(calendar=["daily"], persistent=True)
    past = armed(timer, stamp_ms=NOON - 5 * DAY)
    found = due(timer, past, now_ms=NOON, boottime_ms=UP)
    assert found is not None and (found.cause, found.clock, found.at) == ("missed", "boottime", UP)
    past = fired(past, found, now_ms=NOON + 20, chance=0)
    after = due(timer, past, now_ms=NOON + 20, boottime_ms=UP + 20)
    assert after == Due("realtime", NOON + 12 * HOUR, "calendar", "daily")


def test_nothing_is_missed_when_no_time_passed() -> None:
    timer = Timer(calendar=["daily"], persistent=True)
    found = due(timer, armed(timer, stamp_ms=NOON - HOUR), now_ms=NOON, boottime_ms=UP)
    assert found is not None and (found.cause, found.at) == ("calendar", NOON + 12 * HOUR)


def test_what_is_not_persistent_misses_its_times() -> None:
    timer = Timer(calendar=["daily"])
    found = due(timer, armed(timer, stamp_ms=NOON - 5 * DAY), now_ms=NOON, boottime_ms=UP)
    assert found is not None and (found.cause, found.at) == ("calendar", NOON + 12 * HOUR)


def test_the_first_time_ever_nothing_was_missed() -> None:
    timer = Timer(calendar=["daily"], persistent=True)
    found = due(timer, armed(timer), now_ms=NOON, boottime_ms=UP)
    assert found is not None and found.cause == "calendar"


def test_a_missed_start_is_spread_by_chance_too() -> None:
    """A fleet that comes back after a power cut does not start everything in the same second."""
    timer = Timer(calendar=["daily"], persistent=True, random_delay_ms=HOUR)
    past = armed(timer, stamp_ms=NOON - DAY, chance=0.25)
    found = due(timer, past, now_ms=NOON, boottime_ms=UP)
    assert found is not None and found.at == UP + HOUR // 4
    assert due(timer, clock_set(past, now_ms=NOON - 7 * DAY), now_ms=NOON - 7 * DAY, boottime_ms=UP + 9) == found


def test_a_clock_that_goes_back_as_it_starts_brings_the_time_no_second_time() -> None:
    timer = Timer(calendar=["daily"])
    past = armed(timer)
    found = due(timer, past, now_ms=NOON, boottime_ms=UP)
    assert found is not None
    past = fired(past, found, now_ms=NOON, chance=0)  # the clock was set back by twelve hours between expiry and start
    after = due(timer, past, now_ms=NOON, boottime_ms=UP)
    assert after is not None and after.at == found.at + DAY


def test_a_clock_that_goes_back_as_a_missed_start_is_made_up_for_brings_it_no_second_time() -> None:
    timer = Timer(calendar=["daily"], persistent=True)
    past = armed(timer, stamp_ms=NOON - 2 * DAY)
    found = due(timer, past, now_ms=NOON, boottime_ms=UP)
    assert found is not None and found.cause == "missed"
    past = fired(past, found, now_ms=NOON - DAY, chance=0)
    after = due(timer, past, now_ms=NOON - DAY, boottime_ms=UP)
    assert after is not None and (after.cause, after.at) == ("calendar", NOON + 12 * HOUR)


def test_a_time_that_comes_as_the_timer_is_armed_is_missed_no_later_than_any_other() -> None:
    timer = Timer(calendar=["12:00"], persistent=True)
    found = due(timer, armed(timer, stamp_ms=NOON - HOUR), now_ms=NOON, boottime_ms=UP)
    assert found is not None and (found.cause, found.at) == ("missed", UP)


def test_a_stamp_from_years_ahead_is_not_believed() -> None:
    timer = Timer(calendar=["daily"], persistent=True)
    found = due(timer, armed(timer, stamp_ms=NOON + WRONG_CLOCK_MS + 1), now_ms=NOON, boottime_ms=UP)
    assert found is not None and found.at == NOON + 12 * HOUR


def test_a_clock_that_was_years_ahead_is_forgotten() -> None:
    timer = Timer(calendar=["daily"])
    years = 50 * 366 * DAY
    past = armed(timer, now_ms=NOON + years)
    found = due(timer, past, now_ms=NOON + years, boottime_ms=UP)
    assert found is not None
    for before in (past, fired(past, found, now_ms=found.at, chance=0)):
        after = due(timer, clock_set(before, now_ms=NOON), now_ms=NOON, boottime_ms=UP)
        assert after is not None and after.at == NOON + 12 * HOUR


def test_chance_out_of_range_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="chance"):
        armed(Timer(calendar=["daily"]), chance=1.0)


class World(NamedTuple):
    """Both clocks."""

    now_ms: int
    boottime_ms: int

    def waited(self, milliseconds: int) -> "World":
        return World(self.now_ms + milliseconds, self.boottime_ms + milliseconds)


CHANCES = st.floats(0, 1, exclude_max=True)
TEXTS = st.sampled_from(["hourly", "daily", "*:0/10", "Mon *-*-* 03:00", "12:10", "13:00,30", "monthly"])
TIMERS = st.builds(
    Timer,
    calendar=st.lists(TEXTS, min_size=1, max_size=3),
    persistent=st.booleans(),
    random_delay_ms=st.sampled_from([0, 1, 90_000, HOUR, 3 * HOUR]),
)
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 3 * DAY)),
        st.tuples(st.just("set"), st.integers(-20 * DAY, 20 * DAY)),
        st.tuples(st.just("off"), st.integers(0, 20 * DAY)),
    ),
    max_size=12,
)


def wait_for(timer: Timer, world: World, found: Due) -> World:
    wait = found.at - (world.now_ms if found.clock == "realtime" else world.boottime_ms)
    return world.waited(max(wait, 0))


@settings(max_examples=150, deadline=None)
@given(timer=TIMERS, deeds=DEEDS, chances=st.lists(CHANCES, min_size=1, max_size=5), late=st.integers(0, 2000))
def test_no_calendar_time_starts_it_twice(timer: Timer, deeds: list[tuple[str, int]], chances: list[float], late: int) -> None:
    """However the clock is set (by less than a wrong clock is), and however often the machine goes off."""
    world = World(NOON, UP)
    past = armed(timer, chance=chances[0])
    used: list[int] = []
    back = 0  # the clock must not be set back by more than WRONG_CLOCK_MS
    for number, (deed, amount) in enumerate(deeds):
        match deed:
            case "set":
                if back - amount > WRONG_CLOCK_MS:
                    continue
                back = max(back - amount, 0)
                world = World(world.now_ms + amount, world.boottime_ms)
                past = clock_set(past, now_ms=world.now_ms)
            case "off":
                world = World(world.now_ms + amount, UP)
                past = armed(timer, now_ms=world.now_ms, stamp_ms=past.last_trigger_ms, chance=past.chance)
                if not timer.persistent:
                    used.clear()  # nothing is remembered: if the clock was set back before, a time may come again
            case _:
                until = world.waited(amount)
                while True:
                    found = due(timer, past, now_ms=world.now_ms, boottime_ms=world.boottime_ms)
                    assert found is not None
                    arrives = wait_for(timer, world, found)
                    if arrives.boottime_ms > until.boottime_ms:
                        break
                    if found.cause == "calendar":
                        used.append(found.at - int(timer.random_delay_ms * past.chance))
                    world = arrives.waited(late)
                    past = fired(past, found, now_ms=world.now_ms, chance=chances[number % len(chances)])
                world = max(until, world, key=lambda each: each.boottime_ms)
    assert used == sorted(set(used))


@settings(max_examples=100, deadline=None)
@given(timer=TIMERS, chance=CHANCES, jump=st.integers(0, 400 * DAY))
def test_a_jump_forward_over_many_times_starts_it_once(timer: Timer, chance: float, jump: int) -> None:
    world = World(NOON + jump, UP + 1)
    past = clock_set(armed(timer, chance=chance), now_ms=world.now_ms)
    found = due(timer, past, now_ms=world.now_ms, boottime_ms=world.boottime_ms)
    assert found is not None
    if found.at <= world.now_ms:
        past = fired(past, found, now_ms=world.now_ms, chance=chance)
        after = due(timer, past, now_ms=world.now_ms, boottime_ms=world.boottime_ms)
        assert after is not None and after.at > world.now_ms
    else:
        times = [time for text in timer.calendar if (time := next_after(parse(text), NOON // 1000)) is not None]
        assert min(times) * 1000 + int(timer.random_delay_ms * chance) > world.now_ms  # none was jumped over


@settings(max_examples=100, deadline=None)
@given(timer=TIMERS, chance=CHANCES, moments=st.lists(st.integers(0, 30 * DAY), max_size=6), back=st.integers(-DAY, DAY))
def test_asking_again_changes_nothing(timer: Timer, chance: float, moments: list[int], back: int) -> None:
    """What is due does not change until it has started, neither as time passes nor when the clock is set."""
    past = armed(timer, chance=chance)
    first = due(timer, past, now_ms=NOON, boottime_ms=UP)
    for moment in moments:
        again = clock_set(past, now_ms=NOON + moment + back)
        assert due(timer, again, now_ms=NOON + moment + back, boottime_ms=UP + moment) == first


@settings(max_examples=100, deadline=None)
@given(timer=TIMERS, chance=CHANCES)
def test_a_random_delay_is_within_its_bound(timer: Timer, chance: float) -> None:
    found = due(timer, armed(timer, chance=chance), now_ms=NOON, boottime_ms=UP)
    exact = due(timer, armed(timer), now_ms=NOON, boottime_ms=UP)
    assert found is not None and exact is not None
    assert 0 <= found.at - exact.at <= timer.random_delay_ms


def test_chance_spreads_over_the_whole_bound() -> None:
    timer = Timer(calendar=["daily"], random_delay_ms=1000)
    midnight = int(datetime.datetime(2024, 3, 16, tzinfo=datetime.UTC).timestamp()) * 1000
    spread = []
    for chance in (0, 0.5, 0.999):
        found = due(timer, armed(timer, chance=chance), now_ms=NOON, boottime_ms=UP)
        assert found is not None
        spread.append(found.at - midnight)
    assert spread == [0, 500, 999]
