"""A line of the engine that is broken on purpose makes a test fail: a sample of them here, all in ``make soak``."""

from concurrent.futures import ThreadPoolExecutor

from tests.mutation.survivors import EQUIVALENT, mutants, survives

EVERY = 8


def test_a_broken_line_of_the_engine_makes_a_test_fail() -> None:
    sample = mutants()[::EVERY]
    assert len(sample) >= 20
    with ThreadPoolExecutor(2) as threads:
        survived = [mutant.name for mutant, alive in zip(sample, threads.map(survives, sample), strict=True) if alive]
    assert [name for name in survived if name not in EQUIVALENT] == []


def test_what_is_said_to_change_nothing_is_there_to_be_broken() -> None:
    assert set(EQUIVALENT) <= {mutant.name for mutant in mutants()}
