"""Plans carried out by planes that record, and fail where they are told to."""

from typing import NamedTuple

import pytest

from milkyway_agent.core.dependencies import needs_of
from milkyway_agent.core.effects import RunServices
from milkyway_agent.deployments.executor import Executor, service_definitions
from milkyway_agent.launching.oci_config import Machine
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.reaper import Reaper
from milkyway_formats.deployment import Deployment
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.grants import Grant, Listen
from milkyway_formats.listener import Listener, Tcp, Udp
from milkyway_formats.service import Service
from tests.fakes.manifests import manifest_of


class Deed(NamedTuple):
    """An effect of the tests."""

    key: str
    version: int = 1
    exclusive: bool = False

    def describe(self) -> str:
        return f"{self.key} {self.version}"


class RecordingPlane:
    """Records what it does, and refuses what is in *failing*."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: set[str] = set()

    async def do(self, effect: Deed) -> None:
        self._take(f"+{effect.describe()}")

    async def undo(self, effect: Deed) -> None:
        self._take(f"-{effect.describe()}")

    def _take(self, word: str) -> None:
        if word in self.failing:
            raise UnavailableError(f"cannot do {word}: the test says so")
        self.done.append(word)


A, B1, B2 = Deed("a"), Deed("b"), Deed("b", 2)
RUN1, RUN2 = Deed("run", 1, exclusive=True), Deed("run", 2, exclusive=True)


def executor() -> tuple[Executor, RecordingPlane, Log]:
    plane, log = RecordingPlane(), Log(lambda: 0)
    return Executor({Deed: plane}, log), plane, log


async def test_what_is_wanted_comes_to_hold_and_twice_is_once() -> None:
    one, plane, _ = executor()
    await one.converge([A, B1, RUN1])  # type: ignore[list-item] # an effect by its protocol
    await one.converge([A, B1, RUN1])  # type: ignore[list-item]
    assert plane.done == ["+a 1", "+b 1", "+run 1"]
    assert set[object](one.present) == {A, B1, RUN1}


async def test_where_a_step_fails_the_old_state_comes_back() -> None:
    one, plane, log = executor()
    await one.converge([A, RUN1])  # type: ignore[list-item]
    plane.done.clear()
    plane.failing = {"+run 2"}
    with pytest.raises(UnavailableError, match=r"cannot do \+run 2"):
        await one.converge([A, B2, RUN2])  # type: ignore[list-item]
    assert plane.done == ["+b 2", "-run 1", "+run 1", "-b 2"]
    assert set[object](one.present) == {A, RUN1}
    assert "transition_failed" in log.ring.events()


async def test_what_cannot_be_cleared_away_is_tried_again_the_next_time() -> None:
    one, plane, log = executor()
    await one.converge([A, RUN1])  # type: ignore[list-item]
    plane.failing = {"-a 1"}
    await one.converge([])
    assert set[object](one.present) == {A}
    assert "step_failed" in log.ring.events()
    plane.failing = set()
    await one.converge([])
    assert one.present == ()


def test_the_names_of_siblings_are_made_full() -> None:
    service = Service(name="nginx", command=["/x"], requires=["config"], before=["metrics"])
    assert needs_of(service, "web/").requires == ("web/config",)
    assert needs_of(service, "web/").before == ("web/metrics",)


def run_services(*grants: Grant, listeners: tuple[Listener, ...]) -> RunServices:
    manifest = manifest_of("test/web", services=[Service(name="web", command=["/w"], listeners=list(listeners))])
    return RunServices(Deployment(id="web_k3v9", name="web", generation=2, stack=[], grants=list(grants)), manifest)


@pytest.mark.parametrize(
    ("grants", "address"),
    [
        ((), Tcp(port=80)),
        ((Listen(protocol="tcp", port=81),), Tcp(port=80)),
        ((Listen(protocol="tcp", port=80),), Udp(port=80)),
    ],
)
def test_a_listener_that_was_not_granted_is_never_opened(grants: tuple[Grant, ...], address: Tcp | Udp) -> None:
    effect = run_services(*grants, listeners=(Listener(name="in", address=address),))
    with pytest.raises(RefusedError, match="cannot run web/web: its listener in wants what was not granted"):
        service_definitions(effect, Machine(frozenset(), selinux=True), Reaper(Log(lambda: 0)))


def test_a_granted_listener_is_opened_in_the_services_own_domain() -> None:
    effect = run_services(Listen(protocol="tcp", port=80), listeners=(Listener(name="in", address=Tcp(port=80)),))
    (found,) = service_definitions(effect, Machine(frozenset(), selinux=True), Reaper(Log(lambda: 0)))
    assert found.socket_context == "u:r:web_k3v9.v2.process:s0"
