"""Signals that are read from a descriptor (signalfd(2)) instead of interrupting: no handler runs, however many come.

A handler of Python's runs wherever the interpreter happens to be, also inside another: whoever sends signals fast
enough nests them until the stack is used up. Python has no signalfd.
"""

import os
import signal
import struct
from collections.abc import Iterable

from milkyway_agent.system.libc import call

_SET_BYTES = 128  # sigset_t of glibc: a bit for each signal, the first for number 1
_INFO = struct.Struct("=I124x")  # linux/signalfd.h: ssi_signo first


def block(numbers: Iterable[int]) -> set[int]:
    """Let the signals *numbers* wait until somebody reads them; return what was blocked before (pthread_sigmask(3)).

    An executed program inherits this, with all that waits. Undo: ``restore``.
    """
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, numbers)}


def restore(numbers: Iterable[int]) -> None:
    """Have exactly *numbers* blocked: what waits of others is delivered now."""
    signal.pthread_sigmask(signal.SIG_SETMASK, numbers)


def signalfd(numbers: Iterable[int]) -> int:
    """Return a descriptor that is readable while one of *numbers*, which must be blocked, waits. It never blocks."""
    mask = sum(1 << (number - 1) for number in numbers)
    return call("signalfd", -1, mask.to_bytes(_SET_BYTES, "little"), os.O_CLOEXEC | os.O_NONBLOCK)


def read(descriptor: int) -> list[int]:
    """Return the signals that wait, each once, and take them; none where none does."""
    try:
        data = os.read(descriptor, 64 * _INFO.size)
    except BlockingIOError:
        return []
    return [int(number) for (number,) in _INFO.iter_unpack(data)]
