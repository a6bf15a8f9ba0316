"""First starts: what is recorded, what belongs to the boot, how long each took, and what held up what."""

from milkyway_agent.core.service_state import Row
from milkyway_agent.core.start_times import QUIET_MS, Times, blame, critical_path, last_of_boot, of_boot

NOW = 100_000


def after(*rows: Row, step: int = 10) -> Times:
    """Return the times of a service that went through *rows*, one every *step* milliseconds, with a process after STARTING."""
    times, now = Times(), 1000
    for row in rows:
        times = times.entered(row, now)
        if row is Row.STARTING:
            times = times.with_process(now + 1)
        now += step
    return times


def test_a_start_is_wanted_permitted_started_and_ready() -> None:
    assert after(Row.WAITING, Row.STARTING, Row.STARTED) == (1000, 1010, 1011, 1020, 1020)
    assert after(Row.WAITING, Row.STARTING) == (1000, 1010, 1011, 0, 0)


def test_one_that_waits_for_its_trigger_is_ready_then_and_has_no_process() -> None:
    assert after(Row.WAITING, Row.ARMED) == (1000, 1010, 0, 1010, 1010)


def test_a_start_that_is_tried_again_counts_from_its_first_try() -> None:
    assert after(Row.WAITING, Row.STARTING, Row.WAITING, Row.STARTING, Row.COMPLETED) == (1000, 1010, 1011, 1040, 1040)


def test_what_was_given_up_or_stopped_was_never_ready() -> None:
    assert after(Row.WAITING, Row.STARTING, Row.FAILED) == (1000, 1010, 1011, 0, 1020)
    assert after(Row.WAITING, Row.IDLE) == (1000, 0, 0, 0, 1010)


def test_a_settled_start_stays_whatever_comes_later() -> None:
    first = after(Row.WAITING, Row.STARTING, Row.STARTED)
    assert after(Row.WAITING, Row.STARTING, Row.STARTED, Row.FALTERING, Row.WAITING, Row.STARTING, Row.STARTED) == first
    assert first.with_process(9999) == first


def test_nothing_is_recorded_of_what_was_never_wanted() -> None:
    assert Times().entered(Row.FAILED, 5) == Times()


def test_the_boot_ends_with_the_first_quiet_while() -> None:
    times = {
        "a": Times(1000, 1000, 1001, 5000, 5000),
        "b": Times(5000 + QUIET_MS, 5000 + QUIET_MS, 1, 30_000, 30_000),
        "c": Times(30_001 + QUIET_MS, 1, 1, 60_000, 60_000),
        "unwanted": Times(),
    }
    assert of_boot(times) == {"a", "b"}
    assert last_of_boot(times) == "b"
    assert of_boot({**times, "slow": Times(1000)}) == {"a", "b", "c", "slow"}  # while one is underway, so is the boot


def test_blame_is_empty_where_nothing_was_wanted() -> None:
    assert blame({"a": Times()}, {}, NOW).services == []
    assert last_of_boot({"a": Times()}) == ""


def test_the_longest_is_blamed_first_and_waiting_is_not_its_fault() -> None:
    times = {
        "quick": Times(1000, 1000, 1001, 1010, 1010),
        "slow": Times(1000, 1200, 1201, 5200, 5200),
        "held": Times(1000, 5200, 5201, 5300, 5300),
        "failed": Times(1000, 1000, 1001, 0, 1500),
        "hangs": Times(1000, 1000, 1001),
    }
    found = blame(times, {"ready": 900}, NOW)
    assert [(entry.service, entry.outcome, entry.waited_ms, entry.took_ms) for entry in found.services] == [
        ("hangs", "underway", 0, 99_000),
        ("slow", "ready", 200, 4000),
        ("failed", "failed", 0, 500),
        ("held", "ready", 4200, 100),
        ("quick", "ready", 0, 10),
    ]
    assert (found.start_ms, found.phases) == (0, {"ready": 900})
    assert blame(times, {}, NOW).start_ms == 1000  # without a boot, time begins when the first service is wanted


NEEDS = {"web": ("db", "cache", "log"), "db": ("disk",), "cache": ("disk",)}


def path(times: dict[str, Times], target: str = "web") -> list[tuple[str, str, int]]:
    found = critical_path(target, times, lambda name: NEEDS.get(name, ()), 0, NOW)
    return [(step.service, step.outcome, step.took_ms) for step in found.steps]


def test_the_critical_path_goes_through_what_was_waited_for_last() -> None:
    times = {
        "disk": Times(1000, 1000, 1, 1400, 1400),
        "db": Times(1000, 1400, 1, 2000, 2000),
        "cache": Times(1000, 1400, 1, 1900, 1900),
        "log": Times(1000, 1000, 1, 1001, 1001),
        "web": Times(1000, 2000, 1, 2500, 2500),
    }
    assert path(times) == [("disk", "ready", 400), ("db", "ready", 600), ("web", "ready", 500)]


def test_a_failed_service_held_others_up_and_one_that_was_ready_before_did_not() -> None:
    times = {
        "disk": Times(10, 10, 1, 20, 20),
        "db": Times(1000, 1000, 1, 1100, 1100),
        "cache": Times(1000, 1000, 1, 0, 3000),
        "web": Times(1000, 3000, 1, 3500, 3500),
    }
    assert path(times) == [("cache", "failed", 2000), ("web", "ready", 500)]


def test_what_came_up_after_a_service_had_begun_held_up_nothing() -> None:
    times = {"db": Times(1000, 1000, 1, 1100, 1100), "cache": Times(1000, 1000, 1, 9000, 9000), "web": Times(1000, 1100)}
    assert path(times) == [("db", "ready", 100), ("web", "underway", NOW - 1100)]


def test_the_path_of_a_service_that_still_waits_ends_with_what_it_waits_for() -> None:
    times = {"db": Times(1000, 1000, 1), "cache": Times(1000, 1000, 1, 1500, 1500), "web": Times(1000)}
    assert path(times) == [("db", "underway", NOW - 1000), ("web", "underway", 0)]
