"""What a service writes becomes lines, never more than its share."""

import gc
import os
import tracemalloc
from collections.abc import Iterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from milkyway_agent.log.log import Log
from milkyway_agent.log.service_output import (
    AT_ONCE,
    CHUNK_BYTES,
    ENDED,
    LINE_BYTES,
    PAUSE_SECONDS,
    Line,
    Lines,
    Share,
    Stream,
    log_lines,
)

PIECES = st.one_of(st.binary(max_size=300), st.sampled_from([b"<3>", b"\n", b"x" * LINE_BYTES, b"<", b"y" * (2 * LINE_BYTES)]))


@given(st.lists(PIECES, max_size=20))
def test_lines_are_the_same_however_the_bytes_arrive(pieces: list[bytes]) -> None:
    whole, parts = Lines(), Lines()
    data = b"".join(pieces)
    at_once = whole.feed(data) + whole.end()
    by_piece = [line for piece in pieces for line in parts.feed(piece)] + parts.end()
    assert at_once == by_piece


def test_an_endless_line_is_cut_and_takes_no_memory() -> None:
    lines = Lines()
    found = [line.text for _ in range(100) for line in lines.feed(b"x" * 1000)]
    assert {len(line) for line in found} == {LINE_BYTES}
    assert len("".join(found)) + len(lines.end()[0].text) == 100_000


def test_a_line_of_the_maximum_length_is_not_cut() -> None:
    assert [len(line.text) for line in Lines().feed(b"x" * LINE_BYTES + b"\n" + b"y" * (LINE_BYTES + 1) + b"\n")] == [
        4096,
        4096,
        1,
    ]


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    assert Lines().feed(b"caf\xe9\r\n") == [Line(6, "caf\ufffd")]


@pytest.mark.parametrize(
    ("written", "priority", "text"),
    [
        (b"<3>disk gone", 3, "disk gone"),
        (b"<0>", 0, ""),
        (b"<7> detail", 7, " detail"),
        (b"<8>no such priority", 6, "<8>no such priority"),
        (b"<33>", 6, "<33>"),
        (b" <3>not at the start", 6, " <3>not at the start"),
        (b"<3", 6, "<3"),
        (b'{"level":"error"}', 6, '{"level":"error"}'),
    ],
)
def test_a_line_may_begin_with_its_priority_and_is_not_parsed_further(written: bytes, priority: int, text: str) -> None:
    assert Lines().feed(written + b"\n") == [Line(priority, text)]


def test_each_piece_of_a_long_line_has_its_priority_and_the_next_line_its_own() -> None:
    found = Lines(5).feed(b"<2>" + b"x" * 2 * LINE_BYTES + b"\n<4>next\nlast\n")
    assert [line.priority for line in found] == [2, 2, 2, 4, 5]


class Pipe:
    """A pipe with a stream at its reading end, and what came out of it."""

    def __init__(self, share: Share, rest: bytes = b"") -> None:
        self.log = Log(lambda: 0)
        reading, self.writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.stream = Stream(reading, "web", self.log, share=share, rest=rest)

    def lines(self) -> list[object]:
        return [record.facts["line"] for record in self.log.ring.records if record.event == "output"]

    def dropped(self) -> list[object]:
        return [record.facts["lines"] for record in self.log.ring.records if record.event == "output_dropped"]

    def close(self) -> None:
        if self.writing >= 0:
            os.close(self.writing)
        self.writing = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    opened = Pipe(Share(rate=10, burst=20), rest=b"be")
    yield opened
    opened.close()
    os.close(opened.stream.descriptor)


def test_a_stream_tells_when_to_watch_it_again(pipe: Pipe) -> None:
    assert pipe.stream.ready(100) == AT_ONCE, "there was nothing to read"
    os.write(pipe.writing, b"gun\nand half")
    assert pipe.stream.ready(100) == AT_ONCE
    assert pipe.lines() == ["begun"], "with what the previous agent had read of it"
    assert pipe.stream.rest == b"and half"
    pipe.close()
    assert pipe.stream.ready(100) == ENDED
    assert pipe.lines() == ["begun", "and half"]


