"""Noting something never waits for the disk, and nothing is lost without being counted."""

import threading
from collections.abc import Iterator
from contextlib import closing
from math import inf
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from milkyway_agent.api.log_query import LogQuery
from milkyway_agent.api.logs import open_log
from milkyway_agent.log.files import FLUSH_SECONDS, Batch, FileSink, Sync
from milkyway_agent.log.log import Log
from milkyway_agent.log.record import Record
from milkyway_agent.log.writer import QUEUE_BYTES
from tests.fakes.log_records import read_records

LINE = "x" * 1000


class StuckDisk(FileSink):
    """Files on a disk that answers only when told to: each write first waits for ``answers``."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.answers = threading.Event()
        self.asked = threading.Event()

    def write_batch(self, batch: Batch) -> None:
        """Wait for the disk, then write."""
        self.asked.set()
        self.answers.wait()
        super().write_batch(batch)


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[StuckDisk]:
    disk = StuckDisk(str(tmp_path))
    yield disk
    disk.answers.set()
    disk.close()


async def test_a_disk_that_does_not_answer_delays_nothing_and_losses_are_reported_when_it_does(
    stuck: StuckDisk, tmp_path: Path
) -> None:
    log = Log(lambda: 1)
    log.open_files(stuck)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.keep_files)
        await trio.testing.wait_all_tasks_blocked()
        log.note_lines("web", [(6, "first")])
        await trio.to_thread.run_sync(stuck.asked.wait)
        number = 2 * QUEUE_BYTES // len(LINE)
        for _ in range(number):
            log.note_lines("web", [(6, LINE)])
        assert len(log.ring.records) == 500, "none of it had to wait"
        stuck.answers.set()
        log.close_files()
        nursery.cancel_scope.cancel()
    files = FileSink(str(tmp_path))
    kept = len(list(read_records(files, "web"))) - 1
    lost = sum(int(str(record.facts["records"])) for record in read_records(files, "") if record.event == "records_lost")
    assert kept + lost == number
    assert kept * (len(LINE) + 200) > QUEUE_BYTES / 2, "as much as the queue holds was kept"
    assert lost > number / 3
    files.close()


class Disk:
    """Records when it was asked to flush, and fails when told to. The clock is the test's: threads take none of its time."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock
        self.flushes: list[float] = []
        self.fails = False
        self._asked = threading.Semaphore(0)

    def sync(self) -> Sync:
        return Sync(self._flush, lambda _: None)

    def _flush(self, _: str) -> None:
        self.flushes.append(self.clock.current_time())
        self._asked.release()
        if self.fails:
            raise OSError(5, "Input/output error")

    async def asked(self) -> None:
        """Wait until the next time that it is asked to flush."""
        await trio.to_thread.run_sync(self._asked.acquire)


async def written(log: Log) -> None:
    """Wait until what was noted is in the files, and the wait for the next flush has begun."""
    await log.past(lambda _: True)
    await trio.testing.wait_all_tasks_blocked()


async def test_at_rest_it_waits_only_for_a_record(tmp_path: Path, mock_clock: MockClock) -> None:
    disk = Disk(mock_clock)
    start = trio.current_time()
    log = Log(lambda: 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.keep_files)
        await trio.testing.wait_all_tasks_blocked()
        log.open_files(FileSink(str(tmp_path), clock=mock_clock.current_time, sync=disk.sync()))
        log.note("booted")
        log.note("and_more")
        await written(log)
        for _ in range(7):
            mock_clock.jump(1)
            await trio.testing.wait_all_tasks_blocked()
        await disk.asked()
        assert [moment - start for moment in disk.flushes] == [pytest.approx(FLUSH_SECONDS, abs=2)]
        assert disk.flushes[0] - start >= FLUSH_SECONDS
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == inf
        mock_clock.jump(1)
        now = trio.current_time()
        log.note("disk_failed")
        await disk.asked()
        assert disk.flushes[1:] == [now], "an error is flushed at once"
        log.close_files()
        nursery.cancel_scope.cancel()


