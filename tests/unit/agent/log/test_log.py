"""PID 1's log: a failing sink does no harm to the agent, and noting never waits for a reader or a disk."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from milkyway_agent.log.files import FileSink
from milkyway_agent.log.log import FOLLOWED_RECORDS, LineSink, Log, Ring
from milkyway_agent.log.record import Fact, Record, decode, describe, encode, priority_of
from tests.fakes.log_records import read_records


def a_log(*sinks: object) -> Log:
    return Log(lambda: 1000, *sinks)  # type: ignore[arg-type] # the sinks of these tests are sinks


def test_a_record_is_an_event_with_facts() -> None:
    log = a_log()
    log.note("service_state_changed", service="web/nginx", was="starting", now="started", path=Path("/x"))
    facts: dict[str, Fact] = {"was": "starting", "now": "started", "path": "/x"}
    assert list(log.ring.records) == [Record(1000, "service_state_changed", "web/nginx", facts)]


@pytest.mark.parametrize(
    ("event", "priority"),
    [("service_task_failed", 3), ("layer_refused", 4), ("report_not_sent", 4), ("boot_finished", 6), ("failed", 3), ("x", 6)],
)
def test_the_name_of_an_event_gives_its_priority(event: str, priority: int) -> None:
    log = a_log()
    log.note(event)
    assert log.ring.records[0].priority == priority_of(event) == priority


def test_the_default_priority_takes_no_room_and_a_priority_out_of_bounds_is_no_record() -> None:
    assert encode(Record(1, "booted")) == b'{"at":1,"event":"booted"}\n'
    assert decode(b'{"at":1,"event":"booted"}') == Record(1, "booted", priority=6)
    assert decode(encode(Record(1, "output", "web", {"line": "a\nb"}, 3))) == Record(1, "output", "web", {"line": "a\nb"}, 3)
    assert decode(b'{"at":1,"event":"booted","priority":8}') is None


class BrokenConsole:
    def write(self, records: Sequence[Record]) -> None:
        raise OSError(5, "Input/output error")


def test_a_sink_that_fails_disturbs_neither_the_caller_nor_other_sinks() -> None:
    ring = Ring()
    a_log(BrokenConsole(), ring).note("booted")
    assert ring.events() == ["booted"]


def test_a_name_that_is_not_utf_8_is_noted_with_escapes(tmp_path: Path) -> None:
    log = Log(lambda: 0)
    log.open_files(FileSink(str(tmp_path)))
    log.note("mount_failed", path=os.fsdecode(b"/mnt/\xff"), who="Zoë")
    (record,) = read_records(FileSink(str(tmp_path)))
    assert record.facts == {"path": "/mnt/\\udcff", "who": "Zoë"}


def test_memory_is_bounded() -> None:
    ring = Ring(limit=3)
    ring.write([Record(number, f"event_{number}") for number in range(10)])
    assert ring.events() == ["event_7", "event_8", "event_9"]


def test_the_console_shows_events_and_not_what_services_write() -> None:
    shown: list[str] = []
    log = a_log(LineSink(shown.append))
    log.note_lines("web/nginx", [(6, "GET /")])
    log.note("layer_refused", layer="example/nginx", reason="root hash differs")
    assert shown == ["layer refused: layer=example/nginx reason='root hash differs'"]


def test_a_line_names_the_service_first() -> None:
    assert describe(Record(0, "output", "web/nginx", {"line": "hello"})) == "web/nginx: hello"
    assert describe(Record(0, "service_killed", "web/nginx")) == "web/nginx: service killed"


def test_what_was_noted_before_the_disk_was_there_is_on_it_too(tmp_path: Path) -> None:
    log = a_log()
    log.note("booted")
    log.open_files(FileSink(str(tmp_path)))
    log.note("layer_opened", sha256="ab")
    log.close_files()
    log.note("shut_down")
    assert [record.event for record in read_records(FileSink(str(tmp_path)))] == ["booted", "layer_opened"]


async def test_the_past_is_read_from_memory_until_there_are_files(tmp_path: Path) -> None:
    log = a_log()
    for number in range(10):
        log.note(f"event_{number}")
    log.note("other", service="web")

    async def newest_two() -> list[str]:
        return [record.event for record in (await log.past(lambda service: not service)).newest(2)]

    assert await newest_two() == ["event_8", "event_9"]
    assert log.services() == ["", "web"]
    log.open_files(FileSink(str(tmp_path)))
    assert await newest_two() == ["event_8", "event_9"]
    assert log.services() == ["", "web"]


async def test_a_follower_sees_what_it_wants_from_now_on() -> None:
    log = a_log()
    log.note("before")
    with log.follow(lambda record: record.service == "web") as records:
        log.note("other")
        log.note("ready", service="web")
        assert (await records.receive()).event == "ready"
        with pytest.raises(trio.WouldBlock):
            records.receive_nowait()
    log.note("after", service="web")
    with pytest.raises(trio.ClosedResourceError):
        records.receive_nowait()


async def test_a_slow_follower_delays_nothing_and_is_told_in_the_gaps_place_how_much_it_missed() -> None:
    log = a_log()
    with log.follow() as records:
        for number in range(FOLLOWED_RECORDS + 17):
            log.note(f"event_{number}")
        seen = [(await records.receive()).event for _ in range(10)]
        log.note("after_the_gap")
        seen += [(await records.receive()).event for _ in range(FOLLOWED_RECORDS - 10)]
        assert seen == [f"event_{number}" for number in range(FOLLOWED_RECORDS)]
        missed = await records.receive()
        assert (missed.event, missed.facts, missed.priority) == ("records_missed", {"records": 17}, 4)
        assert (await records.receive()).event == "after_the_gap"
        for number in range(FOLLOWED_RECORDS + 1):
            log.note(f"event_{number}")
        seen = [(await records.receive()).event for _ in range(FOLLOWED_RECORDS + 1)]
        assert seen[-1] == "records_missed", "also when nothing comes after the gap"


async def test_a_follower_that_waits_is_woken() -> None:
    log = a_log()
    seen: list[str] = []

    async def read() -> None:
        async for record in records:
            seen.append(record.event)
            if record.event == "last":
                return

    with log.follow() as records:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for event in ("one", "two", "last"):
                await trio.testing.wait_all_tasks_blocked()
                log.note(event)
    assert seen == ["one", "two", "last"]
