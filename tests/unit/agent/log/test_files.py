"""The files of the log: capped, rotated, whole after a power cut, and no obstacle when the disk is full."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milkyway_agent.log.files import FLUSH_SECONDS, LEAST_FILE_BYTES, OPEN_FILES, URGENT_SECONDS, FileSink, Sync
from milkyway_agent.log.record import Record, encode
from tests.fakes.log_records import read_records
from tests.fakes.power_cut_log import PowerCutLog


def a_line(number: int, service: str = "web", text: str = "", priority: int = 6) -> Record:
    return Record(number, "output", service, {"line": text or f"line {number}"}, priority)


def fill(files: FileSink, service: str, size: int, number: int = 0) -> None:
    """Write about *size* bytes as *service*."""
    for _ in range(size // 1000):
        files.write([a_line(number, service, "x" * (1000 - len(encode(a_line(number, service, "x"))) + 1))])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def sizes(directory: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in directory.iterdir():
        stem = path.name.split(".")[0]
        found[stem] = found.get(stem, 0) + path.stat().st_size
    return found


def test_each_service_has_its_own_files(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path))
    files.write([a_line(1, "web/nginx", "hello")])
    files.write([Record(2, "booted")])
    assert names(tmp_path) == ["_agent.00000002.jsonl", "web.nginx.00000001.jsonl"]
    assert [record.facts["line"] for record in read_records(files, "web/nginx")] == ["hello"]
    assert FileSink(str(tmp_path)).services() == ["", "web/nginx"]


def test_segments_are_capped_and_the_oldest_is_removed(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=1000, files=3)
    for number in range(200):
        files.write([a_line(number)])
    assert len(names(tmp_path)) == 3
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    kept = [record.at for record in read_records(files, "web")]
    assert kept == list(range(kept[0], 200)), "the newest, in order, without a gap"
    assert [record.at for record in read_records(FileSink(str(tmp_path), file_bytes=1000, files=3), "web")] == kept


def test_many_records_at_once_are_kept_as_if_they_came_one_by_one(tmp_path: Path) -> None:
    records = [a_line(number) for number in range(50)]
    singly, together = (FileSink(str(tmp_path / name), file_bytes=500) for name in ("singly", "together"))
    for record in records:
        singly.write([record])
    together.write(records)
    assert [path.read_bytes() for path in sorted((tmp_path / "together").iterdir())] == [
        path.read_bytes() for path in sorted((tmp_path / "singly").iterdir())
    ]


def test_after_a_restart_the_newest_segment_is_continued_and_no_number_is_reused(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path))
    files.write([a_line(1)])
    files.close()
    files = FileSink(str(tmp_path))
    files.write([a_line(2)])
    files.write([a_line(3, "dhcp")])
    assert names(tmp_path) == ["dhcp.00000002.jsonl", "web.00000001.jsonl"]
    assert [record.at for record in read_records(files, "web")] == [1, 2]


@pytest.mark.parametrize("torn", [b'{"at":2,"eve', b"\0\0\0\0", b'{"at":2}\n', b"\xff\xfe"])
def test_a_line_torn_by_a_power_cut_costs_only_itself(tmp_path: Path, torn: bytes) -> None:
    files = FileSink(str(tmp_path))
    files.write([a_line(1)])
    files.close()
    with (tmp_path / "web.00000001.jsonl").open("ab") as file:
        file.write(torn)
    files = FileSink(str(tmp_path))
    assert [record.at for record in read_records(files, "web")] == [1]
    files.write([a_line(3)])
    assert [record.at for record in read_records(files, "web")] == [1, 3]


def test_a_cut_at_any_byte_loses_nothing_that_was_whole_and_nothing_that_was_flushed(tmp_path: Path) -> None:
    disk = PowerCutLog(tmp_path / "log")
    files = FileSink(str(disk.directory), file_bytes=200, files=3, sync=disk.sync)
    cuts, flushed = 0, -1
    for number in range(14):
        files.write([a_line(number, text=f"<{number}>")])
        for left in disk.after_a_cut(tmp_path / "left"):
            cuts += 1
            oldest = next(read_records(files, "web")).at  # what was before has been removed by the caps
            again = FileSink(str(left), file_bytes=200, files=3)
            found = [record.at for record in read_records(again, "web")]
            certain = range(oldest, flushed + 1)
            assert set(certain) <= set(found), f"flushed up to {flushed}, found {found}"
            assert found == sorted(set(found)), "in order, without duplicates"
            whole = sum(data.count(b"\n") for data in (path.read_bytes() for path in left.iterdir()))
            assert len(found) >= whole - b"".join(path.read_bytes() for path in left.iterdir()).count(b"\0\n")
            again.write([a_line(1000)])
            after = [record.at for record in read_records(again, "web")]
            assert after[-1] == 1000, "what is written after the cut is there"
            assert set(after[:-1]) == set(found[len(found) - len(after) + 1 :])
            again.close()
        if number % 4 == 3:
            files.flush()
            flushed = number
    assert cuts > 1000


def test_names_that_are_not_ours_and_damaged_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "web.jsonl").write_text("from earlier")
    (tmp_path / "web.00000001.jsonl").mkdir()
    (tmp_path / "web.00000003.jsonl").symlink_to("/etc/passwd")
    (tmp_path / "web.00000007.jsonl").write_bytes(b"\0" * 200_000 + b"\xff not json\n{}\n")
    files = FileSink(str(tmp_path), file_bytes=1000, files=3)
    for number in range(100):
        files.write([a_line(number)])
    assert list(read_records(files, "web"))[-1].at == 99
    left = names(tmp_path)
    assert {"notes.txt", "web.jsonl", "web.00000001.jsonl", "web.00000003.jsonl"} <= set(left)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert Path("/etc/passwd").read_text().startswith("root:")


def test_a_damaged_file_hides_nothing_around_it(tmp_path: Path) -> None:
    (tmp_path / "web.00000002.jsonl").write_bytes(
        encode(a_line(1)) + b"\0" * 200_000 + b"\n" + encode(a_line(2)) + b"x" * 100_000
    )
    files = FileSink(str(tmp_path))
    files.write([a_line(3)])
    assert [record.at for record in read_records(files, "web")] == [1, 2, 3]
    assert [record.at for record in read_records(files, "web", limit=2)] == [2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["web.00000002.jsonl"]


def test_a_removed_file_is_begun_anew(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path))
    files.write([a_line(1)])
    files.close()
    (tmp_path / "web.00000001.jsonl").unlink()
    files.write([a_line(2)])
    assert [record.at for record in read_records(files, "web")] == [2]


def test_five_hundred_services_hold_few_files_open(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(2):
        for number in range(500):
            files.write([a_line(turn, f"service-{number}")])
    assert len(os.listdir("/proc/self/fd")) - before == OPEN_FILES
    assert len(names(tmp_path)) == 500
    assert {len(list(read_records(files, f"service-{number}"))) for number in range(500)} == {2}
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_when_room_is_needed_services_that_no_longer_exist_go_first_oldest_first(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=20_000, files=4, total_bytes=400_000)
    for service in ("gone-first", "gone-later", "stays"):
        fill(files, service, 80_000)
    files.set_services(["stays", "new"])
    fill(files, "new", 80_000)
    fill(files, "new-too", 80_000)
    assert sizes(tmp_path) == dict.fromkeys(("gone-first", "gone-later", "stays", "new", "new-too"), 80_000), "room for all"
    fill(files, "more", 20_000)
    assert sizes(tmp_path)["gone-first"] == 60_000
    fill(files, "more", 60_000)
    assert sizes(tmp_path) == dict.fromkeys(("gone-later", "stays", "new", "new-too", "more"), 80_000)
    fill(files, "last", 1000)
    assert sizes(tmp_path)["gone-later"] == 60_000


def test_the_total_is_never_exceeded_and_a_flood_costs_no_quiet_service_its_history(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=1 << 20, files=4, total_bytes=400_000)
    quiet = [f"quiet-{number}" for number in range(4)]
    files.set_services([*quiet, "loud"])
    for service in quiet:
        fill(files, service, 10_000)
    for _ in range(20):
        fill(files, "loud", 100_000)
        assert sum(sizes(tmp_path).values()) <= 400_000
    assert {service: sizes(tmp_path)[service] for service in quiet} == dict.fromkeys(quiet, 10_000)


def test_many_services_divide_the_total_between_them(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=1 << 20, files=4, total_bytes=40 * 4 * LEAST_FILE_BYTES)
    services = [f"service-{number}" for number in range(39)]
    files.set_services(services)
    for _ in range(2):
        for service in services:
            fill(files, service, 40_000)
    left = sizes(tmp_path)
    assert set(left) == set(services)
    assert min(left.values()) > 3 * LEAST_FILE_BYTES - 4000


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Have the kernel refuse to make a file longer (SIGXFSZ is ignored by Python, so write fails with EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_records_counts_them_and_reports_them_when_there_is_space_again(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path))
    files.write([a_line(1)])
    size = (tmp_path / "web.00000001.jsonl").stat().st_size
    with no_file_beyond(size + 10):
        files.write([a_line(2)])
        assert (tmp_path / "web.00000001.jsonl").stat().st_size == size, "no torn line is left"
        files.write([a_line(3), a_line(4)])
    files.write([a_line(5)])
    assert [record.at for record in read_records(files, "web")] == [1, 5]
    (lost,) = read_records(files, "")
    assert (lost.at, lost.event, lost.facts["records"], lost.priority) == (5, "records_lost", 3, 3)
    files.write([a_line(6)])
    assert len(list(read_records(files, ""))) == 1


def test_of_many_records_as_many_are_kept_as_there_is_space_for(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path))
    with no_file_beyond(3 * len(encode(a_line(1))) + 5):
        files.write([a_line(number) for number in range(1, 8)])
        assert [record.at for record in read_records(files, "web")] == [1, 2, 3]
    files.write([a_line(8)])
    assert [record.facts["records"] for record in read_records(files, "")] == [4]


def test_a_directory_that_is_gone_loses_records_and_nothing_else(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path / "log"))
    (tmp_path / "log").rmdir()
    files.write([a_line(1)])
    (tmp_path / "log").mkdir()
    files.write([a_line(2)])
    assert [record.facts for record in read_records(files, "")] == [{"records": 1, "why": "No such file or directory"}]
    assert [record.at for record in read_records(files, "web")] == [2]


class Disk:
    """Counts what is asked of the disk, and fails when told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.synced: list[str] = []
        self.fails = False

    def clock(self) -> float:
        return self.now

    def note(self, path: str) -> None:
        self.synced.append(Path(path).name)
        if self.fails:
            raise OSError(5, "Input/output error")


