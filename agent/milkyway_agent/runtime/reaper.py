"""Orphans: PID 1's duty to reap the children that it adopted, without stealing those that other code here waits for.

A child is spared while it is claimed (``claim``), and otherwise for a second after it was first
seen: time enough for code that started it through another library to reap it. No orphan is
reaped while a ``holding`` block is open: a container's first process is adopted in one, and its
pid must not be reused before a pidfd refers to it.
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
    """Knows which children are claimed; ``run`` reaps the rest."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._claimed: set[int] = set()
        self._held = 0
        self._holders: list[Callable[[], bool]] = []
        self._seen: dict[tuple[int, int], float] = {}  # when each unclaimed zombie was first seen, by pid and start time
        self._waiting = False  # there is an unclaimed zombie
        self._nudged = trio.Event()

    def claim(self, pid: int) -> None:
        """Leave *pid*, a child of ours, for the caller to reap. Undo: ``release``."""
        self._claimed.add(pid)

    def release(self, pid: int) -> None:
        """Undo ``claim``: it was reaped."""
        self._claimed.discard(pid)
        self._nudged.set()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Reap no orphans inside: one of them is about to be claimed."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._nudged.set()

    def hold_while(self, holds: Callable[[], bool]) -> None:
        """Reap no orphans while *holds* returns true: the caller has children whose pids it does not know yet.

        It calls ``look_again`` as soon as *holds* is no longer true.
        """
        self._holders.append(holds)

    def look_again(self) -> None:
        """Look for orphans: a condition of ``hold_while`` no longer holds."""
        self._nudged.set()

    async def run_child(self, command: list[str], environment: dict[str, str], descriptors: dict[int, int]) -> int:
        """Run *command* to its end as a child of ours; return its exit status, or minus the signal that killed it.

        If cancelled, it kills the child.
        """
        pid = processes.spawn(command, environment, descriptors)
        self.claim(pid)
        try:
            pidfd = processes.pidfd_open(pid)
        except OSError:  # it must not run without a pidfd; it has not been reaped, so the pid is still its own
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
        """Log that it is not known how the claimed child *pid* ended."""
        self._log.note("end_of_process_lost", pid=pid, error=str(error))

    async def run(self) -> None:
        """Reap orphans for ever. Raises nothing but cancellation."""
        with arriving(signal.SIGCHLD) as ends:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._nudge_on, ends)
                while True:
                    self._nudged = trio.Event()
                    try:
                        self.sweep(trio.current_time())
                    except Exception as error:  # noqa: BLE001 (that orphans wait longer is no reason to stop)
                        self._log.note("reaping_failed", error=repr(error))
                    with trio.move_on_after(GRACE_SECONDS if self._waiting else float("inf")):
                        await self._nudged.wait()

    async def _nudge_on(self, ends: AsyncIterator[int]) -> None:
        async for _ in ends:
            self._nudged.set()

    def sweep(self, now: float) -> None:
        """Reap the orphans whose grace period is over at *now* (trio's clock)."""
        self._waiting = bool(self._seen)
        first = reaper.first_ended()
        # A claimed child that has ended is reaped by its owner, which then releases it: sweep again then. All zombies
        # are listed only when the kernel shows us an unclaimed one, because a spared one hides the others.
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
        self._waiting = True  # even if it is not found below, as may happen while others end
        waiting = {(zombie.pid, zombie.start): zombie for zombie in reaper.zombies(os.getpid(), spared=self._claimed)}
        self._seen = {key: self._seen.get(key, now) for key in waiting}
        for key, since in list(self._seen.items()):
            if now - since >= GRACE_SECONDS:
                del self._seen[key]
                if reaper.reap(key[0]) is not None:
                    self._log.note("orphan_reaped", pid=key[0], name=waiting[key].name)
