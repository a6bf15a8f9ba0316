"""The watch over real pipes: which callbacks are called, which no longer, for whose event, and before which tasks."""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.watch import Watch


@contextmanager
def watching() -> Iterator[tuple[Watch, list[str]]]:
    with resting() as (watch, _, notes):
        yield watch, notes


@contextmanager
def resting() -> Iterator[tuple[Watch, Alarms, list[str]]]:
    notes: list[str] = []
    alarms = Alarms(lambda event, **_: notes.append(event))
    watch = Watch(lambda event, **_: notes.append(event), alarms)
    try:
        yield watch, alarms, notes
    finally:
        watch.close()
        watch.close()


@contextmanager
def pipe(content: bytes = b"") -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if content:
            os.write(writing, content)
        yield reading, writing
    finally:
        for descriptor in (reading, writing):
            try:  # noqa: SIM105 (either may be closed by the test)
                os.close(descriptor)
            except OSError:
                pass


def test_a_callback_is_called_as_long_as_there_are_events() -> None:
    with watching() as (watch, _), pipe(b"ab") as (reading, _writing):
        came: list[bytes] = []
        watch.add(reading, lambda _: came.append(os.read(reading, 1)))
        for _ in range(4):
            watch.dispatch()
        assert came == [b"a", b"b"]


def test_a_removed_callback_is_not_called_and_may_be_removed_again() -> None:
    with watching() as (watch, _), pipe(b"a") as (reading, _writing):
        came: list[int] = []
        watch.add(reading, came.append)
        watch.remove(reading)
        watch.remove(reading)
        watch.dispatch()
        assert came == []


async def test_a_callback_that_raises_is_logged_and_rests_and_delays_no_other() -> None:
    with watching() as (watch, notes), pipe(b"a") as (bad, _), pipe(b"b") as (good, _writing):
        came: list[bytes] = []

        def fail(_: int) -> None:
            raise ZeroDivisionError

        watch.add(bad, fail)
        watch.add(good, lambda _: came.append(os.read(good, 1)))
        watch.dispatch()
        watch.dispatch()
        assert (came, notes) == ([b"b"], ["watch_failed"])


async def test_a_callback_that_replaces_itself_and_raises_does_not_make_the_new_one_rest() -> None:
    with watching() as (watch, notes), pipe(b"a") as (reading, _writing):
        came: list[int] = []

        def replace_and_fail(_: int) -> None:
            watch.remove(reading)
            watch.add(reading, came.append)
            raise ZeroDivisionError

        watch.add(reading, replace_and_fail)
        watch.dispatch()
        watch.dispatch()
        assert (came, notes) == ([select.EPOLLIN], ["watch_failed"])


def test_a_callback_that_is_removed_by_another_of_the_same_turn_is_not_called() -> None:
    with watching() as (watch, _), pipe(b"a") as (first, _), pipe(b"b") as (second, _writing):
        came: list[str] = []

        def remove_other(name: str, other: int) -> None:
            came.append(name)
            watch.remove(other)

        watch.add(first, lambda _: remove_other("first", second))
        watch.add(second, lambda _: remove_other("second", first))
        watch.dispatch()
        assert len(came) == 1


def test_an_event_is_never_taken_for_that_of_a_later_descriptor_with_the_same_number() -> None:
    """Otherwise a living process would be taken for an ended one, and the wait for its end would stop everything."""
    with watching() as (watch, _), pipe(b"a") as (first, _), pipe(b"b") as (second, _), pipe() as (silent, _writing):
        came: list[str] = []

        def give_number_away(mine: int, other: int) -> None:
            os.read(mine, 1)
            watch.remove(other)
            os.dup2(silent, other)  # closes it, and opens a silent pipe under its number
            watch.add(other, lambda _: came.append("stranger"))

        watch.add(first, lambda _: give_number_away(first, second))
        watch.add(second, lambda _: give_number_away(second, first))
        watch.dispatch()
        watch.dispatch()
        assert came == []


def test_what_cannot_be_watched_is_refused_at_once() -> None:
    with watching() as (watch, _):
        file = os.memfd_create("file")
        try:
            with pytest.raises(PermissionError):
                watch.add(file, lambda _: None)
            watch.remove(file)
        finally:
            os.close(file)


