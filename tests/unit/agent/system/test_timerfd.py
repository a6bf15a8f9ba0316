"""The kernel's timers: they expire when their time has passed, and not before."""

import os
import select
import time
from collections.abc import Iterator

import pytest

from milkyway_agent.system import timerfd

NEVER_HERE_NS = 10**9 * 86_400 * 365 * 100
SOON_NS = 1_000_000


@pytest.fixture(params=[timerfd.CLOCK_REALTIME, timerfd.CLOCK_BOOTTIME])
def clock(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def timer(clock: int) -> Iterator[int]:
    descriptor = timerfd.timerfd_create(clock)
    yield descriptor
    os.close(descriptor)


def test_a_timer_is_closed_on_exec_and_does_not_block(timer: int) -> None:
    assert not os.get_inheritable(timer)
    assert not os.get_blocking(timer)
    with pytest.raises(BlockingIOError):
        timerfd.read(timer)


def test_a_time_that_has_passed_expires_at_once_and_once(timer: int) -> None:
    timerfd.timerfd_settime(timer, 1)
    assert timerfd.read(timer) == 1
    with pytest.raises(BlockingIOError):
        timerfd.read(timer)


def test_a_time_to_come_has_not_expired(clock: int, timer: int) -> None:
    timerfd.timerfd_settime(timer, time.clock_gettime_ns(clock) + NEVER_HERE_NS)
    with pytest.raises(BlockingIOError):
        timerfd.read(timer)


def test_a_loop_is_woken_when_the_time_has_come_and_not_before(clock: int, timer: int) -> None:
    at = time.clock_gettime_ns(clock) + SOON_NS
    timerfd.timerfd_settime(timer, at)
    assert select.select([timer], [], [], 60)[0] == [timer]
    assert time.clock_gettime_ns(clock) >= at
    assert timerfd.read(timer) == 1


def test_a_delay_can_be_relative(timer: int) -> None:
    timerfd.timerfd_settime(timer, SOON_NS, 0)
    assert select.select([timer], [], [], 60)[0] == [timer]


def test_a_disarmed_timer_does_not_expire(timer: int) -> None:
    timerfd.timerfd_settime(timer, 1)
    timerfd.timerfd_settime(timer, 0)
    with pytest.raises(BlockingIOError):
        timerfd.read(timer)


def test_the_year_2242_can_be_armed_for() -> None:
    timer = timerfd.timerfd_create(timerfd.CLOCK_REALTIME)
    try:
        timerfd.timerfd_settime(timer, timerfd.FAR_AWAY_NS, timerfd.TFD_TIMER_ABSTIME | timerfd.TFD_TIMER_CANCEL_ON_SET)
        with pytest.raises(BlockingIOError):
            timerfd.read(timer)
    finally:
        os.close(timer)


def test_an_unknown_clock_is_refused() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        timerfd.timerfd_create(77)
