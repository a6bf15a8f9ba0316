"""Timers that are descriptors (timerfd_create(2)), so that an event loop wakes at a time of the real-time clock.

Python has these calls from 3.13 on. With TFD_TIMER_CANCEL_ON_SET, a timer of CLOCK_REALTIME also wakes when
the clock is set: then ``read`` raises OSError (ECANCELED), and the timer's time must be computed anew.
"""

import os
import struct
import time

from milkyway_agent.system.libc import call

CLOCK_REALTIME = time.CLOCK_REALTIME
CLOCK_BOOTTIME = time.CLOCK_BOOTTIME
# linux/timerfd.h
TFD_NONBLOCK = os.O_NONBLOCK
TFD_CLOEXEC = os.O_CLOEXEC
TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2
_ITIMERSPEC = struct.Struct("@4l")  # interval, then value: seconds and nanoseconds each (64-bit kernels)
_NS = 1_000_000_000
FAR_AWAY_NS = (1 << 33) * _NS  # the year 2242: a timer armed for it only reports that the clock was set


def timerfd_create(clock: int, flags: int = TFD_NONBLOCK | TFD_CLOEXEC) -> int:
    """Return the descriptor of a new timer of *clock*, not yet armed."""
    return call("timerfd_create", clock, flags)


def timerfd_settime(timer: int, value_ns: int, flags: int = TFD_TIMER_ABSTIME) -> None:
    """Arm *timer* once, for the time *value_ns* of its clock (without TFD_TIMER_ABSTIME: for that long from now).

    0 disarms it. A time that has passed expires at once. Raises OSError (ECANCELED) if it is armed to report that the clock
    was set, and that has happened since it was last read; the timer is armed nevertheless.
    """
    call("timerfd_settime", timer, flags, _ITIMERSPEC.pack(0, 0, value_ns // _NS, value_ns % _NS), None)


def read(timer: int) -> int:
    """Return how often *timer* has expired since it was last armed or read.

    Raises BlockingIOError if it has not, and OSError (ECANCELED) if its clock was set and it was armed to report that.
    """
    return int(struct.unpack("=Q", os.read(timer, 8))[0])
