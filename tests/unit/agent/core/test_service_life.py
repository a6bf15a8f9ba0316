"""Whatever happens to services, in any order, the laws of the table hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milkyway_agent.core.service_state import TABLE, Event, Row, Transition
from milkyway_formats.listener import Listener, Tcp
from milkyway_formats.service import ReadyByNotify, Restart, Service, Stop
from tests.fakes.service_lives import live
from tests.fakes.service_world import World


@given(st.binary(min_size=160, max_size=160))
@settings(max_examples=300, deadline=None)
def test_any_sequence_of_events_keeps_every_law_and_comes_to_rest(data: bytes) -> None:
    """It never kills without asking, loses no process, starts nothing that is not wanted, and reaches a fixed point."""
    live(data)


def world_of(*services: Service) -> World:
    return World({service.name: service for service in services}, lambda: 0.5)


def daemon(name: str = "web", **fields: object) -> Service:
    return Service(name=name, command=["/bin/web"], stop=Stop(timeout_ms=300), **fields)  # type: ignore[arg-type] # any field


def rows(world: World, name: str = "web") -> list[str]:
    """Return the rows that a service went through."""
    found = [was.label for _, whose, was, _, now in world.history if whose == name and was is not now]
    return [*found, world.row(name).label]


def test_a_service_that_ignores_its_stop_signal_is_killed_after_its_timeout_and_not_before() -> None:
    world = world_of(daemon())
    world.services["web"].obeys = None
    world.start("web")
    world.stop("web")
    world.pass_time(299)
    assert len(world.alive) == 1
    world.pass_time(1)
    assert rows(world) == ["idle", "waiting", "starting", "started", "stopping", "idle"]


def test_each_client_starts_it_again() -> None:
    world = world_of(daemon(listeners=[Listener(name="http", address=Tcp(port=80))]))
    world.start("web")
    assert not world.alive
    for _ in range(2):
        world.trigger("web")
        world.end("web", 0)
    assert rows(world) == ["idle", "waiting", *["armed", "starting", "started"] * 2, "armed"]


def test_what_counts_on_a_socket_runs_while_the_service_behind_it_starts_and_goes_when_it_fails() -> None:
    database = daemon(
        "database",
        listeners=[Listener(name="sql", address=Tcp(port=5432))],
        readiness=ReadyByNotify(),
        ready_timeout_ms=200,
        restart=Restart(when="on-failure", start_limit=1),
    )
    world = world_of(database, daemon(requires=["database"]))
    world.start("web")
    assert world.row("web") is Row.STARTED
    world.trigger("database")
    assert (world.row("database"), world.row("web")) == (Row.STARTING, Row.STARTED)
    world.end("database", 1)
    world.pass_time(1)
    assert (world.row("database"), world.row("web")) == (Row.FAILED, Row.WAITING)


def test_of_two_that_conflict_the_last_that_was_asked_for_runs() -> None:
    world = world_of(daemon("a", conflicts=["b"]), daemon("b"))
    world.start("a")
    world.start("b")
    world.come_to_rest()
    assert (world.row("a"), world.row("b")) == (Row.IDLE, Row.STARTED)


def test_what_comes_after_a_service_that_waits_in_vain_starts_once_the_failed_service_is_cleaned_up() -> None:
    disk = daemon("disk", readiness=ReadyByNotify(), restart=Restart(when="never"))
    world = world_of(disk, daemon("queue", requires=["disk"]), daemon("worker", wants=["queue"]))
    world.services["disk"].cleaning_ms = 50
    world.start("worker")
    world.end("disk", 1)
    assert (world.row("disk"), world.row("queue"), world.row("worker")) == (Row.FAILED, Row.WAITING, Row.WAITING)
    world.pass_time(50)
    assert (world.row("queue"), world.row("worker")) == (Row.WAITING, Row.STARTED)


def test_a_bundle_is_up_when_its_parts_are_and_waits_when_one_is_lost() -> None:
    world = world_of(daemon("part"), daemon("extra"), Service(name="all", type="bundle", requires=["part"], wants=["extra"]))
    world.start("all")
    assert rows(world, "all")[-1] == "completed"
    world.stop("extra")
    world.pass_time(1)
    assert rows(world, "all")[-3:] == ["waiting", "starting", "completed"], "it only wants extra"
    world.stop("part")
    assert rows(world, "all")[-1] == "waiting"
    world.start("part")
    world.come_to_rest()
    assert rows(world, "all")[-1] == "completed"


@pytest.mark.parametrize(
    ("pair", "wrong", "said"),
    [
        ((Row.STARTED, Event.UNWANTED), Transition(Row.IDLE), "web has a process in"),
        ((Row.WAITING, Event.UNWANTED), Transition(Row.WAITING), "web is wanted: False in"),
        ((Row.STARTED, Event.GAVE_UP), Transition(Row.FAILED), "web is checked: True in"),
    ],
)
def test_the_world_refuses_a_wrong_table(pair: tuple[Row, Event], wrong: Transition, said: str) -> None:
    right = TABLE[pair]
    TABLE[pair] = wrong
    try:
        with pytest.raises(AssertionError, match=said):
            if pair[0] is Row.WAITING:
                world = world_of(daemon(requires=["other"]), daemon("other", readiness=ReadyByNotify()))
                world.start("web")
            else:
                world = world_of(daemon(restart=Restart(when="never")))
                world.start("web")
            if pair[1] is Event.UNWANTED:
                world.stop("web")
            else:
                world.end("web", 1)
    finally:
        TABLE[pair] = right
