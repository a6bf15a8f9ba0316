"""Setting the clock wakes the timers that asked for that. The clock is put back exactly, by the kernel's own addition."""

import ctypes
import errno
import os
import select
import struct

import pytest

from milkyway_agent.system import timerfd

pytestmark = pytest.mark.privileged

ADJ_SETOFFSET, ADJ_NANO = 0x0100, 0x2000  # linux/timex.h
TIMEX_BYTES, TIMEX_TIME = 208, 72  # struct timex on 64-bit machines, and the offset of its time
CANCEL_ON_SET = timerfd.TFD_TIMER_ABSTIME | timerfd.TFD_TIMER_CANCEL_ON_SET


def shift_clock(nanoseconds: int) -> None:
    """Set CLOCK_REALTIME by adding to it: no time passes between reading and setting, so nothing is lost."""
    timex = bytearray(TIMEX_BYTES)
    struct.pack_into("@I", timex, 0, ADJ_SETOFFSET | ADJ_NANO)
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    struct.pack_into("@2l", timex, TIMEX_TIME, seconds, rest)
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_char * TIMEX_BYTES).from_buffer(timex)
    if libc.clock_adjtime(timerfd.CLOCK_REALTIME, buffer) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.parametrize("value", [timerfd.FAR_AWAY_NS, 0])
def test_a_timer_that_asked_is_told_that_the_clock_was_set(value: int) -> None:
    asked = timerfd.timerfd_create(timerfd.CLOCK_REALTIME)
    plain = timerfd.timerfd_create(timerfd.CLOCK_REALTIME)
    try:
        timerfd.timerfd_settime(asked, value, CANCEL_ON_SET)
        timerfd.timerfd_settime(plain, timerfd.FAR_AWAY_NS)
        shift_clock(1)
        try:
            assert select.select([asked, plain], [], [], 60)[0] == [asked]
            with pytest.raises(OSError, match="canceled") as caught:
                timerfd.read(asked)
            assert caught.value.errno == errno.ECANCELED
        finally:
            shift_clock(-1)
        # It was set once more: it wakes once more, and then not again.
        with pytest.raises(OSError, match="canceled"):
            timerfd.read(asked)
        with pytest.raises(BlockingIOError):
            timerfd.read(asked)
    finally:
        os.close(asked)
        os.close(plain)


def test_arming_a_timer_anew_tells_it_too_and_arms_it_nevertheless() -> None:
    timer = timerfd.timerfd_create(timerfd.CLOCK_REALTIME)
    try:
        timerfd.timerfd_settime(timer, timerfd.FAR_AWAY_NS, CANCEL_ON_SET)
        shift_clock(1)
        try:
            with pytest.raises(OSError, match="canceled"):
                timerfd.timerfd_settime(timer, 1, CANCEL_ON_SET)
            assert timerfd.read(timer) == 1
        finally:
            shift_clock(-1)
    finally:
        os.close(timer)
