"""The state table of a service, checked as laws over all of its rows."""

import itertools

import pytest

from milkyway_agent.core.service_state import (
    TABLE,
    Effect,
    Event,
    IllegalEventError,
    Row,
    has_process,
    is_lost,
    judges_end,
    satisfies,
    step,
)

ASKED = (Event.WANTED, Event.UNWANTED, Event.RESTART_ASKED, Event.DEPENDENCY_LOST, Event.INTERNAL_ERROR)
JUDGED = (Event.COMPLETED, Event.RETRIED, Event.FINISHED, Event.REARMED, Event.GAVE_UP)


def test_never_kills_without_asking_first() -> None:
    """In every row, only the stop timer or an internal error orders SIGKILL."""
    assert {event for (_, event), found in TABLE.items() if Effect.KILL in found.effects} == {
        Event.STOP_TIMEOUT,
        Event.INTERNAL_ERROR,
    }


def test_every_request_has_a_meaning_in_every_row() -> None:
    for row, event in itertools.product(Row, ASKED):
        assert (row, event) in TABLE, f"{row} {event}"


def test_a_pair_without_meaning_raises_and_says_which() -> None:
    with pytest.raises(IllegalEventError, match="cannot go on from idle: 'ready' has no meaning there"):
        step(Row.IDLE, Event.READY)


def test_a_start_needs_permission_a_trigger_or_a_restart_that_waits_for_none() -> None:
    starting = {pair for pair, found in TABLE.items() if Effect.START in found.effects}
    assert starting == {(Row.WAITING, Event.PERMITTED), (Row.ARMED, Event.TRIGGERED), (Row.ARMED, Event.RESTART_ASKED)}
    assert {pair for pair, found in TABLE.items() if found.row is Row.STARTING and pair[0] is not Row.STARTING} == starting


def test_wanting_never_leads_to_an_unwanted_row_nor_the_other_way() -> None:
    for row in Row:
        assert step(row, Event.WANTED).row.wanted
        assert step(row, Event.RESTART_ASKED).row.wanted
        assert not step(row, Event.UNWANTED).row.wanted


def test_what_others_do_never_changes_what_is_wanted() -> None:
    """Only requests, a service that is finished by its own policy, and a condition change what is wanted."""
    changing = {Event.WANTED, Event.UNWANTED, Event.RESTART_ASKED, Event.FINISHED, Event.SKIPPED, Event.INTERNAL_ERROR}
    for (row, event), found in TABLE.items():
        if event not in changing:
            assert found.row.wanted == row.wanted, f"{row} {event}"


def test_a_process_is_cleaned_up_after_before_a_row_without_one() -> None:
    for (row, event), found in TABLE.items():
        if has_process(row) and not has_process(found.row):
            assert Effect.CLEAN_UP in found.effects, f"{row} {event}"
            assert Effect.START not in found.effects


def test_what_must_not_outlast_a_row_is_started_exactly_when_it_is_entered() -> None:
    """Health checks run in STARTED and nowhere else, listeners and timers are watched in ARMED and nowhere else."""
    for own, begin, end in (
        (Row.STARTED, Effect.START_HEALTH_CHECKS, Effect.STOP_HEALTH_CHECKS),
        (Row.ARMED, Effect.ARM, Effect.DISARM),
    ):
        for (row, event), found in TABLE.items():
            assert (begin in found.effects) == (row is not own and found.row is own), f"{row} {event}"
            assert (end in found.effects) == ((row is own and found.row is not own) or event is Event.INTERNAL_ERROR), (
                f"{row} {event}"
            )


def test_an_effect_that_may_bring_about_the_next_event_stands_last() -> None:
    answering = {Effect.START, Effect.ARM, Effect.AWAIT_PERMISSION, Effect.START_BACKOFF_TIMER, Effect.RELOAD}
    for (row, event), found in TABLE.items():
        assert not answering & set(found.effects[:-1]), f"{row} {event}"


def test_an_internal_error_undoes_everything_in_any_row() -> None:
    undoing = {effect for (_, event), found in TABLE.items() if event is Event.INTERNAL_ERROR for effect in found.effects}
    begun = {effect for found in TABLE.values() for effect in found.effects} - undoing
    assert begun == {
        *(Effect.START_BACKOFF_TIMER, Effect.START_READY_TIMER, Effect.START_STOP_TIMER),  # undone by CANCEL_TIMER
        *(Effect.START_HEALTH_CHECKS, Effect.ARM, Effect.START),  # by STOP_HEALTH_CHECKS, DISARM, CLEAN_UP
        *(Effect.TERMINATE, Effect.RELOAD, Effect.AWAIT_PERMISSION, Effect.FORGET_STARTS),  # leave nothing behind
    }
    assert all(step(row, Event.INTERNAL_ERROR).effects == step(Row.IDLE, Event.INTERNAL_ERROR).effects for row in Row)


