"""Running a helper program from its start to its end."""

import contextlib
import os

import trio

from milkyway_agent.launching.child import kill_child, reap
from milkyway_agent.launching.starter import TaskStarter
from milkyway_agent.runtime.reaper import Reaper


async def run_to_end(starter: TaskStarter, reaper: Reaper, *, output_bytes: int = 65536) -> tuple[int, bytes]:
    """Start a helper program, wait for its end and clean up after it; return its exit status and what it wrote.

    The first *output_bytes* of its output are kept. If cancelled, it kills the helper.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    kept = bytearray()
    try:
        try:
            child = await starter.start(writing, None)
        finally:
            os.close(writing)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(collect, reading, kept, output_bytes)
                await trio.lowlevel.wait_readable(child.pidfd)
                # Processes that it left behind may hold the pipe open: they end with the main process.
                try:
                    starter.kill()
                except OSError:  # clean_up tries again; what they write until then is lost
                    nursery.cancel_scope.cancel()
        except BaseException:
            kill_child(child)
            raise
        finally:
            with contextlib.suppress(OSError):
                starter.kill()
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(child.pidfd)
                code = reap(child, reaper)
        return code, bytes(kept)
    finally:
        os.close(reading)
        with trio.CancelScope(shield=True):
            await starter.clean_up()


async def collect(reading: int, kept: bytearray, limit: int) -> None:
    """Read the pipe *reading* until its writers are gone; add up to *limit* bytes to *kept*."""
    while True:
        await trio.lowlevel.wait_readable(reading)
        try:
            data = os.read(reading, 65536)
        except BlockingIOError:
            continue
        if not data:
            return
        kept += data[: limit - len(kept)]
