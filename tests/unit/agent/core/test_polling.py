"""Backoff with jitter, and the user ids of a deployment: arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkyway_agent.core.polling import Patience, delay_ms
from milkyway_agent.core.uid_range import RANGE, check_apart, first_uid
from milkyway_formats.errors import RefusedError

CHANCE = st.floats(0, 1, exclude_max=True)


def test_after_a_success_there_is_no_wait() -> None:
    assert delay_ms(Patience(), 0, 0.99) == 0


@given(st.integers(1, 10_000), CHANCE)
def test_a_wait_is_never_longer_than_its_bound(failures: int, chance: float) -> None:
    assert 0 <= delay_ms(Patience(1000, 60_000), failures, chance) <= min(60_000, 1000 * 2 ** min(failures - 1, 40))


def test_the_bound_doubles() -> None:
    assert [delay_ms(Patience(1000, 5000), failures, 0.5) for failures in (1, 2, 3, 4, 5)] == [500, 1000, 2000, 2500, 2500]


def test_a_chance_of_one_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="chance is a number from"):
        delay_ms(Patience(), 1, 1.0)


@given(st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True))
def test_user_ids_are_neither_coreos_s_nor_nobody_s(identifier: str) -> None:
    assert RANGE <= first_uid(identifier) <= 0xFFFFFFFF - 2 * RANGE + 1
    assert first_uid(identifier) % RANGE == 0


def test_the_same_deployment_twice_is_one() -> None:
    check_apart(["web_1", "web_1", "mail_2"])


def test_two_ids_with_the_same_users_are_refused() -> None:
    seen: dict[int, str] = {}
    for number in range(100_000):
        identifier = f"d{number}"
        if (other := seen.setdefault(first_uid(identifier), identifier)) != identifier:
            break
    with pytest.raises(RefusedError, match=f"cannot deploy {identifier}: its user ids are those of {other}"):
        check_apart([other, identifier])
