"""Orphans: PID 1's duty to reap children that it adopted, without stealing those that somebody here waits for.

A child is spared while it is claimed (its pid is in ``claimed``), and for a second after it was
first seen otherwise: time enough for whoever started it through another library to reap it. No
orphan is reaped while a ``holding`` block is open: a container's first process is adopted in one,
and its pid must not become another's before it is held by a descriptor.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import trio

from milkyway_agent.log.log import Log
from milkyway_agent.runtime.signal_receiver import arriving
from milkyway_agent.system import processes, reaper

GRACE_SECONDS = 1.0


async def wait_ended(pidfd: int) -> None:
    """Wait until the process behind *pidfd* has ended; it is not reaped."""
    await trio.lowlevel.wait_readable(pidfd)


class Reaper:
    """Knows whose children are whose; ``run`` reaps the rest."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._claimed: set[int] = set()
        self._held = 0
        self._holders: list[Callable[[], bool]] = []
        self._seen: dict[tuple[int, int], float] = {}  # unclaimed and ended: pid and start time, to when first seen
        self._waiting = False  # somebody who is not claimed has ended, and is there still
        self._nudged = trio.Event()

    def claim(self, pid: int) -> None:
        """Say that *pid*, a child of ours, will be reaped by the caller."""
        self._claimed.add(pid)

    def release(self, pid: int) -> None:
        """Undo ``claim``: it was reaped."""
        self._claimed.discard(pid)
        self._nudged.set()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Reap no orphan inside: one of them is about to be claimed."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._nudged.set()

    def hold_while(self, holds: Callable[[], bool]) -> None:
        """Reap no orphan while *holds* returns true: somebody has children whose pids it does not know yet.

        Say so with ``look_again`` when it does not any more.
        """
        self._holders.append(holds)

    def look_again(self) -> None:
        """Look for orphans: whoever had us hold back knows all of its children now."""
        self._nudged.set()

    async def run_child(self, command: list[str], environment: dict[str, str], descriptors: dict[int, int]) -> int:
        """Run *command* to its end as a child of ours; return its exit status, or minus the signal that killed it.

        Cancelled, it kills the child.
        """
        pid = processes.spawn(command, environment, descriptors)
        self.claim(pid)
        try:
            pidfd = processes.pidfd_open(pid)
        except OSError:  # what can't be held must not run; nobody has reaped it, so the pid is still its own
            os.kill(pid, signal.SIGKILL)
            self.release(pid)
            raise
        try:
            await wait_ended(pidfd)
        except BaseException:
            processes.pidfd_send_signal(pidfd, signal.SIGKILL)
            raise
        finally:
            try:
                code = processes.reap(pidfd).code
            finally:
                os.close(pidfd)
                self.release(pid)
        return code

    def note_unknown_end(self, pid: int, error: OSError) -> None:
        """Note that nobody knows how the claimed child *pid* ended."""
        self._log.note("end_of_process_lost", pid=pid, error=str(error))

    async def run(self) -> None:
        """Reap orphans for ever. Never raises but when it is cancelled."""
        with arriving(signal.SIGCHLD) as ends:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._nudge_on, ends)
                while True:
                    self._nudged = trio.Event()
                    try:
                        self.sweep(trio.current_time())
                    except Exception as error:  # noqa: BLE001 (orphans that wait longer are no reason to stop)
                        self._log.note("reaping_failed", error=repr(error))
                    with trio.move_on_after(GRACE_SECONDS if self._waiting else float("inf")):
                        await self._nudged.wait()

    async def _nudge_on(self, ends: AsyncIterator[int]) -> None:
        async for _ in ends:
            self._nudged.set()

    def sweep(self, now: float) -> None:
        """Reap the orphans that have waited out their grace at *now*."""
        self._waiting = bool(self._seen)
        first = reaper.first_ended()
        # A claimed child that has ended is reaped by its owner, who then releases it: sweep again then. Only when
        # the kernel shows us a stranger do we look at all of them, as one that is spared would hide the others.
        if (
            first is None
            or self._held
            or any(holds() for holds in self._holders)
            or (first in self._claimed and not self._seen)
        ):
            if first is None:
                self._seen.clear()
                self._waiting = False
            return
        self._waiting = True  # also where it was not found below, as may happen while others end
        waiting = {(one.pid, one.start): one for one in reaper.zombies(os.getpid(), spared=self._claimed)}
        self._seen = {key: self._seen.get(key, now) for key in waiting}
        for key, since in list(self._seen.items()):
            if now - since >= GRACE_SECONDS:
                del self._seen[key]
                if reaper.reap(key[0]) is not None:
                    self._log.note("orphan_reaped", pid=key[0], name=waiting[key].name)