async def test_a_failing_callback_is_called_less_and_less_often_until_it_succeeds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with resting() as (watch, alarms, notes), pipe(b"ab") as (reading, _writing):
        asked: list[float] = []
        done = trio.Event()

        def fail_at_first(_: int) -> None:
            asked.append(trio.current_time())
            if len(asked) in (1, 2, 3, 4, 6):
                raise ZeroDivisionError
            os.read(reading, 1)
            if len(asked) == 7:
                done.set()

        began = trio.current_time()
        watch.add(reading, fail_at_first)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            nursery.start_soon(alarms.run)
            await done.wait()
            nursery.cancel_scope.cancel()
        # 0.1 s, 1 s, then 10 s each; after a success, from the start again
        assert [round(at - began, 3) for at in asked] == [0, 0.1, 1.1, 11.1, 21.1, 21.1, 21.2]
        assert notes == ["watch_failed"] * 5


async def test_a_callback_that_fails_while_no_task_waits_rests_too(autojump_clock: trio.testing.MockClock) -> None:
    """A dispatch may come before the task that waits: the rest ends nevertheless."""
    with resting() as (watch, alarms, _), pipe(b"a") as (reading, _writing):
        asked: list[float] = []
        done = trio.Event()

        def fail_once(_: int) -> None:
            asked.append(trio.current_time())
            if len(asked) == 1:
                raise ZeroDivisionError
            os.read(reading, 1)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            nursery.start_soon(alarms.run)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            watch.add(reading, fail_once)
            watch.dispatch()
            await done.wait()
            nursery.cancel_scope.cancel()
        assert [round(at - began, 3) for at in asked] == [0, 0.1]


async def test_a_resting_descriptor_may_be_removed_and_its_number_be_reused(autojump_clock: trio.testing.MockClock) -> None:
    with resting() as (watch, alarms, notes), pipe(b"a") as (reading, _writing), pipe(b"b") as (other, _other_writing):
        came: list[bytes] = []

        def fail(_: int) -> None:
            raise ZeroDivisionError

        watch.add(reading, fail)
        watch.dispatch()
        watch.remove(reading)
        os.dup2(other, reading)
        watch.add(reading, lambda _: came.append(os.read(reading, 1)))
        await trio.sleep(60)  # of the test's clock
        alarms.ring()
        watch.dispatch()
        assert (came, notes) == ([b"b"], ["watch_failed"])


async def test_it_dispatches_until_it_is_cancelled() -> None:
    with watching() as (watch, _), pipe() as (reading, writing):
        came = trio.Event()

        def read(_: int) -> None:
            os.read(reading, 1)
            came.set()

        watch.add(reading, read)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            os.write(writing, b"a")
            with trio.fail_after(10):
                await came.wait()
            nursery.cancel_scope.cancel()


async def test_it_comes_before_tasks_that_wait_for_the_same_and_only_inside_the_block() -> None:
    with watching() as (watch, _), pipe() as (reading, writing):
        order: list[str] = []

        async def wait() -> None:
            same = os.dup(reading)  # trio lets a single task wait for a descriptor
            await trio.lowlevel.wait_readable(same)
            os.close(same)
            order.append("task")

        def came(_: int) -> None:
            os.read(reading, 1)
            order.append("watch")

        watch.add(reading, came)
        for _ in range(20):  # trio draws the order of its tasks
            async with trio.open_nursery() as nursery:
                with watch.dispatching_first():
                    for _ in range(3):
                        nursery.start_soon(wait)
                    await trio.testing.wait_all_tasks_blocked()
                    os.write(writing, b"x")
                    await trio.testing.wait_all_tasks_blocked()
            assert order == ["watch", "task", "task", "task"]
            order.clear()
        os.write(writing, b"x")
        await wait()
        assert order == ["task"], "outside it does not dispatch"


async def test_a_callback_outside_any_task_may_start_tasks_and_set_events() -> None:
    with watching() as (watch, _), pipe() as (reading, writing):
        done, begun = trio.Event(), trio.Event()

        async def task() -> None:
            await done.wait()
            begun.set()

        async with trio.open_nursery() as nursery:

            def came(_: int) -> None:
                os.read(reading, 1)
                nursery.start_soon(task)
                done.set()

            watch.add(reading, came)
            with watch.dispatching_first():
                nursery.start_soon(watch.run)
                os.write(writing, b"x")
                with trio.fail_after(5):
                    await begun.wait()
            nursery.cancel_scope.cancel()
