"""How long a supervisor restarted nothing, from the times when services were killed and ran again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.supervisor.silence import Return, longest_silence


def test_a_supervisor_that_never_stops_looking_is_silent_for_one_restart() -> None:
    assert longest_silence([Return(10 * number, 10 * number + 2) for number in range(40)]) == 2


def test_a_silence_begins_with_the_first_missing_service() -> None:
    assert longest_silence([Return(0, 2), Return(10, 112), Return(20, 113), Return(30, 114)]) == 102


def test_a_queue_after_the_silence_is_not_part_of_it() -> None:
    """Each service waits longer than the one before, but the supervisor works: one comes back every 20."""
    assert longest_silence([Return(10 * number, 20 * number + 20) for number in range(40)]) == 20


def test_a_service_that_comes_back_out_of_turn_was_missing_since_it_was_killed() -> None:
    assert longest_silence([Return(0, 50), Return(10, 12), Return(60, 62)]) == 38


def test_a_pause_in_which_no_service_is_missing_is_not_a_silence() -> None:
    assert longest_silence([Return(0, 2), Return(5000, 5003)]) == 3


def test_without_a_kill_there_is_no_answer() -> None:
    with pytest.raises(ValueError, match="nothing"):
        longest_silence([])


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1))
def test_no_silence_is_longer_than_the_longest_wait_nor_shorter_than_the_shortest_gap_before_a_first_return(
    pairs: list[tuple[int, int]],
) -> None:
    returns = [Return(killed, killed + wait) for killed, wait in pairs]
    first = min(returns, key=lambda service: service.born)
    assert first.born - first.killed <= longest_silence(returns) <= max(wait for _, wait in pairs)
