"""Plans carried out by planes that record, and fail where they are told to."""

from typing import NamedTuple

import pytest

from milkyway_agent.deployments.executor import Executor
from milkyway_agent.log.log import Log
from milkyway_formats.errors import UnavailableError
from tests.fakes.planes import RecordingPlane


class Deed(NamedTuple):
    """An effect of the tests."""

    key: str
    version: int = 1
    exclusive: bool = False

    def describe(self) -> str:
        return f"{self.key} {self.version}"


A, B1, B2 = Deed("a"), Deed("b"), Deed("b", 2)
RUN1, RUN2 = Deed("run", 1, exclusive=True), Deed("run", 2, exclusive=True)


def executor() -> tuple[Executor, RecordingPlane, Log]:
    plane, log = RecordingPlane(), Log(lambda: 0)
    return Executor({Deed: plane}, log), plane, log


async def test_what_is_wanted_comes_to_hold_and_twice_is_once() -> None:
    tested, plane, _ = executor()
    await tested.converge([A, B1, RUN1])  # type: ignore[list-item] # an effect by its protocol
    await tested.converge([A, B1, RUN1])  # type: ignore[list-item]
    assert plane.done == ["+a 1", "+b 1", "+run 1"]
    assert set[object](tested.present) == {A, B1, RUN1}


async def test_where_a_step_fails_the_old_state_comes_back() -> None:
    tested, plane, log = executor()
    await tested.converge([A, RUN1])  # type: ignore[list-item]
    plane.done.clear()
    plane.failing = {"+run 2"}
    with pytest.raises(UnavailableError, match=r"cannot do \+run 2"):
        await tested.converge([A, B2, RUN2])  # type: ignore[list-item]
    assert plane.done == ["+b 2", "-run 1", "+run 1", "-b 2"]
    assert set[object](tested.present) == {A, RUN1}
    assert "transition_failed" in log.ring.events()


async def test_what_cannot_be_cleared_away_is_tried_again_the_next_time() -> None:
    tested, plane, log = executor()
    await tested.converge([A, RUN1])  # type: ignore[list-item]
    plane.failing = {"-a 1"}
    await tested.converge([])
    assert set[object](tested.present) == {A}
    assert "step_failed" in log.ring.events()
    plane.failing = set()
    await tested.converge([])
    assert tested.present == ()
