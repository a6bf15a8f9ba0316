"""When a service that ended by itself runs again."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkyway_agent.core.restart import Starts, delay_ms, describe_end, judge, permission, started
from milkyway_agent.core.service_state import Event
from milkyway_formats.listener import Listener, Tcp
from milkyway_formats.service import Restart, Service
from milkyway_formats.timer import Timer

POLICY = Restart(delay_ms=100, delay_limit_ms=1000, start_limit=3, start_interval_ms=10_000)


TIMERS = [Timer(after_end_ms=1000)]
LISTENERS = [Listener(name="http", address=Tcp(port=80))]


def defined(
    when: str = "always", kind: str = "longrun", *, timers: list[Timer] | None = None, listeners: list[Listener] | None = None
) -> Service:
    restart = Restart(when=when, start_limit=3, start_interval_ms=10_000)  # type: ignore[arg-type] # one of the three
    return Service(
        name="web",
        command=["/bin/web"],
        type=kind,  # type: ignore[arg-type] # one of the two
        restart=restart,
        timers=timers or [],
        listeners=listeners or [],
    )


def judged(service: Service, code: int | None, starts: tuple[int, ...] = (0,)) -> Event:
    return judge(service, code, Starts(starts), 5, 0.0).event


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
    assert judged(defined(when), code) is event


@pytest.mark.parametrize("when", ["always", "on-failure", "never"])
def test_a_oneshot_that_ends_well_has_succeeded_whatever_the_policy(when: str) -> None:
    assert judged(defined(when, "oneshot"), 0) is Event.COMPLETED


def test_the_delay_doubles_to_its_limit() -> None:
    assert [delay_ms(POLICY, failures, 0.5) for failures in range(1, 7)] == [100, 200, 400, 800, 1000, 1000]
    assert delay_ms(POLICY, 10_000, 0.5) == 1000


def test_the_start_limit_gives_up_and_says_so() -> None:
    starts = Starts()
    for now in (0, 1000, 2000):
        starts = started(starts, now, POLICY)
        verdict = judge(defined(), 1, starts, now + 1, 0.0)
        starts = verdict.starts
    assert verdict.event is Event.GAVE_UP
    assert verdict.reason == "ended with status 1; given up after 3 starts within 10 s"


def test_starts_that_are_long_past_do_not_count() -> None:
    starts = Starts()
    for now in (0, 9_000, 18_000, 27_000, 36_000):
        starts = started(starts, now, POLICY)
        verdict = judge(defined(), 1, starts, now + 1, 0.0)
        starts = verdict.starts
        assert verdict.event is Event.RETRIED
    assert len(starts.at) <= 2, "those that don't count are forgotten"


def test_a_long_run_ends_a_row_of_failures() -> None:
    starts = Starts((0,), failures=8)
    assert judge(defined(), 1, starts, 9_999, 0.0).starts.failures == 9
    assert judge(defined(), 1, starts, 10_000, 0.0).starts.failures == 1


@given(st.integers(1, 100), st.integers(0, 100), st.floats(0, 1))
def test_jitter_only_ever_shortens_and_leaves_its_share(failures: int, jitter: int, chance: float) -> None:
    whole = delay_ms(POLICY, failures, chance)
    policy = Restart(delay_ms=100, delay_limit_ms=1000, jitter=jitter)
    assert whole * (100 - jitter) // 100 <= delay_ms(policy, failures, chance) <= whole
    assert delay_ms(policy, failures, 1.0) == whole


def test_chance_decides_over_the_share_that_is_left_to_it() -> None:
    policy = Restart(delay_ms=1000, delay_limit_ms=1000, jitter=40)
    assert [delay_ms(policy, 1, chance) for chance in (0.0, 0.5, 1.0)] == [600, 800, 1000]


@pytest.mark.parametrize("when", ["always", "on-failure", "never"])
@pytest.mark.parametrize("kind", ["longrun", "oneshot"])
def test_what_has_a_trigger_rests_until_the_next_one_when_it_ended_well(when: str, kind: str) -> None:
    assert judged(defined(when, kind, timers=TIMERS), 0) is Event.REARMED
    assert judged(defined(when, kind, listeners=LISTENERS), 0) is Event.REARMED


def test_timers_go_on_after_a_failure_and_say_why() -> None:
    service = defined("never", timers=TIMERS)
    verdict = judge(service, 1, Starts((0,)), 5, 0.0)
    assert (verdict.event, verdict.reason) == (Event.REARMED, "ended with status 1")
    assert judged(defined("on-failure", timers=TIMERS), 1) is Event.RETRIED, "a policy that retries does so now"


def test_a_timer_outlives_the_start_limit() -> None:
    verdict = judge(defined(timers=TIMERS), 1, Starts((0, 1, 2), 2), 5, 0.0)
    assert verdict.event is Event.REARMED
    assert verdict.reason == "ended with status 1; given up until its next time after 3 starts within 10 s"


@pytest.mark.parametrize("when", ["always", "on-failure", "never"])
def test_a_client_that_is_left_waiting_does_not_start_it_for_ever(when: str) -> None:
    assert judged(defined(when, listeners=LISTENERS, timers=TIMERS), 1, (0, 1, 2)) is Event.GAVE_UP


def test_what_ends_well_without_taking_its_client_pauses_until_a_start_no_longer_counts() -> None:
    verdict = judge(defined(listeners=LISTENERS), 0, Starts((100, 200, 300)), 1_000, 0.0)
    assert (verdict.event, verdict.delay_ms) == (Event.RETRIED, 9_100)
    assert verdict.reason == "ended with status 0; pauses after 3 starts within 10 s"
    assert permission(defined(listeners=LISTENERS), verdict.starts, True) is Event.ARM


def test_permission_arms_what_has_a_trigger_unless_it_is_tried_again() -> None:
    assert permission(defined(), Starts(), True) is Event.PERMITTED
    assert permission(defined(timers=TIMERS), Starts(), True) is Event.ARM
    assert permission(defined(timers=TIMERS), Starts((0,), 1), True) is Event.PERMITTED
    at_once = [Listener(name="http", address=Tcp(port=80), start="at-once")]
    assert permission(defined(listeners=at_once), Starts(), True) is Event.PERMITTED


def test_a_condition_that_does_not_hold_skips_whatever_it_is() -> None:
    for service in (defined(), defined(timers=TIMERS)):
        assert permission(service, Starts(), False) is Event.SKIPPED


def test_signals_are_shown_by_name() -> None:
    for number in signal.valid_signals() - {signal.SIGRTMAX}:
        known = signal.Signals(number).name if number in set(signal.Signals) else f"SIGRTMIN+{number - signal.SIGRTMIN}"
        assert describe_end(-number) == f"was killed by {known}"
    assert describe_end(-33) == "was killed by signal 33", "reserved by the C library"
    assert describe_end(3) == "ended with status 3"
    assert describe_end(None) == "did not start"