async def test_the_reason_of_a_failed_flush_is_noted_once(tmp_path: Path, mock_clock: MockClock) -> None:
    disk = Disk(mock_clock)
    disk.fails = True
    log = Log(lambda: 1)
    log.open_files(FileSink(str(tmp_path), clock=mock_clock.current_time, sync=disk.sync()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.keep_files)
        await trio.testing.wait_all_tasks_blocked()
        with log.follow(lambda record: record.event == "log_flush_failed") as records:
            log.note("disk_failed")
            await disk.asked()
            assert (await records.receive()).facts == {"why": "Input/output error"}
            for _ in range(3):  # each begins when the result of the previous flush has been heard
                log.note("disk_failed")
                await written(log)
                mock_clock.jump(1)
                await disk.asked()
            with pytest.raises(trio.WouldBlock):
                records.receive_nowait()
        log.close_files()
        nursery.cancel_scope.cancel()


async def test_files_that_are_closed_can_be_opened_again(tmp_path: Path) -> None:
    log = Log(lambda: 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.keep_files)
        for name in ("one", "two"):
            await trio.testing.wait_all_tasks_blocked()
            log.open_files(FileSink(str(tmp_path / name)))
            await trio.testing.wait_all_tasks_blocked()
            log.note(name, service="web")
            log.close_files()
        nursery.cancel_scope.cancel()
    assert [record.event for record in read_records(FileSink(str(tmp_path / "one")), "web")] == ["one"]
    assert [record.event for record in read_records(FileSink(str(tmp_path / "two")), "web")] == ["one", "two"], "from memory"


async def test_past_and_followed_records_together_are_complete_even_across_rotations(tmp_path: Path) -> None:
    with closing(FileSink(str(tmp_path), file_bytes=2000, files=100)) as files:
        log = Log(lambda: 1)
        log.open_files(files)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.keep_files)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(150):
                log.note_lines("web", [(6, str(number))])
            lines = open_log(log, LogQuery(names=["web"], lines=1000, follow=True), ["web"])
            seen = [int((await anext(lines)).text)]
            for number in range(150, 300):
                log.note_lines("web", [(6, str(number))])
            seen += [int((await anext(lines)).text) for _ in range(299)]
            assert seen == list(range(300))
            await lines.aclose()
            log.close_files()
            nursery.cancel_scope.cancel()


async def test_the_files_learn_which_services_exist_at_that_place_in_the_queue(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=20_000, total_bytes=400_000)
    log = Log(lambda: 1)
    log.open_files(files)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.keep_files)
        await trio.testing.wait_all_tasks_blocked()
        log.note_lines("gone", [(6, LINE)] * 10)
        log.set_services(["web"])
        for service in ("web", "a", "b", "c", "d", "e", "f", "g"):
            log.note_lines(service, [(6, LINE)] * 80)
        log.note("end")
        log.close_files()
        nursery.cancel_scope.cancel()
    assert "gone" not in FileSink(str(tmp_path)).services()
    assert "web" in FileSink(str(tmp_path)).services()


def test_without_the_task_records_are_written_as_they_come(tmp_path: Path) -> None:
    log = Log(lambda: 1)
    log.open_files(FileSink(str(tmp_path)))
    log.note("booted")
    assert list(read_records(FileSink(str(tmp_path)))) == [Record(1, "booted")]
    log.close_files()


async def test_what_was_about_to_be_written_when_the_writer_was_cancelled_is_written_on_close(tmp_path: Path) -> None:
    log = Log(lambda: 1)
    log.open_files(FileSink(str(tmp_path)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.keep_files)
        await trio.testing.wait_all_tasks_blocked()
        log.note_lines("web", [(6, "last")])
        nursery.cancel_scope.cancel()  # it is woken, and has not begun
    log.close_files()
    with closing(FileSink(str(tmp_path))) as files:
        assert [record.facts["line"] for record in read_records(files, "web")] == ["last"]
