"""The last starts of timers survive a power cut; damage to the file loses nothing else."""

import os
from pathlib import Path

import pytest

from milkyway_agent.supervisor.activation.timer_stamps import FILE, LAST_MS, MOST_OF_ONE, TimerStamps
from milkyway_agent.system.state_file import KernelDirectory
from milkyway_formats.errors import UnavailableError
from tests.fakes.power_cut_disk import PowerCutDisk


def keep(stamps: TimerStamps, key: str, at_ms: int) -> None:
    """Propose, confirm and write a stamp, as a timer does when it fires."""
    stamps.write(stamps.propose(key, at_ms))
    stamps.confirm(key)


def test_what_was_set_is_there_the_next_time() -> None:
    disk = PowerCutDisk()
    first = TimerStamps(disk)
    assert (first.note, first.get("backup/0")) == ("", None)
    keep(first, "backup/0", 1_710_504_000_123)
    keep(first, "report/1", 5)
    again = TimerStamps(disk)
    assert (again.note, again.get("backup/0"), again.get("report/1"), again.get("other")) == ("", 1_710_504_000_123, 5, None)


def test_on_a_real_disk_too(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        keep(TimerStamps(KernelDirectory(descriptor)), "backup/0", 7)
        assert TimerStamps(KernelDirectory(descriptor)).get("backup/0") == 7
        assert os.listdir(tmp_path) == [FILE]
    finally:
        os.close(descriptor)


def test_after_a_power_cut_at_any_moment_the_old_stamp_or_the_new_is_there() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    keep(stamps, "backup/0", 1)
    before = disk.noted
    keep(stamps, "backup/0", 2)
    found = [TimerStamps(left) for left in disk.after_a_cut(skip=before)]
    assert {stamps.get("backup/0") for stamps in found} == {1, 2}
    assert {stamps.note for stamps in found} == {""}


@pytest.mark.parametrize("data", [b"", b"\0" * 40, b'{"stamps":{"a":-1}}', b'{"stamps":{"a":1}', b'{"stamps":{"":1}}', b"[]"])
def test_a_damaged_file_counts_as_empty_and_the_reason_is_given(data: bytes) -> None:
    disk = PowerCutDisk({FILE: data})
    stamps = TimerStamps(disk)
    assert stamps.get("a") is None
    assert stamps.note.startswith("cannot read timer stamps: ")
    keep(stamps, "a", 3)
    assert TimerStamps(disk).get("a") == 3


def test_timers_that_are_not_defined_any_more_are_forgotten_with_the_next_stamp() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    keep(stamps, "kept", 1)
    keep(stamps, "gone", 2)
    stamps.keep_only(frozenset({"kept", "new"}))
    keep(stamps, "new", 3)
    again = TimerStamps(disk)
    assert (again.get("kept"), again.get("gone"), again.get("new")) == (1, None, 3)


def test_what_is_on_the_disk_already_is_not_written_again() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    versions = [stamps.propose(f"{number}", number) for number in range(100)]
    stamps.write(versions[0])
    before = disk.noted
    for version in versions:
        stamps.write(version)
    assert disk.noted == before, "all of them were written with the first"
    assert TimerStamps(disk).get("99") == 99


def test_a_proposal_counts_when_it_is_confirmed_and_is_gone_when_it_is_withdrawn() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    keep(stamps, "a", 1)
    stamps.write(stamps.propose("a", 2))
    assert (stamps.get("a"), TimerStamps(disk).get("a")) == (1, 2)
    stamps.withdraw("a")
    keep(stamps, "b", 3)
    assert (stamps.get("a"), TimerStamps(disk).get("a")) == (1, 1)


def test_of_very_many_timers_of_one_owner_the_last_to_fire_are_kept_and_others_lose_none() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    keep(stamps, "other/backup.0", 1)
    for number in range(MOST_OF_ONE + 2):
        stamps.propose(f"web/job.{number}", 1000 + number)
        stamps.confirm(f"web/job.{number}")
    keep(stamps, "web/late.0", 5)  # by a clock that was wrong
    found = [stamps.get(key) for key in ("other/backup.0", "web/late.0", "web/job.0", "web/job.2", "web/job.3")]
    assert found == [1, 5, None, None, 1003]


@pytest.mark.parametrize("at_ms", [-5, LAST_MS * 9])
def test_an_absurd_clock_does_not_make_the_file_unreadable(at_ms: int) -> None:
    disk = PowerCutDisk()
    keep(TimerStamps(disk), "a", at_ms)
    assert TimerStamps(disk).get("a") in (0, LAST_MS)


def test_many_stamps_can_be_read_again() -> None:
    disk = PowerCutDisk()
    stamps = TimerStamps(disk)
    for number in range(20):
        keep(stamps, f"{number}/" + "x" * 120, LAST_MS)
    assert TimerStamps(disk).get("19/" + "x" * 120) == LAST_MS


def test_a_disk_that_fails_is_unavailable_and_the_stamp_is_known_nevertheless(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    stamps = TimerStamps(KernelDirectory(descriptor))
    os.close(descriptor)
    with pytest.raises(UnavailableError, match="cannot keep timer stamps: Bad file descriptor"):
        stamps.write(stamps.propose("a", 4))
    stamps.confirm("a")
    assert stamps.get("a") == 4
    assert TimerStamps(KernelDirectory(descriptor)).note == "cannot read timer stamps: Bad file descriptor"
