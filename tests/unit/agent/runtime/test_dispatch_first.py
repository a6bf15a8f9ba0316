"""What the watch has is dealt with before any task of the same turn."""

import os
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.dispatch_first import preceding
from milkyway_agent.runtime.watch import Watch


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


async def test_it_comes_before_tasks_that_wait_for_the_same_and_no_longer_than_it_should(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    order: list[str] = []

    async def wait() -> None:
        same = os.dup(reading)  # trio has one task wait for a descriptor
        await trio.lowlevel.wait_readable(same)
        os.close(same)
        order.append("task")

    def came(_events: int) -> None:
        os.read(reading, 1)
        order.append("watch")

    watch = Watch(lambda *_, **__: None, Alarms(lambda *_, **__: None))
    watch.add(reading, came)
    for _ in range(20):  # trio draws the order of its tasks
        async with trio.open_nursery() as nursery:
            with preceding(watch.dispatch):
                for _ in range(3):
                    nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                os.write(writing, b"x")
                await trio.testing.wait_all_tasks_blocked()
        assert order == ["watch", "task", "task", "task"]
        order.clear()
    os.write(writing, b"x")
    await wait()
    assert order == ["task"], "outside it is left alone"
    watch.close()


async def test_it_may_start_tasks_and_set_events(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    done, begun = trio.Event(), trio.Event()

    async def task() -> None:
        await done.wait()
        begun.set()

    async with trio.open_nursery() as nursery:

        def came(_events: int) -> None:
            os.read(reading, 1)
            nursery.start_soon(task)
            done.set()

        watch = Watch(lambda *_, **__: None, Alarms(lambda *_, **__: None))
        watch.add(reading, came)
        with preceding(watch.dispatch):
            nursery.start_soon(watch.run)
            os.write(writing, b"x")
            with trio.fail_after(5):
                await begun.wait()
        nursery.cancel_scope.cancel()
    watch.close()
