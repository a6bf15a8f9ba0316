"""PID 1's log: nothing that goes wrong with a sink goes wrong with the agent, and files survive a power cut."""

from pathlib import Path

import pytest
import trio

from milkyway_agent.log import Fact, FileSink, LineSink, Log, Record, Ring, describe, file_name


def a_log(*sinks: object) -> Log:
    return Log(lambda: 1000, *sinks)  # type: ignore[arg-type] # the tests' sinks are sinks


def test_a_record_is_an_event_with_facts() -> None:
    log = a_log()
    log.note("service_state_changed", service="web/nginx", was="starting", now="started", path=Path("/x"))
    facts: dict[str, Fact] = {"was": "starting", "now": "started", "path": "/x"}
    assert list(log.ring.records) == [Record(1000, "service_state_changed", "web/nginx", facts)]


class FullDisk:
    def write(self, record: Record) -> None:
        raise OSError(28, "No space left on device")


def test_a_sink_that_fails_disturbs_neither_the_caller_nor_other_sinks() -> None:
    ring = Ring()
    a_log(FullDisk(), ring).note("booted")
    assert ring.events() == ["booted"]


def test_memory_is_bounded() -> None:
    ring = Ring(limit=3)
    for number in range(10):
        ring.write(Record(number, f"event_{number}"))
    assert ring.events() == ["event_7", "event_8", "event_9"]


def test_the_console_shows_events_and_not_what_services_write() -> None:
    shown: list[str] = []
    log = a_log(LineSink(shown.append))
    log.note("output", service="web/nginx", line="GET /")
    log.note("layer_refused", layer="example/nginx", reason="root hash differs")
    assert shown == ["layer refused: layer=example/nginx reason='root hash differs'"]


def test_a_line_names_the_service_first() -> None:
    assert describe(Record(0, "output", "web/nginx", {"line": "hello"})) == "web/nginx: hello"
    assert describe(Record(0, "service_killed", "web/nginx")) == "web/nginx: service killed"


def test_what_was_noted_before_the_disk_came_is_on_it_too(tmp_path: Path) -> None:
    log = a_log()
    log.note("booted")
    log.open_files(FileSink(str(tmp_path)))
    log.note("layer_opened", sha256="ab")
    log.close_files()
    assert [record.event for record in FileSink(str(tmp_path)).records()] == ["booted", "layer_opened"]


def test_each_service_has_its_own_file(tmp_path: Path) -> None:
    log = a_log()
    log.open_files(FileSink(str(tmp_path)))
    log.note("output", service="web/nginx", line="hello")
    log.note("booted")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_agent.jsonl", "web.nginx.jsonl"]
    assert [record.facts["line"] for record in log.records("web/nginx")] == ["hello"]


def test_files_are_rotated_and_capped(tmp_path: Path) -> None:
    files = FileSink(str(tmp_path), file_bytes=1000, files=3)
    for number in range(200):
        files.write(Record(number, "output", "web", {"line": f"line {number}"}))
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"web.jsonl", "web.jsonl.1", "web.jsonl.2"}
    assert max(sizes.values()) <= 1000
    kept = [record.at for record in files.records("web")]
    assert kept == list(range(kept[0], 200)), "the newest, in order, without a gap"
    assert [record.at for record in files.records("web", since=198)] == [198, 199]


@pytest.mark.parametrize("torn", [b'{"at":2,"eve', b"\0\0\0\0", b'{"at":2}\n', b"\xff\xfe"])
def test_a_line_torn_by_a_power_cut_costs_only_itself(tmp_path: Path, torn: bytes) -> None:
    files = FileSink(str(tmp_path))
    files.write(Record(1, "before"))
    files.close()
    with (tmp_path / file_name("")).open("ab") as file:
        file.write(torn)
    files = FileSink(str(tmp_path))
    files.write(Record(3, "after"))
    assert [record.event for record in files.records()] == ["before", "after"]


def test_only_the_newest_are_returned(tmp_path: Path) -> None:
    log = a_log()
    for number in range(10):
        log.note(f"event_{number}")
    assert [record.event for record in log.records(limit=2)] == ["event_8", "event_9"]
    log.open_files(FileSink(str(tmp_path)))
    assert [record.event for record in log.records(limit=2)] == ["event_8", "event_9"]


async def test_a_follower_sees_what_comes_and_a_slow_one_holds_nobody_up() -> None:
    log = a_log()
    log.note("before")
    with log.follow() as records:
        for number in range(1000):
            log.note(f"event_{number}")
        assert (await records.receive()).event == "event_0"
    log.note("after")
    with pytest.raises(trio.ClosedResourceError):
        records.receive_nowait()
