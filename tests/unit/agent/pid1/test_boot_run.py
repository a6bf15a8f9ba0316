"""The boot runs what it can, names what it could not, and always comes to its end."""

import errno
from collections.abc import Sequence

import trio
from trio.testing import MockClock

from milkyway_agent.core.boot import Phase
from milkyway_agent.pid1.boot_run import BootRun, Deed
from milkyway_formats.errors import UnavailableError

PHASES = (
    Phase("first", (), "nothing works"),
    Phase("second", ("first",), "no second"),
    Phase("third", ("second",), "no third"),
    Phase("apart", (), "no apart"),
)


async def _fine() -> Sequence[str]:
    return []


def _run(**deeds: Deed) -> BootRun:
    complete: dict[str, Deed] = {phase.name: _fine for phase in PHASES} | deeds
    return BootRun(PHASES, complete, clock_ms=lambda: int(trio.current_time() * 1000), note=lambda *_, **__: None)


async def test_all_goes_well_and_there_is_nothing_to_report() -> None:
    run = _run()
    await run.run()
    assert set(run.outcomes.values()) == {"done"}
    assert run.failures() == []


async def test_a_failure_takes_with_it_what_needs_it_and_nothing_else() -> None:
    async def refuse() -> Sequence[str]:
        raise UnavailableError("the disk is gone")

    run = _run(second=refuse)
    await run.run()
    assert run.outcomes == {"first": "done", "apart": "done", "second": "failed"}
    assert run.failures() == [
        "second failed: the disk is gone; no second",
        "third was not tried, as second failed; no third",
    ]


async def test_a_bug_is_a_failure_like_any_other() -> None:
    async def stumble() -> Sequence[str]:
        raise KeyError("oops")

    run = _run(first=stumble)
    await run.run()
    assert run.failures()[0] == "first failed: a bug: KeyError: 'oops'; nothing works"
    assert run.outcomes["apart"] == "done"


async def test_a_slow_phase_delays_only_what_needs_it_and_ends_by_its_deadline(autojump_clock: MockClock) -> None:
    async def hang() -> Sequence[str]:
        await trio.sleep_forever()
        return []

    run = _run(first=hang)
    await run.run()
    assert run.finished_ms["apart"] < 1000
    assert run.failures()[0] == "first failed: it took longer than 120 s; nothing works"


async def test_what_the_kernel_refused_is_tried_again_before_it_counts_as_failed(autojump_clock: MockClock) -> None:
    tries: list[float] = []

    async def settle() -> Sequence[str]:
        tries.append(trio.current_time())
        if len(tries) < 3:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return []

    run = _run(first=settle)
    await run.run()
    assert run.outcomes["first"] == run.outcomes["third"] == "done"
    assert len(tries) == 3


async def test_what_failed_is_run_again_with_all_that_was_lost_once_it_is_forgotten() -> None:
    disks: list[str] = []

    async def open_disk() -> Sequence[str]:
        if not disks:
            raise UnavailableError("the disk is gone")
        return []

    run = _run(second=open_disk)
    await run.run()
    disks.append("sda")
    assert run.forget_failures() == ["second"]
    await run.run()
    assert set(run.outcomes.values()) == {"done"}
    assert run.failures() == []
    assert run.forget_failures() == []


async def test_a_deed_that_fails_while_its_time_is_up_fails_like_any_other(autojump_clock: MockClock) -> None:
    """Its nursery raises the failure and the cancellation together, which no ``except Exception`` inside catches."""

    async def clumsy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError(errno.EBADF, "Bad file descriptor")

    async def hang() -> Sequence[str]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clumsy)
            nursery.start_soon(trio.sleep_forever)
        return []

    run = _run(first=hang)
    await run.run()
    assert run.outcomes["first"] == "failed"
    assert "Bad file descriptor" in run.reasons["first"]


async def test_a_warning_is_reported_though_the_phase_is_done() -> None:
    async def grumble() -> Sequence[str]:
        return ["the kernel has no such parameter"]

    run = _run(apart=grumble)
    await run.run()
    assert run.outcomes["apart"] == "done"
    assert run.failures() == ["the kernel has no such parameter"]
