"""Nobody is let in while this process becomes another program, and nobody who is in is left without an answer for it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from milkyway_agent.api.draining import DRAIN_SECONDS, Drain


@asynccontextmanager
async def letting_in(drain: Drain, path: Path) -> AsyncIterator[list[int]]:
    """Accept at *path* for ever; what comes is the numbers of those who were let in."""
    inside: list[int] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        accepting = trio.socket.from_stdlib_socket(listener)

        async def accept() -> None:
            while True:
                with await drain.accept(accepting, len(inside) + 1):
                    inside.append(len(inside) + 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            yield inside
            nursery.cancel_scope.cancel()


async def test_who_comes_meanwhile_waits_and_is_let_in_afterwards(tmp_path: Path) -> None:
    drain = Drain()
    async with letting_in(drain, tmp_path / "api") as inside:
        await trio.testing.wait_all_tasks_blocked()
        async with drain.drained(), await trio.open_unix_socket(str(tmp_path / "api")):
            await trio.testing.wait_all_tasks_blocked()
            assert inside == []
        await trio.testing.wait_all_tasks_blocked()
        assert (inside, drain.owed) == ([1], {1})


async def test_who_is_in_is_answered_first(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    drain = Drain()
    begun = trio.current_time()
    async with letting_in(drain, tmp_path / "api") as inside, await trio.open_unix_socket(str(tmp_path / "api")):
        await trio.testing.wait_all_tasks_blocked()
        assert inside == [1]

        async def answer() -> None:
            await trio.sleep(DRAIN_SECONDS / 2)
            drain.answered(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            async with drain.drained():
                assert drain.owed == set()
    assert trio.current_time() - begun == DRAIN_SECONDS / 2


async def test_who_waits_for_longer_holds_nothing_up(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    drain = Drain()
    begun = trio.current_time()
    async with letting_in(drain, tmp_path / "api"), await trio.open_unix_socket(str(tmp_path / "api")):
        await trio.testing.wait_all_tasks_blocked()
        async with drain.drained():
            assert drain.owed == {1}
    assert trio.current_time() - begun == DRAIN_SECONDS


async def test_who_was_just_taken_when_draining_began_is_in_and_nobody_after(tmp_path: Path) -> None:
    """At each point of an accept at which others may go first: which of these it is depends on trio's chance."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "api"))
        listener.listen()
        accepting = trio.socket.from_stdlib_socket(listener)
        for steps in [0, 1, 2, 3] * 20:
            drain = Drain()
            taken: list[int] = []

            async def accept(drain: Drain = drain, taken: list[int] = taken) -> None:
                (await drain.accept(accepting, 1)).close()
                taken.append(1)
                drain.answered(1)

            async with await trio.open_unix_socket(str(tmp_path / "api")), trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                async with drain.drained():
                    before = list(taken)
                    await trio.testing.wait_all_tasks_blocked()
                    assert taken == before
                await trio.testing.wait_all_tasks_blocked()
                assert taken == [1]
