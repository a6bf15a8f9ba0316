"""The laws of ``core.service_state`` hold for very many sequences of events."""

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from milkyway_agent.core.service_state import TABLE
from tests.fakes.service_lives import live
from tests.soak.report import Report

SEQUENCES = 100_000
BATCH = 2_000
LENGTH = 160


def test_any_sequence_of_events_keeps_every_law_and_comes_to_rest() -> None:
    """Lives a hundred thousand sequences, in batches with a seed each, so that it can be interrupted."""
    report = Report("service-state")
    while report.counts["sequences"] < SEQUENCES:
        report.add(**_batch(report.seed + report.counts["batches"]), batches=1)
    report.finish(
        bytes_per_sequence=LENGTH,
        pairs_in_table=len(TABLE),
        laws=[
            "never kills without asking first",
            "never loses a process",
            "never starts what nobody wants",
            "never runs without what it requires, nor beside what it conflicts with",
            "always comes to rest",
        ],
    )


def _batch(number: int) -> dict[str, int]:
    """Live the sequences of a batch, drawn with the seed *number*. Returns their number, and that of their events."""
    done = {"sequences": 0, "events": 0}

    @seed(number)
    @settings(max_examples=BATCH, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(min_size=LENGTH, max_size=LENGTH))
    def each(data: bytes) -> None:
        world = live(data)
        done["sequences"] += 1
        done["events"] += len(world.history)

    each()
    return done
