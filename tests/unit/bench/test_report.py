"""A run's tables, page and file say what was measured; peers get the services they are measured with."""

from pathlib import Path

import msgspec
import pytest

from bench.machine import MachineFacts
from bench.supervisor.peer import Peer, Place
from bench.supervisor.peers.dinit import Dinit
from bench.supervisor.peers.floor import Floor
from bench.supervisor.peers.milkyway import MilkyWay
from bench.supervisor.peers.runit import Runit
from bench.supervisor.peers.s6 import S6
from bench.supervisor.peers.supervisord import Supervisord
from bench.supervisor.peers.systemd import Systemd
from bench.supervisor.record import PeerRecord, Record, decode, encode
from bench.supervisor.report import BEGIN, END, grids, replace_section, section
from bench.supervisor.slots import HEAD, SLOT, Slots
from milkyway_formats import yaml_text
from milkyway_formats.service import Service

MACHINE = MachineFacts("Some CPU", 2, 1024, "6.12", True, "3.13.1", 0.5)


def _peer(figures: dict[str, dict[int, float]], missing: str = "") -> PeerRecord:
    return msgspec.convert(
        {"version": "1", "notes": ["a note"], "figures": figures, "samples": {}, "extra": {}, "missing": missing}, PeerRecord
    )


def _record(peers: dict[str, PeerRecord]) -> Record:
    return Record("2026-01-01", MACHINE, 2, 500, 100, 100, 10, peers, ["s6, round 2: it fell"])


RECORD = _record({
    "milkyway": _peer({"up": {1: 20.0, 2: 22.0}}),
    "runit": _peer({"up": {1: 100.0, 2: 100.0}, "wakeups": {1: 0.25, 2: 0.25}}),
    "floor": _peer({"up": {1: 15.0, 2: 16.0}, "wakeups": {1: 0.0, 2: 0.0}}),
    "dinit": _peer({}, missing="not there"),
})  # fmt: skip


def test_the_tables_hold_figures_ratios_and_goals() -> None:
    figures, ratios, goals = grids(RECORD)
    assert figures.columns == ("", "milkyway", "runit", "floor")
    assert ("500 up, ms", "21 (20 to 22; 1)", "100 (100 to 100; 0)", "16 (15 to 16; 0)") in figures.rows
    assert ratios.columns == ("", "runit", "floor")
    assert ("500 up", "0.210 (0.200 to 0.220)", "1.354 (1.333 to 1.375)") in ratios.rows
    assert ("500 up", "1/3 of runit", "0.210 (0.200 to 0.220)", "reached", "0.155 (0.150 to 0.160)") in goals.rows
    assert ("500 up", "1 of dinit", "-", "not measured", "-") in goals.rows
    assert ("idle wakeups", "0 1/s", "-", "not measured", "-") in goals.rows  # the floor's wakeups mean nothing


def test_without_ours_there_are_no_ratios_and_no_goal_counts_as_reached() -> None:
    figures, goals = grids(_record({"runit": RECORD.peers["runit"]}))
    assert figures.columns == ("", "runit")
    assert {row[3] for row in goals.rows} == {"not measured"}


def test_the_page_names_defaults_missing_peers_and_failures() -> None:
    text = section(RECORD)
    assert "- runit (1): a note." in text
    assert "- dinit: not there." in text
    assert "- s6, round 2: it fell" in text
    assert "Some CPU" in text


def test_writing_a_section_twice_leaves_the_rest_of_the_page_as_it_was() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = replace_section(page, section(RECORD))
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert replace_section(once, section(RECORD)) == once


def test_a_page_without_a_place_for_the_figures_is_not_written() -> None:
    with pytest.raises(ValueError, match="no section"):
        replace_section(f"{END}\n{BEGIN}\n", section(RECORD))


def test_a_record_survives_its_way_through_a_file() -> None:
    assert decode(encode(RECORD)) == RECORD


def test_the_file_has_the_spreads_for_other_programs() -> None:
    document = msgspec.json.decode(encode(RECORD))
    assert document["spreads"]["milkyway"]["up"]["median"] == 21


PEERS: list[Peer] = [Dinit(), MilkyWay(), Runit(), S6(), Supervisord(), Systemd("systemd", None)]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_gets_every_service_once(peer: Peer, tmp_path: Path) -> None:
    place = Place(tmp_path, Path("/inside"))
    command = peer.prepare(place, 12)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink() and path.name != ".plan"]
    texts = "\n".join(path.read_text() for path in files).replace('"', "").replace(",", "")
    words = texts.replace("]", "").split()
    indices = [int(words[number + 1]) for number, word in enumerate(words) if word == "/inside/slots"]
    assert sorted(indices) == list(range(12))
    assert Path(command[0]).is_absolute()


def test_the_floor_starts_the_same_program(tmp_path: Path) -> None:
    compiled = tmp_path / "compiled"
    compiled.write_text("a program")
    command = Floor(compiled).prepare(Place(tmp_path, Path("/inside")), 12)
    assert command == ["/inside/floor", "/inside/trivial", "/inside/slots", "12"]
    assert (tmp_path / "floor").read_text() == "a program"


def test_our_own_definitions_are_services_that_restart_at_once(tmp_path: Path) -> None:
    MilkyWay().prepare(Place(tmp_path, Path("/inside")), 2)
    text = (tmp_path / "services/s0001.yaml").read_text()
    service = yaml_text.load(text, Service, "service")
    assert service.command == ["/inside/trivial", "/inside/slots", "1"]
    assert service.restart.delay_ms == 0


def test_systemd_s_variants_differ_only_in_the_delay(tmp_path: Path) -> None:
    units = []
    for name, delay in (("stock", None), ("quick", "0")):
        place = Place(tmp_path / name, Path("/inside"))
        Systemd(name, delay).prepare(place, 1)
        units.append((place.outside / "units/s0000.service").read_text())
    assert units[1] == units[0] + "RestartSec=0\n"


def test_slots_are_read_as_the_services_fill_them(tmp_path: Path) -> None:
    with Slots(tmp_path / "slots", 3) as slots:
        before = slots.all_births()
        born_again = slots.born_again([0, 2], before)
        with (tmp_path / "slots").open("r+b") as file:
            file.write(HEAD.pack(5, 2))
            file.seek(HEAD.size + 2 * SLOT.size)
            file.write(SLOT.pack(77, 12, 1))
        assert (slots.executed_ns, slots.births, tuple(slots.birth(2))) == (5, 2, (77, 12, 1))
        assert not born_again()
        with (tmp_path / "slots").open("r+b") as file:
            file.seek(HEAD.size)
            file.write(SLOT.pack(80, 13, 1))
        assert born_again()


def test_waiting_ends_at_once_when_nothing_more_will_come(tmp_path: Path) -> None:
    answers = iter([False, False])  # asked a third time, it would have waited: StopIteration
    with Slots(tmp_path / "slots", 1) as slots:
        assert slots.wait(lambda: True, 0, lambda: False)
        assert not slots.wait(lambda: next(answers), 1e9, lambda: False)
