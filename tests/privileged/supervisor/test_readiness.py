"""Readiness by a descriptor and by a probe, and messages sent in the last moment (``misbehaviour/engine.c``)."""

import os
import signal
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from milkyway_formats.service import (
    ExecProbe,
    HttpProbe,
    Readiness,
    ReadyByDescriptor,
    ReadyByNotify,
    ReadyByProbe,
    ReadyByTcp,
    Restart,
    TcpProbe,
)
from tests.privileged.misbehaviour.programs import ONCE, STOPPED, UP, begin_direct, shell
from tests.privileged.misbehaviour.test_readiness import free_port
from tests.privileged.supervisor.supervised import heard_through, supervised

pytestmark = pytest.mark.privileged


@pytest.mark.parametrize("number", [3, 77, 255])
async def test_a_service_that_writes_a_line_to_its_descriptor_is_ready_then(number: int) -> None:
    async with supervised() as harness:
        name = begin_direct(harness, "engine/says_ready_by_descriptor", readiness=ReadyByDescriptor(descriptor=number))
        pid = await harness.told("silent")
        os.kill(pid, signal.SIGUSR1)
        await harness.told("half")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert harness.path(name) == ["waiting", "starting"], "half a line does not count"
        os.kill(pid, signal.SIGUSR1)
        await harness.up(name, "said")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_service_that_closes_its_descriptor_without_a_line_is_late() -> None:
    async with supervised() as harness:
        behaviour = "engine/closes_its_ready_descriptor"
        name = begin_direct(harness, behaviour, readiness=ReadyByDescriptor(), ready_timeout_ms=100, restart=ONCE)
        await harness.supervisor.wait_state(name, "failed")
        await harness.told("closed")
        assert harness.path(name) == ["waiting", "starting", "faltering", "failed"]
        assert harness.supervisor.status_of(name).reason == "not ready within 0.1 s"


async def test_a_service_that_says_ready_and_ends_at_once_was_started() -> None:
    """Its message is read before its end is handled, however quick it was."""
    async with supervised() as harness:
        restart = Restart(delay_ms=1, delay_limit_ms=1, start_limit=20)
        name = begin_direct(harness, "engine/says_ready_and_ends", readiness=ReadyByNotify(), restart=restart)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP * 20, "failed"]


async def test_ready_by_a_command_that_ends_well(tmp_path: Path) -> None:
    async with supervised() as harness:
        with heard_through(tmp_path / "asked") as asked:
            script = f"echo pid $MAINPID >{tmp_path}/asked; test -e {tmp_path}/there"
            probe = ExecProbe(command=["/bin/sh", "-c", script])
            harness.add_direct(shell("web", "exec sleep 1000", readiness=ReadyByProbe(probe=probe, interval_ms=10)))
            harness.supervisor.start("web")
            for _ in range(3):
                said = await asked()
                assert said == f"pid {harness.supervisor.status_of('web').pid}\n"
            assert harness.path("web") == ["waiting", "starting"]
            (tmp_path / "there").touch()
            await harness.supervisor.wait_state("web", "started")
            assert harness.path("web") == UP


@pytest.mark.parametrize("kind", [TcpProbe, HttpProbe])
async def test_ready_when_it_answers_on_its_port(kind: type[TcpProbe] | type[HttpProbe]) -> None:
    async with supervised() as harness:
        port = free_port()
        readiness = ReadyByProbe(probe=kind(port=port), interval_ms=10)
        name = begin_direct(harness, "engine/answers_http", str(port), readiness=readiness)
        await harness.up(name, "listening")
        assert harness.path(name) == UP


@pytest.mark.parametrize("grouped", [True, False])
async def test_a_service_that_is_stopped_while_it_is_asked_takes_the_probe_along(grouped: bool, tmp_path: Path) -> None:
    async with supervised() as harness:
        with heard_through(tmp_path / "asked") as asked:
            probe = ExecProbe(command=["/bin/sh", "-c", f"echo asked >{tmp_path}/asked; exec sleep 1000"])
            service = shell("web", "exec sleep 1000", readiness=ReadyByProbe(probe=probe, interval_ms=86_400_000))
            harness.add_direct(service, grouped=grouped)
            harness.supervisor.start("web")
            await asked()
            await harness.supervisor.stop("web")
            assert harness.path("web") == ["waiting", "starting", *STOPPED]


@pytest.mark.parametrize(
    ("readiness", "why"),
    [
        (ReadyByProbe(probe=ExecProbe(command=["/bin/false"]), interval_ms=10), "its probe ended with 1"),
        (ReadyByTcp(port=1), "nothing listens on port 1"),
    ],
)
async def test_a_service_that_is_never_ready_fails_with_the_last_answer_of_its_probe(readiness: Readiness, why: str) -> None:
    async with supervised() as harness:
        harness.add_direct(shell("web", "exec sleep 1000", readiness=readiness, ready_timeout_ms=200, restart=ONCE))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "failed")
        assert harness.supervisor.status_of("web").reason == f"not ready within 0.2 s: {why}"


async def test_a_broken_connection_is_no_answer_and_breaks_nothing() -> None:
    async with supervised() as harness:
        with socket.create_server(("127.0.0.1", 0)) as rude:
            rude.setblocking(False)
            port = int(rude.getsockname()[1])
            probe = HttpProbe(port=port)
            harness.add_direct(shell("web", "exec sleep 1000", readiness=ReadyByProbe(probe=probe, interval_ms=10)))
            harness.supervisor.start("web")
            for _ in range(3):
                with trio.fail_after(10):
                    await trio.lowlevel.wait_readable(rude.fileno())
                client, _ = rude.accept()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset instead of an end
                client.close()
            await harness.supervisor.stop("web")
            assert harness.path("web") == ["waiting", "starting", *STOPPED]
            assert "service_task_failed" not in harness.log.ring.events("web")
