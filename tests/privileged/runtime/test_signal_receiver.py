"""Signals as they arrive: each once, none lost between two readers, however many there are."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import trio

from milkyway_agent.runtime.signal_receiver import arriving
from milkyway_agent.system import signals

pytestmark = pytest.mark.privileged

# Many at once, from several senders: this would nest Python's signal handlers until the stack is used up.
FLOOD = "import os, sys\nfor _ in range(30000): os.kill(int(sys.argv[1]), int(sys.argv[2]))"


def send(number: int) -> None:
    """Send a signal to this thread: threads that earlier tests have left behind don't block it."""
    signal.pthread_kill(threading.get_ident(), number)


async def test_each_comes_once_however_often_it_was_sent() -> None:
    with arriving(signal.SIGUSR1, signal.SIGUSR2) as arrivals:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
            send(number)
        with trio.fail_after(10):
            assert {await anext(arrivals), await anext(arrivals)} == {signal.SIGUSR1, signal.SIGUSR2}
        with trio.move_on_after(0) as waiting:
            await anext(arrivals)
        assert waiting.cancelled_caught


async def test_what_was_blocked_before_waits_for_the_next_reader() -> None:
    before = signals.block([signal.SIGUSR1])
    try:
        with arriving(signal.SIGUSR1):
            pass
        send(signal.SIGUSR1)  # without a reader; if it were not blocked, it would end this process
        with arriving(signal.SIGUSR1) as arrivals, trio.fail_after(10):
            assert await anext(arrivals) == signal.SIGUSR1
    finally:
        signals.restore(before)


async def test_a_flood_nests_nothing_and_ends() -> None:
    with arriving(signal.SIGCHLD, signal.SIGUSR1) as arrivals:
        command = [sys.executable, "-IS", "-c", FLOOD, str(os.getpid()), str(int(signal.SIGCHLD))]
        senders = [subprocess.Popen(command) for _ in range(2)]  # noqa: ASYNC220 (it does not wait)
        async with trio.open_nursery() as nursery:
            came = []

            async def read() -> None:
                async for number in arrivals:
                    came.append(number)
                    if number == signal.SIGUSR1:
                        return

            nursery.start_soon(read)
            for sender in senders:
                assert await trio.to_thread.run_sync(sender.wait) == 0
            send(signal.SIGUSR1)
        assert came[-1] == signal.SIGUSR1
        assert signal.SIGCHLD in came


def test_a_descriptor_without_signals_returns_none() -> None:
    before = signals.block([signal.SIGUSR1])
    descriptor = signals.signalfd([signal.SIGUSR1])
    try:
        assert signals.read(descriptor) == []
        assert not os.get_inheritable(descriptor)
        send(signal.SIGUSR1)
        assert signals.read(descriptor) == [signal.SIGUSR1]
    finally:
        os.close(descriptor)
        signals.restore(before)


def test_a_closed_descriptor_is_an_error() -> None:
    before = signals.block([signal.SIGUSR1])
    descriptor = signals.signalfd([signal.SIGUSR1])
    os.close(descriptor)
    signals.restore(before)
    with pytest.raises(OSError, match="Bad file descriptor"):
        signals.read(descriptor)
