"""A helper program: started, waited for, cleared up after."""

import contextlib
import os

import trio

from milkyway_agent.launching.child import end_now, let_go
from milkyway_agent.launching.starter import TaskStarter
from milkyway_agent.runtime.reaper import Reaper


async def run_to_end(starter: TaskStarter, reaper: Reaper, *, output_bytes: int = 65536) -> tuple[int, bytes]:
    """Start a helper program, wait for its end and clear up after it; return its exit status and what it wrote.

    Of its output the first *output_bytes* are kept. Cancelled, it kills the helper.
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
                # What it left behind may hold the pipe open: it ends with the main process.
                try:
                    starter.kill()
                except OSError:  # clean_up tries again; what it writes until then is nobody's
                    nursery.cancel_scope.cancel()
        except BaseException:
            end_now(child)
            raise
        finally:
            with contextlib.suppress(OSError):
                starter.kill()
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(child.pidfd)
                code = let_go(child, reaper)
        return code, bytes(kept)
    finally:
        os.close(reading)
        with trio.CancelScope(shield=True):
            await starter.clean_up()


async def collect(reading: int, kept: bytearray, limit: int) -> None:
    """Read what comes through the pipe *reading* until its writers are gone; of it *limit* bytes are *kept*."""
    while True:
        await trio.lowlevel.wait_readable(reading)
        try:
            data = os.read(reading, 65536)
        except BlockingIOError:
            continue
        if not data:
            return
        kept += data[: limit - len(kept)]
