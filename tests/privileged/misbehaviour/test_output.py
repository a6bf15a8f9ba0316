"""Programs that write too much, too little or nonsense (``misbehaviour/output.c``)."""

import pytest

from tests.privileged.misbehaviour.programs import ONCE, STOPPED, UP, begin
from tests.privileged.supervisor.supervised import Supervised, supervised

pytestmark = pytest.mark.privileged


async def stopped(harness: Supervised, name: str) -> None:
    """Assert that *name* is up, and can be stopped without SIGKILL."""
    assert harness.path(name) == UP
    await harness.supervisor.stop(name)
    assert harness.path(name) == [*UP, *STOPPED]
    assert "service_killed" not in harness.log.ring.events(name)


@pytest.mark.parametrize("behaviour", ["floods_standard_output", "floods_standard_error", "writes_one_endless_line"])
async def test_a_flood_is_cut_and_holds_up_no_other_service(behaviour: str) -> None:
    async with supervised() as harness:
        name = begin(harness, f"output/{behaviour}")
        await harness.event("output_dropped")
        other = begin(harness, "output/writes_byte_by_byte")
        await harness.line(other, "slowly")
        assert all(len(line) <= 4096 for line in harness.lines(name))
        await stopped(harness, name)


async def test_noise_is_noted_as_text_and_what_follows_is_not_lost() -> None:
    async with supervised() as harness:
        name = begin(harness, "output/writes_noise")
        await harness.line(name, "after the noise")
        assert any("\N{REPLACEMENT CHARACTER}" in line for line in harness.lines(name))
        await stopped(harness, name)


async def test_the_half_line_of_a_process_that_died_is_kept() -> None:
    async with supervised() as harness:
        name = begin(harness, "output/dies_within_a_line", restart=ONCE)
        await harness.line(name, "half a li")
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, "failed"]
        assert harness.lines(name) == ["half a li"]


async def test_a_line_that_comes_byte_by_byte_is_one_line() -> None:
    async with supervised() as harness:
        name = begin(harness, "output/writes_byte_by_byte")
        await harness.line(name, "slowly")
        assert harness.lines(name) == ["slowly"]
        await stopped(harness, name)


async def test_a_service_that_closes_its_output_lives_on() -> None:
    async with supervised() as harness:
        name = begin(harness, "output/closes_its_output")
        await harness.up(name, "silent")
        await harness.line(name, "last words")
        await stopped(harness, name)


async def test_a_service_that_closes_all_its_descriptors_lives_on() -> None:
    async with supervised() as harness:
        name = begin(harness, "output/closes_all_descriptors")
        await harness.up(name, "bare")
        await stopped(harness, name)


async def test_a_service_that_opens_a_thousand_descriptors_takes_none_of_ours() -> None:
    async with supervised() as harness:
        name = begin(harness, "output/opens_a_thousand_descriptors")
        await harness.up(name, "greedy")
        await stopped(harness, name)


async def test_a_service_that_reads_its_own_output_does_not_read_that_of_others() -> None:
    async with supervised() as harness:
        name = begin(harness, "output/steals_its_own_output")
        await harness.line(name, "the thief is done")
        await stopped(harness, name)
