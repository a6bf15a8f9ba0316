"""A kept task survives its failures, and ends with its nursery whatever it raises then."""

import pytest
import trio
import trio.testing

from milkyway_agent.runtime.tasks import keep_running


class Noted:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def note(self, event: str, **facts: object) -> None:
        self.errors.append(f"{event}: {facts['task']}: {facts['error']}")


async def test_a_task_that_fails_begins_again_until_it_returns(autojump_clock: trio.testing.MockClock) -> None:
    noted, lives = Noted(), []

    async def task() -> None:
        lives.append(trio.current_time())
        if len(lives) < 3:
            raise ValueError("no")

    await keep_running("clumsy", task, noted.note)
    assert len(lives) == 3
    assert len(noted.errors) == 2
    assert "clumsy" in noted.errors[0]
    assert "ValueError('no')" in noted.errors[0]


async def test_a_failure_during_cancellation_is_logged_and_goes_no_further() -> None:
    """For instance a send on a socket that the same shutdown has closed: trio raises it together with the cancellation."""
    noted = Noted()

    async def clumsy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError(9, "Bad file descriptor")

    async def task() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clumsy)
            nursery.start_soon(trio.sleep_forever)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_running, "clumsy", task, noted.note)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(noted.errors) == 1
    assert "Bad file descriptor" in noted.errors[0]


async def test_what_is_no_exception_goes_up() -> None:
    class End(BaseException):
        pass

    async def task() -> None:
        raise End

    noted = Noted()
    with pytest.raises(End):
        await keep_running("ended", task, noted.note)
    assert noted.errors == []
