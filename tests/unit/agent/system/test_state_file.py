"""Durable files: at whatever moment the power is cut, the old content or the new is there, and damage is detected."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from milkyway_agent.system.state_file import (
    Directory,
    KernelDirectory,
    PathDirectory,
    has_copies,
    read_copies,
    replace,
    write_copies,
)
from tests.fakes.power_cut_disk import PowerCutDisk


@pytest.fixture(params=["kernel", "path", "fake"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Directory]:
    """The real directories and the fake keep the same promises."""
    if request.param == "fake":
        yield PowerCutDisk()
        return
    if request.param == "path":
        yield PathDirectory(str(tmp_path))
        return
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield KernelDirectory(descriptor)
    os.close(descriptor)


def test_a_directory_reads_what_was_written_and_nothing_else(directory: Directory) -> None:
    assert directory.read("x") is None
    directory.write("x", b"longer")
    directory.write("x", b"short")
    assert directory.read("x") == b"short"
    directory.rename("x", "y")
    assert (directory.read("x"), directory.read("y"), directory.names()) == (None, b"short", ["y"])
    directory.remove("y")
    directory.remove("y")
    assert directory.names() == []
    directory.sync()


def test_replacing_leaves_one_file(directory: Directory) -> None:
    replace(directory, "x", b"old")
    replace(directory, "x", b"new")
    assert directory.read("x") == b"new"
    assert directory.names() == ["x"]


def test_copies_are_read_back_newest_first(directory: Directory) -> None:
    assert read_copies(directory, "state") is None
    assert not has_copies(directory, "state")
    write_copies(directory, "state", 1, b"one")
    write_copies(directory, "state", 2, b"two")
    assert read_copies(directory, "state") == (2, b"two", ())
    assert has_copies(directory, "state")


def test_files_are_readable_only_by_their_owner(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    replace(KernelDirectory(descriptor), "keys", b"secret")
    os.close(descriptor)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    (tmp_path / "x.new").symlink_to("elsewhere")
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(OSError, match="symbolic links"):
        replace(KernelDirectory(descriptor), "x", b"new")
    os.close(descriptor)
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"


def test_a_power_cut_while_replacing_leaves_the_old_or_the_new() -> None:
    disk = PowerCutDisk()
    replace(disk, "x", b"old content")
    before = disk.noted
    replace(disk, "x", b"new content")
    found = {left.read("x") for left in disk.after_a_cut(skip=before)}
    assert found == {b"old content", b"new content"}


def test_a_power_cut_while_writing_copies_leaves_a_good_one() -> None:
    disk = PowerCutDisk()
    write_copies(disk, "state", 1, b"old content")
    before = disk.noted
    write_copies(disk, "state", 2, b"new content")
    found = {read_copies(left, "state") for left in disk.after_a_cut(skip=before)}
    assert {kept.content for kept in found if kept} == {b"old content", b"new content"}
    assert None not in found


def test_once_written_no_power_cut_brings_the_old_content_back() -> None:
    disk = PowerCutDisk()
    write_copies(disk, "state", 1, b"old")
    write_copies(disk, "state", 2, b"new")
    after = disk.noted
    replace(disk, "other", b"something else")
    assert {kept.content for left in disk.after_a_cut(skip=after) if (kept := read_copies(left, "state"))} == {b"new"}


@pytest.mark.parametrize("copy", ["a", "b"])
def test_a_single_damaged_copy_loses_nothing_and_is_named(copy: str) -> None:
    """For every truncation and every flipped byte of either copy."""
    disk = PowerCutDisk()
    write_copies(disk, "state", 3, b"content")
    whole = disk.files[f"state.{copy}"]
    for length in range(len(whole)):
        disk.files[f"state.{copy}"] = whole[:length]
        assert read_copies(disk, "state") == (3, b"content", (f"state.{copy}",))
    for position in range(len(whole)):
        disk.files[f"state.{copy}"] = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
        assert read_copies(disk, "state") == (3, b"content", (f"state.{copy}",))


def test_two_damaged_copies_have_no_content_but_are_not_absent() -> None:
    disk = PowerCutDisk({"state.a": b"", "state.b": b"\0" * 100})
    assert read_copies(disk, "state") is None
    assert has_copies(disk, "state")