def test_a_reload_means_something_only_once_started_and_changes_no_row() -> None:
    assert {row for row in Row if (row, Event.RELOAD_ASKED) in TABLE} == {Row.STARTED}
    assert step(Row.STARTED, Event.RELOAD_ASKED) == (Row.STARTED, (Effect.RELOAD,))


@pytest.mark.parametrize("event", [Event.UNHEALTHY, Event.WATCHDOG_TIMEOUT])
def test_what_is_not_well_is_asked_to_end_and_then_judged(event: Event) -> None:
    found = step(Row.STARTED, event)
    assert judges_end(found.row)
    assert Effect.TERMINATE in found.effects
    assert {row for row in Row if (row, event) in TABLE} == {Row.STARTED}


def test_every_verdict_has_a_meaning_in_every_row_that_judges_an_end() -> None:
    for row, event in itertools.product(Row, JUDGED):
        assert ((row, event) in TABLE) == judges_end(row), f"{row} {event}"


def test_a_service_that_rests_keeps_what_its_dependents_count_on() -> None:
    assert not is_lost(Row.STARTED, step(Row.STARTED, Event.REARMED).row)
    assert not is_lost(Row.ARMED, step(Row.ARMED, Event.TRIGGERED).row)
    assert is_lost(Row.STARTING, step(Row.STARTING, Event.GAVE_UP).row), "services that counted on its socket lose it"


def test_a_service_that_is_lost_was_there_or_was_about_to_be_again() -> None:
    assert {row for row in Row if satisfies(row)} == {Row.ARMED, Row.STARTED, Row.COMPLETED}
    for (row, _), found in TABLE.items():
        if is_lost(row, found.row):
            assert not satisfies(found.row)
        elif satisfies(row):
            assert satisfies(found.row) or found.row is Row.STARTING


@pytest.mark.parametrize("event", [Event.ARM, Event.SKIPPED, Event.PERMITTED])
def test_permission_has_a_meaning_only_while_it_is_waited_for(event: Event) -> None:
    assert {row for row in Row if (row, event) in TABLE} == {Row.WAITING}


def test_stopping_always_has_an_end() -> None:
    """A service that is asked to end has a timer, after which all of its processes are killed."""
    for found in TABLE.values():
        if Effect.TERMINATE in found.effects:
            assert Effect.START_STOP_TIMER in found.effects
            assert Effect.KILL in step(found.row, Event.STOP_TIMEOUT).effects


def test_a_timer_is_cancelled_wherever_its_row_is_left() -> None:
    timed = {Row.STARTING, Row.STOPPING, Row.RESTARTING, Row.FALTERING}
    for (row, event), found in TABLE.items():
        if row in timed and found.row not in timed:
            assert Effect.CANCEL_TIMER in found.effects, f"{row} {event}"


def test_an_end_that_was_not_asked_for_is_judged_and_one_that_was_is_not() -> None:
    assert {row for row in Row if judges_end(row)} == {Row.STARTING, Row.STARTED, Row.FALTERING}
    for row in Row:
        if has_process(row):
            assert ((row, Event.ENDED) in TABLE) != judges_end(row)


def test_every_row_can_be_reached_and_left() -> None:
    reached, queue = {Row.IDLE}, [Row.IDLE]
    while queue:
        row = queue.pop()
        for found in (found for (here, _), found in TABLE.items() if here is row):
            if found.row not in reached:
                reached.add(found.row)
                queue.append(found.row)
    assert reached == set(Row)
    for row in Row:
        assert any(
            found.row is not row for (here, event), found in TABLE.items() if here is row and event is not Event.INTERNAL_ERROR
        )


def test_a_fresh_start_forgets_those_before_and_what_follows_from_a_failure_does_not() -> None:
    for (row, event), found in TABLE.items():
        is_asked = event in {Event.WANTED, Event.RESTART_ASKED} and Effect.TERMINATE not in found.effects
        is_fresh = (is_asked and bool(found.effects)) or (row, event) == (Row.RESTARTING, Event.ENDED)
        assert (Effect.FORGET_STARTS in found.effects) == is_fresh, f"{row} {event}"


def test_a_oneshot_that_is_done_stays_done_when_what_it_needed_goes() -> None:
    assert step(Row.COMPLETED, Event.DEPENDENCY_LOST) == (Row.COMPLETED, ())


def test_wanted_again_while_it_stops_it_starts_afresh_once_stopped() -> None:
    row = step(Row.STOPPING, Event.WANTED).row
    assert row is Row.RESTARTING
    ended = step(row, Event.ENDED)
    assert ended.row is Row.WAITING
    assert ended.effects[-1] is Effect.AWAIT_PERMISSION


def test_six_states_are_shown() -> None:
    assert {row.current for row in Row} == {"stopped", "armed", "starting", "started", "stopping", "failed"}