def test_a_flush_is_due_some_seconds_after_the_first_record_and_at_once_after_an_error(tmp_path: Path) -> None:
    disk = Disk()
    files = FileSink(str(tmp_path / "log"), clock=disk.clock, sync=Sync(disk.note, disk.note))
    assert files.flush_due() is None
    files.write([a_line(1)])
    disk.now = 102.0
    files.write([a_line(2), a_line(3, "web")])
    assert files.flush_due() == 100.0 + FLUSH_SECONDS, "however much comes after it"
    files.write([a_line(4, priority=3)])
    assert files.flush_due() == 102.0
    assert files.flush() == ""
    assert disk.synced == ["web.00000001.jsonl", "log"], "a new name is on the disk only with its directory"
    assert files.flush_due() is None
    files.write([a_line(5, priority=0)])
    assert files.flush_due() == 102.0 + URGENT_SECONDS, "no service keeps the disk busy with errors"
    disk.synced.clear()
    files.flush()
    assert disk.synced == ["web.00000001.jsonl"]


def test_a_failed_flush_is_reported_and_not_repeated(tmp_path: Path) -> None:
    disk = Disk()
    files = FileSink(str(tmp_path), clock=disk.clock, sync=Sync(disk.note, disk.note))
    files.write([a_line(1)])
    disk.fails = True
    assert files.flush() == "Input/output error"
    assert files.flush_due() is None


def test_segments_removed_before_the_flush_are_no_failure(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=200, files=2)
    for number in range(30):
        files.write([a_line(number)])
    assert files.flush() == ""
