"""A layer is in the store whole and verified, or it is not there."""

import os
from pathlib import Path

import pytest

from milkyway_agent.deployments.layer_store import LayerStore
from milkyway_formats.errors import UnavailableError

SHA = "ab" * 32
OTHER = "cd" * 32


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    (tmp_path / "layers").mkdir()
    (tmp_path / "staging").mkdir()
    return LayerStore(tmp_path)


def _install(store: LayerStore, sha256: str, content: bytes) -> None:
    staged = store.stage(sha256, len(content))
    os.write(staged.writer, content)
    os.close(staged.writer)
    os.close(staged.reader)
    store.keep(sha256)


def test_what_is_written_through_one_descriptor_is_read_through_the_other(store: LayerStore) -> None:
    staged = store.stage(SHA, 5)
    os.write(staged.writer, b"layer")
    assert os.pread(staged.reader, 10, 0) == b"layer"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(staged.writer, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(staged.reader, b"x")
    assert not store.has(SHA)


def test_only_keep_installs(store: LayerStore) -> None:
    _install(store, SHA, b"layer")
    assert store.has(SHA)
    assert store.path(SHA).read_bytes() == b"layer"
    assert list(store.staging.iterdir()) == []


def test_discard_undoes_stage_and_may_be_repeated(store: LayerStore) -> None:
    store.stage(SHA, 5)
    store.discard(SHA)
    store.discard(SHA)
    assert list(store.staging.iterdir()) == []


def test_staging_again_starts_anew(store: LayerStore) -> None:
    os.write(store.stage(SHA, 3).writer, b"old")
    staged = store.stage(SHA, 3)
    assert os.pread(staged.reader, 10, 0) == bytes(3)


def test_the_room_is_taken_before_the_first_byte_comes(store: LayerStore) -> None:
    store.stage(SHA, 1 << 20)
    part = next(store.staging.iterdir())
    assert part.stat().st_blocks * 512 >= 1 << 20


def test_no_layer_takes_the_room_that_the_agent_needs_itself(store: LayerStore, tmp_path: Path) -> None:
    """Without room for its own state the agent could not persist the order that makes room again."""
    needy = LayerStore(tmp_path, reserve_bytes=1 << 60)
    with pytest.raises(UnavailableError, match="cannot install layer abababababab: no space for its 5 bytes on the data disk"):
        needy.stage(SHA, 5)
    assert list(store.staging.iterdir()) == []


def test_sweeping_leaves_what_is_wanted_and_nothing_else(store: LayerStore) -> None:
    _install(store, SHA, b"wanted")
    _install(store, OTHER, b"not wanted")
    store.stage("ef" * 32, 4)
    assert store.sweep({SHA}) == [OTHER]
    assert [path.name for path in store.layers.iterdir()] == [f"{SHA}.layer"]
    assert list(store.staging.iterdir()) == []
