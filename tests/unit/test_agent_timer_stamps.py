"""When timers last started their services is known after a power cut, and damage loses no more than that."""

import os
from pathlib import Path

import msgspec
import pytest

from milkyway_agent.system.state_file import KernelDirectory
from milkyway_agent.timer_stamps import FILE, LAST_MS, MOST, TimerStamps
from milkyway_formats.errors import UnavailableError
from tests.fakes.power_cut_disk import PowerCutDisk


def test_what_was_set_is_there_the_next_time() -> None:
    disk = PowerCutDisk()
    first = TimerStamps(disk)
    assert (first.note, first.get("backup/0")) == ("", None)
    first.set("backup/0", 1_710_504_000_123)
    first.set("report/1", 5)
    again = TimerStamps(disk)
    assert (again.note, again.get("backup/0"), again.get("report/1"), again.get("other")) == ("", 1_710_504_000_123, 5, None)


def test_on_a_real_disk_too(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        TimerStamps(KernelDirectory(descriptor)).set("backup/0", 7)
        assert TimerStamps(KernelDirectory(descriptor)).get("backup/0") == 7
        assert os.listdir(tmp_path) == [FILE]
    finally:
        os.close(descriptor)


def test_whatever_moment_the_power_goes_the_old_stamp_or_the_new_is_there() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    stamps.set("backup/0", 1)
    before = disk.noted
    stamps.set("backup/0", 2)
    found = [TimerStamps(left) for left in disk.after_a_cut(skip=before)]
    assert {stamps.get("backup/0") for stamps in found} == {1, 2}
    assert {stamps.note for stamps in found} == {""}


@pytest.mark.parametrize("data", [b"", b"\0" * 40, b'{"stamps":{"a":-1}}', b'{"stamps":{"a":1}', b'{"stamps":{"":1}}', b"[]"])
def test_a_damaged_file_is_empty_and_said_to_be(data: bytes) -> None:
    disk = PowerCutDisk({FILE: data})
    stamps = TimerStamps(disk)
    assert stamps.get("a") is None
    assert stamps.note.startswith("cannot read timer stamps: ")
    stamps.set("a", 3)
    assert TimerStamps(disk).get("a") == 3


def test_timers_that_nobody_defines_any_more_are_forgotten() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    stamps.set("kept", 1)
    stamps.set("gone", 2)
    stamps.keep_only(frozenset({"kept", "new"}))
    assert (TimerStamps(disk).get("kept"), TimerStamps(disk).get("gone")) == (1, None)


def test_nothing_is_written_when_nothing_is_forgotten() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    stamps.set("kept", 1)
    before = disk.noted
    stamps.keep_only(frozenset({"kept"}))
    assert disk.noted == before


def test_of_very_many_timers_those_that_fired_last_are_known() -> None:
    disk = PowerCutDisk({FILE: msgspec.json.encode({"stamps": {f"old.{number:04}": 1000 + number for number in range(MOST)}})})
    stamps = TimerStamps(disk)
    assert stamps.note == ""
    stamps.set("new.0", 5)  # by a clock that was wrong
    assert (stamps.get("new.0"), stamps.get("old.0000"), stamps.get("old.0001")) == (5, None, 1001)


@pytest.mark.parametrize("at_ms", [-5, LAST_MS * 9])
def test_an_absurd_clock_does_not_make_the_file_unreadable(at_ms: int) -> None:
    disk = PowerCutDisk()
    TimerStamps(disk).set("a", at_ms)
    assert TimerStamps(disk).get("a") in (0, LAST_MS)


def test_many_stamps_can_be_read_again() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    for number in range(20):
        stamps.set(f"{number}/" + "x" * 120, LAST_MS)
    assert TimerStamps(disk).get("19/" + "x" * 120) == LAST_MS


def test_a_disk_that_fails_is_unavailable_and_the_stamp_is_known_nevertheless(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    stamps = TimerStamps(KernelDirectory(descriptor))
    os.close(descriptor)
    with pytest.raises(UnavailableError, match="cannot keep timer stamps: Bad file descriptor"):
        stamps.set("a", 4)
    assert stamps.get("a") == 4
    assert TimerStamps(KernelDirectory(descriptor)).note == "cannot read timer stamps: Bad file descriptor"
