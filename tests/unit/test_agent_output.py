"""What a service writes becomes lines, never more than its share."""

import os

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from milkyway_agent.log import Log
from milkyway_agent.output import LINE_BYTES, LINES_PER_SECOND, Lines, carry_lines


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_lines_are_the_same_however_the_bytes_arrive(pieces: list[bytes]) -> None:
    whole, parts = Lines(), Lines()
    data = b"".join(pieces)
    at_once = whole.feed(data) + whole.end()
    by_piece = [line for piece in pieces for line in parts.feed(piece)] + parts.end()
    assert at_once == by_piece


def test_a_line_without_end_is_cut_and_takes_no_memory() -> None:
    lines = Lines()
    found = [line for _ in range(100) for line in lines.feed(b"x" * 1000)]
    assert {len(line) for line in found} == {LINE_BYTES}
    assert len("".join(found)) + len("".join(lines.end())) == 100_000


def test_what_is_no_text_is_shown_as_such() -> None:
    assert Lines().feed(b"caf\xe9\r\n") == ["caf\ufffd"]


async def test_a_flood_is_counted_and_the_next_second_is_free_again(autojump_clock: MockClock) -> None:
    log = Log(lambda: 0)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry_lines, reading, "web", log)
        os.write(writing, b"a\n" * (LINES_PER_SECOND + 17))
        await trio.testing.wait_all_tasks_blocked()
        assert [record.facts for record in log.ring.records if record.event == "output_dropped"] == [{"lines": 17}]
        os.write(writing, b"late\n")
        os.close(writing)
    os.close(reading)
    assert log.ring.records[-1].facts == {"line": "late"}
    assert trio.current_time() == pytest.approx(1, abs=0.01)
    assert autojump_clock.autojump_threshold == 0