def test_lines_beyond_the_share_are_counted_once_and_the_pipe_is_left_alone_for_a_while(pipe: Pipe) -> None:
    os.write(pipe.writing, b"gan\n" + b"a\n" * 36)
    assert pipe.stream.ready(100) == 100 + PAUSE_SECONDS
    assert (len(pipe.lines()), pipe.dropped()) == (20, [17])
    os.write(pipe.writing, b"b\n" * 12)
    assert pipe.stream.ready(101) == 101 + PAUSE_SECONDS
    assert (len(pipe.lines()), pipe.dropped()) == (30, [17, 2]), "a second allows ten lines"
    os.write(pipe.writing, b"c\n" * 20)
    assert pipe.stream.ready(1000) == AT_ONCE, "a long rest allows no more than the burst"


def test_long_lines_use_the_share_up_sooner(pipe: Pipe) -> None:
    os.write(pipe.writing, b"\n" + (b"x" * 4000 + b"\n") * 4)
    assert pipe.stream.ready(100) == AT_ONCE
    os.write(pipe.writing, (b"x" * 4000 + b"\n") * 4)
    assert pipe.stream.ready(100) == 100 + PAUSE_SECONDS
    assert pipe.dropped() == [4]


def test_a_call_reads_a_single_chunk_however_much_there_is(pipe: Pipe) -> None:
    os.write(pipe.writing, b"x" * 40000)
    assert pipe.stream.ready(0) == AT_ONCE
    assert sum(len(str(line)) for line in pipe.lines()) + len(pipe.stream.rest) == CHUNK_BYTES + len(b"be")


def test_a_clock_that_stands_still_allows_nothing(pipe: Pipe) -> None:
    os.write(pipe.writing, b"\n" * 21)
    assert pipe.stream.ready(100) == 101
    os.write(pipe.writing, b"\n")
    assert pipe.stream.ready(100) == 101
    assert pipe.dropped() == [1, 1]


def test_five_hundred_streams_at_rest_take_less_than_a_kibibyte_each() -> None:
    log = Log(lambda: 0)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        streams = [Stream(number, f"service-{number}", log) for number in range(500)]
        assert (tracemalloc.get_traced_memory()[0] - before) / len(streams) < 1024
    finally:
        tracemalloc.stop()


async def test_a_task_carries_lines_until_the_writers_are_gone(autojump_clock: MockClock) -> None:
    log = Log(lambda: 0)
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log_lines, reading, "web", log)
        os.write(writing, b"a\n" * (Share().burst + 17))
        await trio.testing.wait_all_tasks_blocked()
        assert [record.facts for record in log.ring.records if record.event == "output_dropped"] == [{"lines": 17}]
        os.write(writing, b"late\n")
        os.close(writing)
    os.close(reading)
    assert log.ring.records[-1].facts == {"line": "late"}
    assert trio.current_time() == pytest.approx(PAUSE_SECONDS, abs=0.01)
    assert autojump_clock.autojump_threshold == 0


def test_the_next_run_uses_a_pipe_at_rest_with_a_full_share_and_lines_of_its_own(pipe: Pipe) -> None:
    os.write(pipe.writing, b"gun\n" + 19 * b"old\n" + b"hal")
    assert pipe.stream.ready(0.0) == AT_ONCE
    assert pipe.stream.begin_run(0.0)
    os.write(pipe.writing, 20 * b"new\n")
    assert pipe.stream.ready(0.0) == AT_ONCE
    assert pipe.lines() == ["begun", *19 * ["old"], "hal", *20 * ["new"]]
    assert pipe.stream.rest == b""


def test_a_pipe_with_unread_lines_or_an_exceeded_share_is_not_used_by_the_next_run(pipe: Pipe) -> None:
    os.write(pipe.writing, b"unread\n")
    assert not pipe.stream.begin_run(0.0)
    os.write(pipe.writing, 20 * b"too much\n")
    assert pipe.stream.ready(0.0) == PAUSE_SECONDS
    assert not pipe.stream.begin_run(PAUSE_SECONDS / 2)
    assert pipe.stream.begin_run(PAUSE_SECONDS)
