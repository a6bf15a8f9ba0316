"""Warnings about services that lack something and wait for it, by the kernel's own pressure information."""

import threading
from pathlib import Path

import pytest
import trio

from milkyway_formats.service import Pressure, Service
from tests.privileged.supervisor.supervised import cgroup_root, supervised

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(not Path(cgroup_root(), "cpu.pressure").exists(), reason="this kernel has no pressure information"),
]

BUSY = ["/bin/sh", "-c", "for n in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait"]


async def test_there_is_one_warning_a_window_for_a_service_that_waits_for_a_processor_and_none_for_others() -> None:
    async with supervised() as harness:
        harness.add_direct(
            Service(name="busy", command=BUSY, pressure=Pressure(cpu_percent=1)),
            Service(
                name="calm", command=["/bin/sleep", "1000"], pressure=Pressure(cpu_percent=1, memory_percent=1, io_percent=1)
            ),
        )
        harness.supervisor.start("busy", "calm")
        await harness.supervisor.wait_state("calm", "started")
        with trio.fail_after(30), harness.log.follow() as records:
            while not (found := [each for each in harness.log.ring.records if each.event == "service_under_pressure"]):
                await records.receive()
        assert {(each.service, each.facts["resource"], each.facts["threshold"]) for each in found} == {("busy", "cpu", 1)}


async def test_a_service_without_a_group_is_supervised_and_the_warning_missed() -> None:
    async with supervised() as harness:
        harness.add_direct(Service(name="web", command=["/bin/sleep", "1000"], pressure=Pressure(cpu_percent=1)), grouped=False)
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "started")
        assert "pressure_not_watched" in harness.log.ring.events("web")


async def test_a_group_that_goes_away_takes_its_warnings_with_it() -> None:
    async with supervised() as harness:
        harness.add_direct(Service(name="web", command=["/bin/sleep", "1000"], pressure=Pressure(memory_percent=1)))
        for _ in range(3):
            harness.supervisor.start("web")
            await harness.supervisor.wait_state("web", "started")
            await harness.supervisor.stop("web")
        assert "watch_failed" not in harness.log.ring.events()


async def test_where_no_thread_can_be_made_a_service_is_supervised_and_the_warning_missed() -> None:
    was = threading.stack_size(1 << 47)  # more than a process has addresses
    try:
        async with supervised() as harness:
            harness.add_direct(Service(name="web", command=["/bin/sleep", "1000"], pressure=Pressure(cpu_percent=1)))
            harness.supervisor.start("web")
            await harness.supervisor.wait_state("web", "started")
            assert "pressure_not_watched" in harness.log.ring.events("web")
    finally:
        threading.stack_size(was)
