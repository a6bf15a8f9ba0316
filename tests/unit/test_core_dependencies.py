"""In which order services start, and what holds one back."""

import pytest

from milkyway_agent.core.dependencies import CycleError, Needs, dependents, holding_back, pulled_in, waves
from milkyway_agent.core.service_state import Row
from milkyway_agent.core.shutdown import stop_waves

NEEDS = {
    "web": Needs(requires=("database", "config"), wants=("cache",)),
    "database": Needs(after=("config",)),
    "config": Needs(),
    "cache": Needs(before=("database",)),
    "metrics": Needs(requires=("web",)),
}


def test_who_is_needed_comes_first() -> None:
    assert waves(NEEDS) == [("config", "cache"), ("database",), ("web",), ("metrics",)]


def test_stopping_is_the_reverse_of_starting() -> None:
    assert stop_waves(NEEDS) == [("metrics",), ("web",), ("database",), ("cache", "config")]


def test_a_ring_is_named_in_full() -> None:
    ring = {"a": Needs(requires=("b",)), "b": Needs(after=("c",)), "c": Needs(), "d": Needs(wants=("a",)), "a2": Needs()}
    ring["c"] = Needs(wants=("a",))
    with pytest.raises(CycleError, match=r"cannot order services: they wait for one another: a → b → c → a$"):
        waves(ring)


def test_a_service_that_requires_itself_is_a_ring() -> None:
    with pytest.raises(CycleError, match="a → a"):
        waves({"a": Needs(requires=("a",))})


def test_starting_pulls_in_what_is_required_and_wanted_and_no_more() -> None:
    assert set(pulled_in("web", NEEDS)) == {"web", "database", "config", "cache"}
    assert pulled_in("web", NEEDS)[-1] == "web"
    assert pulled_in("database", NEEDS) == ("database",), "order alone pulls nobody in"


def test_dependents_are_those_that_require_it_even_through_others() -> None:
    assert dependents("database", NEEDS) == ("web", "metrics")
    assert dependents("cache", NEEDS) == (), "who only wants it goes on without"


def rows(**now: Row) -> dict[str, Row]:
    return dict.fromkeys(NEEDS, Row.IDLE) | now


def test_a_requirement_must_be_started() -> None:
    up = rows(database=Row.STARTED, config=Row.COMPLETED, cache=Row.STARTED)
    assert holding_back("web", NEEDS, up) == []
    assert holding_back("web", NEEDS, up | {"database": Row.FAILED}) == ["requires database, which is failed"]
    assert holding_back("web", NEEDS, up | {"config": Row.IDLE}) == ["requires config, which is idle"]


def test_a_requirement_that_is_not_there_holds_back_and_is_named() -> None:
    assert holding_back("a", {"a": Needs(requires=("b",))}, {"a": Row.WAITING}) == ["requires b, which is not there"]


@pytest.mark.parametrize("row", [Row.IDLE, Row.STARTED, Row.COMPLETED, Row.FAILED, Row.STOPPING])
def test_a_wanted_one_holds_back_only_until_it_is_settled(row: Row) -> None:
    up = rows(database=Row.STARTED, config=Row.STARTED, cache=row)
    assert holding_back("web", NEEDS, up) == []


@pytest.mark.parametrize("row", [Row.WAITING, Row.STARTING, Row.RESTARTING, Row.FALTERING])
def test_a_wanted_one_that_is_on_its_way_is_waited_for(row: Row) -> None:
    up = rows(database=Row.STARTED, config=Row.STARTED, cache=row)
    assert holding_back("web", NEEDS, up) == [f"comes after cache, which is {row.label}"]
    assert holding_back("database", NEEDS, up) == [f"comes after cache, which is {row.label}"], "before is after, turned"
