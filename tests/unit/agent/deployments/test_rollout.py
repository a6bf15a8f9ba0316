"""The newest desired state is carried out until it holds, by a clock that jumps."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from milkyway_agent.deployments.rollout import Rollout
from milkyway_agent.ipc.messages import DesiredAdmitted
from milkyway_formats.desired import Desired
from tests.fakes.deployments import DeploymentSite, desired


class Place:
    """A rollout, and what it told of its outcomes."""

    def __init__(self, root: Path) -> None:
        self.site = DeploymentSite(root)
        self.told: list[tuple[str, str]] = []
        self.rollout = Rollout(self.site.deployments, self._tell_acted, lambda: 0.999, self.site.log.note)

    async def _tell_acted(self, identifier: str, outcome: str, detail: str) -> None:
        assert bool(detail) == (outcome == "failed")
        self.told.append((identifier, outcome))

    def want(self, document: Desired) -> None:
        self.rollout.want(DesiredAdmitted(request=0, desired=document, id=f"d{document.version}"))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.rollout.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_desired_state_is_carried_out_and_told_once(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    place.want(desired(place.site.deployment("web")))
    async with place.running():
        await trio.sleep(1000)
    assert place.told == [("d1", "done")]
    assert place.site.deployments.progress["web_1"].state == "active"


async def test_what_is_unavailable_is_tried_again_ever_less_often_until_it_holds(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    web = place.site.deployment("web")
    blob = place.site.verifier.blobs.pop(web.stack[0].sha256)
    place.want(desired(web))
    async with place.running():
        await trio.sleep(200)
        assert place.told == [("d1", "failed")]
        tries = len(place.site.verifier.asked)
        assert 6 <= tries <= 10  # after 1, 2, 4 … 60 seconds
        place.site.verifier.blobs[web.stack[0].sha256] = blob
        await trio.sleep(61)
    assert place.told == [("d1", "failed"), ("d1", "done")]
    assert len(place.site.verifier.asked) == tries + 1


async def test_what_is_refused_waits_for_another_document(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    web = place.site.deployment("web")
    place.site.verifier.blobs[web.stack[0].sha256] = b"something else"
    place.want(desired(web))
    async with place.running():
        await trio.sleep(1000)
        assert (place.told, len(place.site.verifier.asked)) == ([("d1", "failed")], 1)
        place.want(desired(place.site.deployment("mail"), version=2))
        await trio.sleep(1)
    assert place.told == [("d1", "failed"), ("d2", "done")]


async def test_only_the_newest_of_several_documents_is_carried_out(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    for version, name in enumerate(("web", "mail"), start=1):
        place.want(desired(place.site.deployment(name), version=version))
    async with place.running():
        await trio.sleep(1)
    assert place.told == [("d2", "done")]
    assert set(place.site.deployments.progress) == {"mail_1"}


async def test_a_closed_rollout_begins_no_round(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    place.rollout.close()
    place.want(desired(place.site.deployment("web")))
    async with place.running():
        await trio.sleep(1000)
    assert (place.told, place.site.plane.done) == ([], [])


async def test_taking_down_waits_for_the_round_that_is_under_way(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    slow = SlowPlace(place)
    place.want(desired(place.site.deployment("web")))
    async with place.running():
        await slow.begun.wait()
        assert not place.rollout.at_rest
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.rollout.take_down)
            nursery.start_soon(place.rollout.wait_at_rest)
            await trio.testing.wait_all_tasks_blocked()
            assert place.site.plane.done == []
            slow.go_on.set()
    assert place.rollout.at_rest
    assert place.site.executor.present == ()
    assert place.site.plane.done[-1] == "-open layer test/web 1"


class SlowPlace:
    """Holds *place*'s plane up at its first deed, until ``go_on`` is set."""

    def __init__(self, place: Place) -> None:
        self.begun = trio.Event()
        self.go_on = trio.Event()
        place.site.plane.before = self._wait

    async def _wait(self) -> None:
        self.begun.set()
        await self.go_on.wait()
