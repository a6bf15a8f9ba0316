"""Signals that are read from a descriptor (signalfd(2)) instead of interrupting: no handler runs, however many arrive.

A Python handler runs wherever the interpreter happens to be, even inside another handler: signals sent fast enough nest
until the stack is used up. Python has no signalfd.
"""

import os
import signal
import struct
from collections.abc import Iterable

from milkyway_agent.system.libc import call

_SET_BYTES = 128  # sigset_t of glibc: a bit for each signal, the first for number 1
_INFO = struct.Struct("=I124x")  # linux/signalfd.h: ssi_signo first


def block(numbers: Iterable[int]) -> set[int]:
    """Block the signals *numbers*, which then wait to be read; return what was blocked before (pthread_sigmask(3)).

    An executed program inherits the mask and the pending signals. Undo: ``restore``.
    """
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, numbers)}


def restore(numbers: Iterable[int]) -> None:
    """Block exactly *numbers*: other pending signals are delivered now."""
    signal.pthread_sigmask(signal.SIG_SETMASK, numbers)


def signalfd(numbers: Iterable[int]) -> int:
    """Return a non-blocking descriptor that is readable while one of *numbers*, which must be blocked, is pending."""
    mask = sum(1 << (number - 1) for number in numbers)
    return call("signalfd", -1, mask.to_bytes(_SET_BYTES, "little"), os.O_CLOEXEC | os.O_NONBLOCK)


def read(descriptor: int) -> list[int]:
    """Take the pending signals and return them, each once; an empty list if there are none."""
    try:
        data = os.read(descriptor, 64 * _INFO.size)
    except BlockingIOError:
        return []
    return [int(number) for (number,) in _INFO.iter_unpack(data)]
