"""Descriptors that services store with the supervisor (``misbehaviour/engine.c``)."""

import os
import signal

import pytest
import trio

from milkyway_formats.service import ReadyByNotify, Restart
from tests.privileged.misbehaviour.programs import STOPPED, UP, begin_direct
from tests.privileged.supervisor.supervised import Supervised, supervised

pytestmark = pytest.mark.privileged


async def stored(harness: Supervised, name: str) -> list[str]:
    with trio.fail_after(10):
        while (kept := harness.kept(name)) is None:
            await trio.lowlevel.checkpoint()
    return [entry.name for entry in kept.stored]


async def test_what_it_stores_in_its_last_moment_is_given_to_its_next_process() -> None:
    """A file can't be watched for a hang-up, and its process ends before the message is read."""
    async with supervised() as harness:
        name = begin_direct(harness, "engine/leaves_a_file", stored_descriptors=4, restart=Restart(delay_ms=1))
        await harness.up(name, "remember")
        assert harness.lines(name) == ["nothing", "file"]
        assert harness.path(name) == [*UP, *UP]
        assert await stored(harness, name) == ["file"]
        await harness.supervisor.stop(name)
        assert await stored(harness, name) == [], "nothing stays stored for a stopped service"


async def test_what_it_gives_up_and_what_hangs_up_is_dropped() -> None:
    async with supervised() as harness:
        restart = Restart(delay_ms=1)
        name = begin_direct(harness, "engine/stores_pipes", stored_descriptors=2, readiness=ReadyByNotify(), restart=restart)
        pid = await harness.up(name, "stored")
        assert await stored(harness, name) == ["first", "second"]
        assert "stored_descriptor_refused" in harness.log.ring.events(name)
        os.kill(pid, signal.SIGKILL)
        pid = await harness.up(name, "stored", times=2)
        assert harness.lines(name) == ["nothing", "nothing"], "all other ends were closed with its first process"
        assert await stored(harness, name) == ["first", "second"]
        os.kill(pid, signal.SIGUSR1)
        await harness.told("removed")
        await harness.status(name, "removed")
        assert await stored(harness, name) == ["second"]
        os.kill(pid, signal.SIGUSR1)
        await harness.told("hung up")
        with trio.fail_after(10):
            while await stored(harness, name):
                await trio.lowlevel.checkpoint()
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *UP, *STOPPED]


async def test_a_service_that_may_store_nothing_stores_nothing() -> None:
    async with supervised() as harness:
        name = begin_direct(harness, "engine/stores_pipes", readiness=ReadyByNotify())
        await harness.up(name, "stored")
        assert await stored(harness, name) == []
        assert harness.log.ring.events(name).count("stored_descriptor_refused") == 3
