"""Every line of the engine, broken on purpose, one at a time: each makes a test of the engine fail."""

from concurrent.futures import ThreadPoolExecutor

from tests.mutation.survivors import EQUIVALENT, MODULES, TESTS, mutants, survives
from tests.soak.report import Report

AT_ONCE = 2
BATCH = 20


def test_every_broken_line_of_the_engine_makes_a_test_fail() -> None:
    """Some at a time, so that it can be interrupted."""
    report = Report("mutants")
    everything = mutants()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        while report.counts["mutants"] < len(everything):
            begin = report.counts["mutants"]
            batch = everything[begin : begin + BATCH]
            alive = [mutant.name for mutant, lives in zip(batch, threads.map(survives, batch), strict=True) if lives]
            unseen = [name for name in alive if name not in EQUIVALENT]
            assert not unseen, "\n".join(unseen)
            report.add(mutants=len(batch), survived=len(alive))
    report.finish(modules=list(MODULES), tests=list(TESTS), survivors=EQUIVALENT)
