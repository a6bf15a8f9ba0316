"""The records of many services, merged by time, in little memory, whatever the writer does meanwhile."""

import tempfile
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkyway_agent.log.files import FileSink
from milkyway_agent.log.reader import CHUNK_BYTES, Choice, Past
from milkyway_agent.log.record import Record


def everything(files: FileSink) -> Past:
    return Past([], files.mark(lambda _: True))


def a_line(at: int, service: str, priority: int = 6, size: int = 1) -> Record:
    return Record(at, "output", service, {"line": "x" * size}, priority)


STEPS = st.tuples(
    st.sampled_from(["", "web/nginx", "dhcp"]), st.integers(0, 7), st.sampled_from([1, 50, 3000, CHUNK_BYTES - 60])
)


@given(
    st.lists(STEPS, max_size=40), st.integers(0, 45), st.integers(0, 40), st.integers(0, 41), st.integers(0, 7), st.booleans()
)
def test_the_newest_are_those_that_a_sorted_list_would_give(
    steps: list[tuple[str, int, int]], limit: int, since: int, until: int, priority: int, in_memory: bool
) -> None:
    records = [a_line(at, service, level, size) for at, (service, level, size) in enumerate(steps)]
    choice = Choice(since, until, priority)
    chosen = [record for record in records if choice.takes(record)]
    with tempfile.TemporaryDirectory() as directory:
        files = FileSink(directory, file_bytes=4000, files=100)
        for record in records:
            files.write([record])
        past = Past(records, []) if in_memory else everything(files)
        assert list(past.newest(limit, choice)) == chosen[max(0, len(chosen) - limit) :]
        files.close()


def test_a_reader_sees_the_files_as_they_were_whatever_is_written_meanwhile(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=2000, files=50)
    for at in range(100):
        files.write([a_line(at, "web", size=100)])
    reading = everything(files).newest(1000)
    seen = [record.at for record in islice(reading, 30)]
    for at in range(100, 300):
        files.write([a_line(at, "web", size=100)])
    assert seen + [record.at for record in reading] == list(range(100))


def test_a_reader_whose_files_are_removed_meanwhile_sees_what_is_left(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=2000, files=4)
    for at in range(20):
        files.write([a_line(at, "web", size=100)])
    reading = everything(files).newest(1000)
    next(reading)
    for at in range(20, 35):
        files.write([a_line(at, "web", size=100)])
    left = [record.at for record in reading]
    assert left[-1] == 19
    assert left == sorted(left)


@pytest.mark.parametrize("wrong", [0, 10**15])
@pytest.mark.parametrize("file_bytes", [10_000, 240])
def test_a_clock_that_was_wrong_for_a_while_hides_nothing(tmp_path: Path, wrong: int, file_bytes: int) -> None:
    files = FileSink(str(tmp_path), file_bytes=file_bytes)
    for at in (1000, 1001, wrong, wrong + 1, 1002, 1003):
        files.write([a_line(at, "web")])
    found = [record.at for record in everything(files).newest(10, Choice(since=1000, until=2000))]
    assert found == [1000, 1001, 1002, 1003]


def test_segments_long_before_since_are_not_read(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=1000, files=200)
    files.write([a_line(995, "web", size=100)])  # so far back that only reading everything finds it
    for at in range(1000):
        files.write([a_line(at, "web", size=100)])
    assert [record.at for record in everything(files).newest(1000, Choice(since=990))] == list(range(990, 1000))
    assert next(everything(files).newest(2000)).at == 995


def test_reading_much_takes_little_memory(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path))
    services = [f"service-{number}" for number in range(50)]
    for service in services:
        files.write([a_line(at, service, size=1000) for at in range(200)])
    past = everything(files)
    files.close()
    tracemalloc.start()
    try:
        count = sum(1 for _ in past.newest(10_000))
        assert count == 10_000
        assert tracemalloc.get_traced_memory()[1] < len(services) * 5 * CHUNK_BYTES, "a few chunks per service, of 10 MB"
    finally:
        tracemalloc.stop()
