"""What runs in a container beside its service: probes, and the commands that stop or reload it."""

import os
from pathlib import Path

import pytest
import trio

from milkyway_agent.core.uid_range import first_uid
from milkyway_agent.launching.container import BUNDLES, CRUN_STATE
from milkyway_formats.errors import UnavailableError
from milkyway_formats.execution import Execution
from milkyway_formats.service import ExecProbe, Health, ReadyByNotify, ReadyByProbe, Reload, Restart, Scratch, Service, Stop
from tests.privileged.launching.test_container import ID, site

pytestmark = pytest.mark.privileged

SCRATCH = [Scratch(path="/var/scratch", size_bytes=1 << 20, inodes=16)]
QUICK = Stop(timeout_ms=50)  # as PID 1 of its namespace it does not get signals for which it has no handler


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


async def test_a_probe_is_run_as_the_service_is_until_it_is_well(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        asks = ReadyByProbe(
            probe=ExecProbe(command=shell(f"test $(id -u) = {first_uid(ID)} -a -e /var/scratch/ready")), interval_ms=10
        )
        service = Service(
            name="server",
            command=shell("sleep 0.2; touch /var/scratch/ready; exec sleep 1000"),
            readiness=asks,
            scratch=SCRATCH,
            stop=QUICK,
        )
        name = here.add(service)
        here.harness.supervisor.start(name)
        with trio.fail_after(30):
            assert await here.harness.supervisor.wait_state(name, "started", "failed") == "started"
        await here.harness.supervisor.stop(name)
        assert os.listdir(CRUN_STATE) == []
        assert os.listdir(BUNDLES) == []


async def test_a_service_that_is_unwell_is_started_again_and_a_probe_that_hangs_is_killed(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        health = Health(probe=ExecProbe(command=shell("sleep 1000 & sleep 1000")), interval_ms=10, timeout_ms=50, failures=2)
        service = Service(name="server", command=["/bin/sleep", "1000"], health=health, restart=Restart(delay_ms=1), stop=QUICK)
        name = here.add(service)
        here.harness.supervisor.start(name)
        with trio.fail_after(30):
            while here.harness.supervisor.status_of(name).restarts < 1:
                await here.harness.event("service_unwell")
                await trio.lowlevel.checkpoint()
            await here.harness.supervisor.wait_state(name, "started")
        assert "its probe took longer than 0.05 s" in str([record.facts for record in here.harness.log.ring.records])
        await here.harness.supervisor.stop(name)
        assert os.listdir(CRUN_STATE) == []


async def test_a_command_has_it_read_its_configuration_and_another_stops_it(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        looks = "test -e /var/scratch/new && rm /var/scratch/new && echo new; sleep 0.02"
        waits = f"trap 'echo told; exit 0' USR1; echo begun; while :; do {looks}; done"
        service = Service(
            name="server",
            command=shell(waits),
            scratch=SCRATCH,
            reload=Reload(command=shell("touch /var/scratch/new; echo asked to")),
            stop=Stop(command=shell("kill -USR1 $MAINPID"), timeout_ms=20_000),
        )
        name = here.add(service)
        here.harness.supervisor.start(name)
        with trio.fail_after(30):
            await here.harness.supervisor.wait_state(name, "started")
            await here.harness.line(name, "begun")
            await here.harness.supervisor.reload(name)
            await here.harness.line(name, "new")
            await here.harness.line(name, "asked to")
            await here.harness.supervisor.stop(name)
        assert here.harness.lines(name)[-1] == "told"
        assert "service_killed" not in here.harness.log.ring.events()
        assert os.listdir(BUNDLES) == []


async def test_a_command_may_write_more_than_a_pipe_takes_and_reads_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        asks = ReadyByProbe(probe=ExecProbe(command=shell("head -c 1000000 /dev/zero; test -z $(cat)")), interval_ms=1000)
        name = here.add(Service(name="server", command=["/bin/sleep", "1000"], readiness=asks, stop=QUICK))
        here.harness.supervisor.start(name)
        with trio.fail_after(30):
            assert await here.harness.supervisor.wait_state(name, "started", "failed") == "started"
        await here.harness.supervisor.stop(name)


async def test_a_command_that_is_not_there_is_noted_and_changes_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        service = Service(name="server", command=["/bin/sleep", "1000"], reload=Reload(command=["/no/such"]), stop=QUICK)
        name = here.add(service)
        here.harness.supervisor.start(name)
        with trio.fail_after(30):
            await here.harness.supervisor.wait_state(name, "started")
            with pytest.raises(UnavailableError, match="its command failed: cannot exec the container: crun ended with"):
                await here.harness.supervisor.reload(name)
            await here.harness.event("service_reload_command_failed")
        assert here.harness.supervisor.status_of(name).state == "started"
        await here.harness.supervisor.stop(name)


WATCHED = (
    "import os, socket, time; assert os.environ['WATCHDOG_USEC'] == '300000'; s = socket.socket(1, 2); "
    "s.connect(os.environ['NOTIFY_SOCKET']); s.send(b'READY=1'); s.send(b'WATCHDOG=1'); time.sleep(1000)"
)


async def test_a_service_whose_watchdog_hears_nothing_is_started_again(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        service = Service(
            name="server",
            command=["/usr/bin/python3", "-c", WATCHED],
            readiness=ReadyByNotify(),
            watchdog_ms=300,
            restart=Restart(delay_ms=1),
            stop=QUICK,
        )
        name = here.add(service)
        here.harness.supervisor.start(name)
        with trio.fail_after(30):
            await here.harness.event("service_hung")
            await here.harness.supervisor.wait_state(name, "stopped", "starting")
            await here.harness.supervisor.wait_state(name, "started")
        await here.harness.supervisor.stop(name)


async def test_a_service_is_executed_as_it_says_and_so_is_what_runs_beside_it(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        limited = '[ "$(umask) $(ulimit -Hn) $(ulimit -c)" = "0077 128 0" ]'
        own = f"{limited} && [ $(cat /proc/self/oom_score_adj) = 100 ] && touch /var/scratch/so"
        service = Service(
            name="server",
            command=shell(f"{own}; exec sleep 1000"),
            readiness=ReadyByProbe(probe=ExecProbe(command=shell(f"test -e /var/scratch/so && {limited}")), interval_ms=10),
            ready_timeout_ms=10_000,
            execution=Execution(umask=0o077, oom_score=100, limits={"nofile": 128, "core": 0}),
            scratch=SCRATCH,
            stop=QUICK,
        )
        name = here.add(service)
        here.harness.supervisor.start(name)
        with trio.fail_after(30):
            assert await here.harness.supervisor.wait_state(name, "started", "failed") == "started"
        await here.harness.supervisor.stop(name)
