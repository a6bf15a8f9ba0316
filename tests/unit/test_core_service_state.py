"""The life of a service as laws over its whole table."""

import itertools

import pytest

from milkyway_agent.core.service_state import TABLE, Effect, Event, IllegalEventError, Row, has_process, judges_end, step

ASKED = (Event.WANTED, Event.UNWANTED, Event.RESTART_ASKED, Event.HELD, Event.BROKEN)
JUDGED = {Event.COMPLETED, Event.RETRIED, Event.FINISHED, Event.GAVE_UP}


def test_never_kills_without_asking_first() -> None:
    """Only the stop timer, or a supervisor that can't go on, may order SIGKILL, whatever the row."""
    assert {event for (_, event), found in TABLE.items() if Effect.KILL in found.effects} == {Event.OVERDUE, Event.BROKEN}


def test_whatever_people_ask_has_a_meaning_in_every_row() -> None:
    for row, event in itertools.product(Row, ASKED):
        assert (row, event) in TABLE, f"{row} {event}"


def test_a_pair_without_meaning_raises_and_says_which() -> None:
    with pytest.raises(IllegalEventError, match="cannot go on from idle: 'ready' has no meaning there"):
        step(Row.IDLE, Event.READY)


def test_a_start_comes_only_from_permission_and_only_while_waiting() -> None:
    starting = {pair for pair, found in TABLE.items() if Effect.START in found.effects}
    assert starting == {(Row.WAITING, Event.PERMITTED)}
    assert {pair for pair, found in TABLE.items() if found.row is Row.STARTING and pair[0] is not Row.STARTING} == starting


def test_wanting_never_leads_to_an_unwanted_row_nor_the_other_way() -> None:
    for row in Row:
        assert step(row, Event.WANTED).row.wanted
        assert step(row, Event.RESTART_ASKED).row.wanted
        assert not step(row, Event.UNWANTED).row.wanted


def test_what_others_do_never_changes_what_is_wanted() -> None:
    """Only people, and a service that rests by its own policy, change what is wanted."""
    for (row, event), found in TABLE.items():
        if event not in {Event.WANTED, Event.UNWANTED, Event.RESTART_ASKED, Event.FINISHED, Event.BROKEN}:
            assert found.row.wanted == row.wanted, f"{row} {event}"


def test_a_process_is_cleaned_up_after_before_a_row_without_one() -> None:
    for (row, event), found in TABLE.items():
        if has_process(row) and not has_process(found.row):
            assert Effect.CLEAN_UP in found.effects, f"{row} {event}"
            assert Effect.START not in found.effects


def test_stopping_always_has_an_end() -> None:
    """Whoever is asked to end has a timer, and when it is over all of it is killed."""
    for found in TABLE.values():
        if Effect.TERMINATE in found.effects:
            assert Effect.START_STOP_TIMER in found.effects
            assert Effect.KILL in step(found.row, Event.OVERDUE).effects


def test_a_timer_is_cancelled_wherever_its_row_is_left() -> None:
    timed = {Row.STARTING, Row.STOPPING, Row.RESTARTING, Row.FALTERING}
    for (row, event), found in TABLE.items():
        if row in timed and found.row not in timed:
            assert Effect.CANCEL_TIMER in found.effects, f"{row} {event}"


def test_an_end_nobody_asked_for_is_judged_and_one_asked_for_is_not() -> None:
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
        assert any(found.row is not row for (here, event), found in TABLE.items() if here is row and event is not Event.BROKEN)


def test_a_oneshot_that_is_done_stays_done_when_what_it_needed_goes() -> None:
    assert step(Row.COMPLETED, Event.HELD) == (Row.COMPLETED, ())


def test_wanted_again_while_it_stops_it_starts_afresh_once_stopped() -> None:
    row = step(Row.STOPPING, Event.WANTED).row
    assert row is Row.RESTARTING
    ended = step(row, Event.ENDED)
    assert ended.row is Row.WAITING
    assert ended.effects[-1] is Effect.AWAIT_PERMISSION


def test_five_states_are_shown() -> None:
    assert {row.current for row in Row} == {"stopped", "starting", "started", "stopping", "failed"}
