"""The boot runs what it can, names what it could not, and always comes to its end."""

import errno
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from milkyway_agent.core.boot import Phase
from milkyway_agent.pid1.boot_run import BootRecord, BootRun, Deed
from milkyway_formats.errors import UnavailableError

PHASES = (
    Phase("first", (), "nothing works"),
    Phase("second", ("first",), "no second"),
    Phase("third", ("second",), "no third"),
    Phase("apart", (), "no apart"),
)


async def _fine() -> Sequence[str]:
    return []


def _boot(record: BootRecord, **deeds: Deed) -> BootRun:
    complete: dict[str, Deed] = {phase.name: _fine for phase in PHASES} | deeds
    return BootRun(record, complete, clock_ms=lambda: int(trio.current_time() * 1000), note=lambda *_, **__: None)


async def _run(**deeds: Deed) -> BootRecord:
    record = BootRecord(PHASES)
    await _boot(record, **deeds).run()
    return record


async def test_all_goes_well_and_there_is_nothing_to_report() -> None:
    record = await _run()
    assert set(record.outcomes.values()) == {"done"}
    assert record.failures() == []


async def test_a_failure_takes_with_it_what_needs_it_and_nothing_else() -> None:
    async def refuse() -> Sequence[str]:
        raise UnavailableError("the disk is gone")

    record = await _run(second=refuse)
    assert record.outcomes == {"first": "done", "apart": "done", "second": "failed"}
    assert record.failures() == [
        "second failed: the disk is gone; no second",
        "third was not tried, as second failed; no third",
    ]


async def test_a_bug_is_a_failure_like_any_other() -> None:
    async def stumble() -> Sequence[str]:
        raise KeyError("oops")

    record = await _run(first=stumble)
    assert record.failures()[0] == "first failed: a bug: KeyError: 'oops'; nothing works"
    assert record.outcomes["apart"] == "done"


async def test_a_slow_phase_delays_only_what_needs_it_and_ends_by_its_deadline(autojump_clock: MockClock) -> None:
    async def hang() -> Sequence[str]:
        await trio.sleep_forever()
        return []

    record = await _run(first=hang)
    assert record.finished_ms["apart"] < 1000
    assert record.failures()[0] == "first failed: it took longer than 120 s; nothing works"


async def test_what_the_kernel_refused_is_tried_again_before_it_counts_as_failed(autojump_clock: MockClock) -> None:
    tries: list[float] = []

    async def settle() -> Sequence[str]:
        tries.append(trio.current_time())
        if len(tries) < 3:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return []

    record = await _run(first=settle)
    assert record.outcomes["first"] == record.outcomes["third"] == "done"
    assert len(tries) == 3


async def test_what_failed_is_run_again_with_all_that_was_lost_once_it_is_forgotten() -> None:
    disks: list[str] = []

    async def open_disk() -> Sequence[str]:
        if not disks:
            raise UnavailableError("the disk is gone")
        return []

    record = BootRecord(PHASES)
    boot = _boot(record, second=open_disk)
    await boot.run()
    disks.append("sda")
    assert record.forget_failures() == ["second"]
    await boot.run()
    assert set(record.outcomes.values()) == {"done"}
    assert record.failures() == []
    assert record.forget_failures() == []


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

    record = await _run(first=hang)
    assert record.outcomes["first"] == "failed"
    assert "Bad file descriptor" in record.failures()[0]


async def test_a_warning_is_reported_though_the_phase_is_done() -> None:
    async def grumble() -> Sequence[str]:
        return ["the kernel has no such parameter"]

    record = await _run(apart=grumble)
    assert record.outcomes["apart"] == "done"
    assert record.failures() == ["the kernel has no such parameter"]


async def test_what_lasts_is_kept_for_the_next_agent_with_its_warnings_and_all_else_forgotten() -> None:
    async def grumble() -> Sequence[str]:
        return ["the kernel has no such parameter"]

    async def refuse() -> Sequence[str]:
        raise UnavailableError("the disk is gone")

    record = await _run(first=grumble, apart=grumble, second=refuse)
    record.finished_ms |= {"pid1": 3, "ready": 9}
    record.keep_only(("first", "second"))
    assert record.outcomes == {"first": "done"}
    assert set(record.finished_ms) == {"pid1", "first"}
    assert record.failures() == ["the kernel has no such parameter"]


@pytest.mark.parametrize("deeds", [{"second": _fine}, {phase.name: _fine for phase in PHASES} | {"fourth": _fine}])
def test_a_phase_without_a_deed_and_a_deed_without_a_phase_are_bugs(deeds: dict[str, Deed]) -> None:
    with pytest.raises(AssertionError, match="each phase has a deed, each deed a phase"):
        BootRun(BootRecord(PHASES), deeds, clock_ms=lambda: 0, note=lambda *_, **__: None)
