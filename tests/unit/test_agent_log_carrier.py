"""Nobody who notes something waits for the disk, and nothing is lost without being counted."""

import threading
from collections.abc import Iterator
from contextlib import closing
from math import inf
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from milkyway_agent.api_logs import open_log
from milkyway_agent.api_types import LogQuery
from milkyway_agent.log import Log
from milkyway_agent.log_carrier import QUEUE_BYTES
from milkyway_agent.log_files import FLUSH_SECONDS, Batch, FileSink, Sync
from milkyway_agent.log_record import Record

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


async def test_a_disk_that_does_not_answer_holds_nobody_up_and_what_is_lost_is_said_when_it_does(
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
        assert len(log.ring.records) == 500, "all of it went on at once"
        stuck.answers.set()
        log.close_files()
        nursery.cancel_scope.cancel()
    files = FileSink(str(tmp_path))
    kept = len(list(files.records("web"))) - 1
    lost = sum(int(str(record.facts["records"])) for record in files.records("") if record.event == "records_lost")
    assert kept + lost == number
    assert kept * (len(LINE) + 200) > QUEUE_BYTES / 2, "as much as the queue holds was kept"
    assert lost > number / 3
    files.close()


async def test_at_rest_nothing_is_waited_for_but_a_record(tmp_path: Path, autojump_clock: MockClock) -> None:
    flushed: list[float] = []

    def flush(_: str) -> None:
        flushed.append(autojump_clock.current_time())

    files = FileSink(str(tmp_path), clock=autojump_clock.current_time, sync=Sync(flush, lambda _: None))
    log = Log(lambda: 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.keep_files)
        await trio.testing.wait_all_tasks_blocked()
        log.open_files(files)
        start = trio.current_time()
        log.note("booted")
        log.note("and_more")
        await trio.sleep(100)
        assert [moment - start for moment in flushed] == [pytest.approx(FLUSH_SECONDS)]
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == inf
        before = trio.current_time()
        log.note("disk_failed")
        await trio.sleep(1)
        assert [moment - before for moment in flushed[1:]] == [pytest.approx(0, abs=0.01)], "a grave one at once"
        log.close_files()
        nursery.cancel_scope.cancel()


async def test_what_a_flush_failed_of_is_noted_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    def fail(_: str) -> None:
        raise OSError(5, "Input/output error")

    files = FileSink(str(tmp_path), clock=autojump_clock.current_time, sync=Sync(fail, fail))
    log = Log(lambda: 1)
    log.open_files(files)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.keep_files)
        for _ in range(5):
            log.note("something")
            await trio.sleep(10)
        assert log.ring.events().count("log_flush_failed") == 1
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
    assert [record.event for record in FileSink(str(tmp_path / "one")).records("web")] == ["one"]
    assert [record.event for record in FileSink(str(tmp_path / "two")).records("web")] == ["one", "two"], "from memory"


async def test_past_and_followed_together_are_everything_once_also_across_rotations(tmp_path: Path) -> None:
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


async def test_services_that_exist_are_known_to_the_files_at_their_place_in_the_queue(tmp_path: Path) -> None:
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
    assert list(FileSink(str(tmp_path)).records()) == [Record(1, "booted")]
    log.close_files()
