"""Layers come into the store verified, once; what is damaged there is fetched again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from milkyway_agent.deployments.layer_install import LayerInstaller
from milkyway_agent.deployments.layer_store import LayerStore
from milkyway_agent.deployments.verifier_link import NotAdmittedError
from milkyway_agent.ipc.messages import FetchLayer, VerifyLayer
from milkyway_agent.log.log import Log
from milkyway_formats.errors import UnavailableError
from tests.fakes.manifests import manifest_of
from tests.fakes.verifier_answers import FakeVerifier, layer_pin

DATA = b"a layer file"
MANIFEST = manifest_of("test/web")


class Place:
    """An installer between a store and a verifier, and how often it began a download."""

    def __init__(self, root: Path) -> None:
        for name in ("layers", "staging"):
            (root / name).mkdir()
        self.log = Log(lambda: 0)
        self.store = LayerStore(root)
        self.verifier = FakeVerifier()
        self.installer = LayerInstaller(self.verifier, self.store, self.log.note)
        self.downloads = 0

    def on_fetch(self) -> None:
        self.downloads += 1

    def questions(self) -> list[type]:
        return [type(message) for message in self.verifier.asked]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_missing_layer_is_fetched_and_then_in_the_store(place: Place) -> None:
    pin = place.verifier.publish(DATA, MANIFEST)
    assert await place.installer.install(pin, on_fetch=place.on_fetch) == MANIFEST
    assert place.store.path(pin.sha256).read_bytes() == DATA
    assert (place.questions(), place.downloads) == ([FetchLayer], 1)
    assert place.log.ring.events() == ["layer_installed"]


async def test_a_known_manifest_is_not_verified_twice(place: Place) -> None:
    pin = place.verifier.publish(DATA, MANIFEST)
    for _ in range(3):
        assert await place.installer.install(pin, on_fetch=place.on_fetch) == MANIFEST
    assert place.questions() == [FetchLayer]


async def test_an_installed_layer_is_verified_again_for_a_new_verifier_and_not_fetched(place: Place) -> None:
    pin = place.verifier.publish(DATA, MANIFEST)
    await place.installer.install(pin, on_fetch=place.on_fetch)
    place.installer.forget_verified()
    for _ in range(2):
        assert await place.installer.install(pin, on_fetch=place.on_fetch) == MANIFEST
    assert (place.questions(), place.downloads) == ([FetchLayer, VerifyLayer], 1)


async def test_an_installed_layer_that_is_refused_is_fetched_again(place: Place) -> None:
    pin = place.verifier.publish(DATA, MANIFEST)
    await place.installer.install(pin, on_fetch=place.on_fetch)
    place.store.path(pin.sha256).write_bytes(b"b layer file")
    place.installer.forget_verified()
    assert await place.installer.install(pin, on_fetch=place.on_fetch) == MANIFEST
    assert place.store.path(pin.sha256).read_bytes() == DATA
    assert place.questions() == [FetchLayer, VerifyLayer, FetchLayer]
    assert "installed_layer_refused" in place.log.ring.events()


async def test_a_layer_that_was_removed_is_fetched_again_although_its_manifest_was_known(place: Place) -> None:
    pin = place.verifier.publish(DATA, MANIFEST)
    await place.installer.install(pin, on_fetch=place.on_fetch)
    place.installer.remove(pin.sha256)
    assert not place.store.has(pin.sha256)
    await place.installer.install(pin, on_fetch=place.on_fetch)
    assert place.questions() == [FetchLayer, FetchLayer]


async def test_an_installed_layer_stays_when_there_is_nobody_to_verify_it(place: Place) -> None:
    pin = place.verifier.publish(DATA, MANIFEST)
    await place.installer.install(pin, on_fetch=place.on_fetch)
    place.installer.forget_verified()
    place.verifier.gone = True
    with pytest.raises(UnavailableError):
        await place.installer.install(pin, on_fetch=place.on_fetch)
    assert place.store.has(pin.sha256)
    assert place.downloads == 1


def wrong_bytes(place: Place, sha256: str) -> None:
    place.verifier.blobs[sha256] = b"b layer file"


def no_bytes(place: Place, sha256: str) -> None:
    del place.verifier.blobs[sha256]


@pytest.mark.parametrize(("spoil", "error"), [(wrong_bytes, NotAdmittedError), (no_bytes, UnavailableError)])
async def test_what_could_not_be_fetched_leaves_nothing(
    place: Place, spoil: Callable[[Place, str], None], error: type[Exception]
) -> None:
    pin = place.verifier.publish(DATA, MANIFEST)
    spoil(place, pin.sha256)
    with pytest.raises(error):
        await place.installer.install(pin, on_fetch=place.on_fetch)
    assert not place.store.has(pin.sha256)
    assert list(place.store.staging.iterdir()) == []


async def test_sweeping_keeps_what_is_wanted_and_says_what_went(place: Place) -> None:
    pins = [place.verifier.publish(data, MANIFEST) for data in (DATA, b"another layer file")]
    for pin in pins:
        await place.installer.install(pin, on_fetch=place.on_fetch)
    place.installer.sweep({pins[0].sha256})
    assert [place.store.has(pin.sha256) for pin in pins] == [True, False]
    (gone,) = [record for record in place.log.ring.records if record.event == "layer_removed"]
    assert gone.facts == {"sha256": pins[1].sha256}
    await place.installer.install(pins[1], on_fetch=place.on_fetch)
    assert place.questions()[2:] == [FetchLayer]


async def test_two_pins_of_other_files_have_nothing_to_do_with_each_other(place: Place) -> None:
    pin = place.verifier.publish(DATA, MANIFEST)
    await place.installer.install(pin, on_fetch=place.on_fetch)
    with pytest.raises(UnavailableError):
        await place.installer.install(layer_pin(b"nobody has this"), on_fetch=place.on_fetch)
    assert place.store.has(pin.sha256)
