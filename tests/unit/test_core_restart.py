"""When a service that ended by itself runs again."""

import pytest

from milkyway_agent.core.restart import Starts, delay_ms, judge, started
from milkyway_agent.core.service_state import Event
from milkyway_formats.service import Restart, Service

POLICY = Restart(delay_ms=100, delay_limit_ms=1000, start_limit=3, start_interval_ms=10_000)


def service(when: str = "always", kind: str = "longrun") -> Service:
    restart = Restart(when=when, start_limit=3, start_interval_ms=10_000)  # type: ignore[arg-type] # one of the three
    return Service(name="web", command=["/bin/web"], type=kind, restart=restart)  # type: ignore[arg-type] # one of the two


@pytest.mark.parametrize(
    ("when", "code", "event"),
    [
        ("always", 0, Event.RETRIED),
        ("always", 1, Event.RETRIED),
        ("always", None, Event.RETRIED),
        ("on-failure", 0, Event.FINISHED),
        ("on-failure", -11, Event.RETRIED),
        ("never", 0, Event.FINISHED),
        ("never", 1, Event.GAVE_UP),
        ("never", None, Event.GAVE_UP),
    ],
)
def test_the_policy_decides(when: str, code: int | None, event: Event) -> None:
    assert judge(service(when), code, Starts((0,)), 5).event is event


@pytest.mark.parametrize("when", ["always", "on-failure", "never"])
def test_a_oneshot_that_ends_well_has_succeeded_whatever_the_policy(when: str) -> None:
    assert judge(service(when, "oneshot"), 0, Starts((0,)), 5).event is Event.COMPLETED


def test_the_delay_doubles_to_its_limit() -> None:
    assert [delay_ms(POLICY, failures) for failures in range(1, 7)] == [100, 200, 400, 800, 1000, 1000]
    assert delay_ms(POLICY, 10_000) == 1000


def test_the_start_limit_gives_up_and_says_so() -> None:
    starts = Starts()
    for now in (0, 1000, 2000):
        starts = started(starts, now, POLICY)
        verdict = judge(service(), 1, starts, now + 1)
        starts = verdict.starts
    assert verdict.event is Event.GAVE_UP
    assert verdict.reason == "ended with status 1; given up after 3 starts within 10 s"


def test_starts_that_are_long_past_do_not_count() -> None:
    starts = Starts()
    for now in (0, 9_000, 18_000, 27_000, 36_000):
        starts = started(starts, now, POLICY)
        verdict = judge(service(), 1, starts, now + 1)
        starts = verdict.starts
        assert verdict.event is Event.RETRIED
    assert len(starts.at) <= 2, "forgotten ones take no room"


def test_a_long_run_ends_a_row_of_failures() -> None:
    starts = Starts((0,), failures=8)
    assert judge(service(), 1, starts, 9_999).starts.failures == 9
    assert judge(service(), 1, starts, 10_000).starts.failures == 1
