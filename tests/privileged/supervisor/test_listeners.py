"""Listeners with real clients: on demand and at once, of each kind, kept across restarts, and a process for each connection."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from milkyway_agent.system import cgroups
from milkyway_formats.errors import RefusedError
from milkyway_formats.listener import Address, Fifo, Listener, Tcp, Udp, UnixDatagram, UnixStream
from milkyway_formats.service import Restart, Service, Stop
from tests.privileged.misbehaviour.programs import ONCE, SHORTLY, STOPPED, UP, begin_direct, misbehaving, shell
from tests.privileged.misbehaviour.test_readiness import free_port
from tests.privileged.supervisor.supervised import Supervised, supervised

pytestmark = pytest.mark.privileged

ARMED = ["waiting", "armed"]


def address(kind: str, directory: Path) -> Address:
    match kind:
        case "tcp":
            return Tcp(port=free_port(), address="127.0.0.1")
        case "udp":
            return Udp(port=free_port(), address="127.0.0.1")
        case "unix-stream":
            return UnixStream(path=str(directory / "socket"))
        case "unix-datagram":
            return UnixDatagram(path=str(directory / "socket"))
        case _:
            return Fifo(path=str(directory / "pipe"))


async def call(where: Address) -> str:
    """Connect as a client; return the answer, or "" for a kind of listener that gives none."""
    match where:
        case Tcp(port=port):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        case UnixStream(path=path):
            stream = await trio.open_unix_socket(path)
        case Udp(port=port):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
                opened.sendto(b"hello", ("127.0.0.1", port))
            return ""
        case UnixDatagram(path=path):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
                opened.sendto(b"hello", path)
            return ""
        case Fifo(path=path):
            Path(path).write_text("hello")
            return ""
    async with stream:
        with trio.fail_after(10):
            return (await stream.receive_some(64)).decode()


@pytest.mark.parametrize("kind", ["tcp", "udp", "unix-stream", "unix-datagram", "fifo"])
async def test_the_first_client_starts_it_and_is_served(kind: str, tmp_path: Path) -> None:
    async with supervised() as harness:
        where = address(kind, tmp_path)
        name = begin_direct(harness, "engine/takes_clients", listeners=[Listener(name="front", address=where)])
        assert harness.path(name) == ARMED
        said = await call(where)
        pid = await harness.up(name, "served" if kind in ("tcp", "unix-stream") else "hello")
        assert said in ("", str(pid))
        await harness.line(name, "front")
        assert harness.path(name) == [*ARMED, "starting", "started"]
        await harness.supervisor.stop(name)
        assert [entry.name for entry in tmp_path.iterdir()] == [], "its file is removed with it"


async def test_one_that_starts_at_once_has_its_listener_and_others_come_after_it(tmp_path: Path) -> None:
    async with supervised() as harness:
        first, second = UnixStream(path=str(tmp_path / "a")), UnixStream(path=str(tmp_path / "b"))
        listeners = [Listener(name="a", address=first, start="at-once"), Listener(name="b", address=second, start="at-once")]
        name = begin_direct(harness, "engine/takes_clients", listeners=listeners)
        pid = await harness.up(name, "taking")
        assert {await call(first), await call(second)} == {str(pid)}
        await harness.line(name, "a:b")
        assert harness.path(name) == UP


async def test_a_client_that_comes_while_it_restarts_is_served_by_the_next(tmp_path: Path) -> None:
    async with supervised() as harness:
        where = UnixStream(path=str(tmp_path / "socket"))
        listener = Listener(name="front", address=where, start="at-once")
        name = begin_direct(harness, "engine/takes_clients", listeners=[listener], restart=Restart(delay_ms=1))
        first = await harness.up(name, "taking")
        os.kill(first, signal.SIGSTOP)
        async with await trio.open_unix_socket(where.path) as client:
            os.kill(first, signal.SIGKILL)
            with trio.fail_after(10):
                said = (await client.receive_some(64)).decode()
        assert said == str(await harness.up(name, "taking", times=2)) != str(first)


async def test_a_service_that_ends_well_rests_until_its_next_client(tmp_path: Path) -> None:
    async with supervised() as harness:
        where = UnixStream(path=str(tmp_path / "socket"))
        name = begin_direct(harness, "engine/takes_clients", "once", listeners=[Listener(name="front", address=where)])
        for times in (1, 2, 3):
            assert int(await call(where)) == await harness.told("served", times)
            await harness.supervisor.wait_state(name, "armed")
        assert harness.path(name) == ["waiting", *["armed", "starting", "started"] * 3, "armed"]


async def test_a_service_that_is_asked_to_be_restarted_does_not_wait_for_a_client(tmp_path: Path) -> None:
    async with supervised() as harness:
        listener = Listener(name="front", address=UnixStream(path=str(tmp_path / "socket")))
        name = begin_direct(harness, "engine/takes_clients", listeners=[listener])
        harness.supervisor.restart(name)
        await harness.up(name, "taking")
        harness.supervisor.restart(name)
        await harness.up(name, "taking", times=2)
        assert harness.path(name) == [*ARMED, "starting", "started", "restarting", "waiting", "starting", "started"]


async def test_a_port_in_use_is_tried_again_and_given_up() -> None:
    async with supervised() as harness:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = int(other.getsockname()[1])
            listener = Listener(name="front", address=Tcp(port=port, address="127.0.0.1"))
            restart = Restart(delay_ms=1, start_limit=3)
            name = begin_direct(harness, "engine/takes_clients", listeners=[listener], restart=restart)
            await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*["waiting", "starting"] * 3, "failed"]
        assert "another process listens there already" in harness.supervisor.status_of(name).reason
        harness.supervisor.start(name)
        assert harness.path(name)[-2:] == ARMED


# --- a process for each connection ---------------------------------------------------------------------------------------


def accepting(harness: Supervised, behaviour: str, where: Address, **fields: Any) -> str:
    most = fields.pop("connections", 64)
    listener = Listener(name="front", address=where, accept=True, connections=most)
    return begin_direct(harness, f"engine/{behaviour}", listeners=[listener], **fields)


async def test_each_connection_is_a_process_of_the_service() -> None:
    async with supervised() as harness:
        where = Tcp(port=free_port())
        name = accepting(harness, "is_a_connection", where)
        assert harness.path(name) == ARMED
        streams = [await trio.open_tcp_stream("127.0.0.1", where.port) for _ in range(2)]
        pids = {int(await stream.receive_some(64)) for stream in streams}
        assert len(pids) == 2
        assert set(cgroups.processes(f"{harness.group}/{name}")) == pids
        await harness.line(name, "from 127.0.0.1")
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(10), harness.log.follow() as records:
            while harness.log.ring.events(name).count("connection_process_ended") < 2:
                await records.receive()
        assert harness.path(name) == ARMED, "it is armed while they run, and after that"
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*ARMED, "idle"]


async def test_there_are_never_more_than_the_limit_and_waiting_clients_are_served_next(tmp_path: Path) -> None:
    async with supervised() as harness:
        where = UnixStream(path=str(tmp_path / "socket"))
        accepting(harness, "is_a_connection", where, connections=2)
        first, second, third = [await trio.open_unix_socket(where.path) for _ in range(3)]
        await harness.told("connected", times=2)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(harness.heard) == 2
        await first.aclose()
        await harness.told("connected", times=3)
        assert int(await third.receive_some(64)) == harness.heard[-1].pid
        for client in (second, third):
            await client.aclose()


async def test_connections_are_asked_to_end_and_killed_when_it_is_stopped(tmp_path: Path) -> None:
    async with supervised() as harness:
        where = UnixStream(path=str(tmp_path / "socket"))
        polite = accepting(harness, "is_a_connection", where, stop=Stop(timeout_ms=60_000))
        deaf_where = UnixStream(path=str(tmp_path / "deaf"))
        deaf = accepting(harness, "is_a_connection_that_stays", deaf_where, stop=SHORTLY)
        async with await trio.open_unix_socket(where.path), await trio.open_unix_socket(deaf_where.path):
            await harness.told("connected", times=2)
            for name in (polite, deaf):
                await harness.supervisor.stop(name)
                assert harness.path(name) == [*ARMED, "idle"]
                assert not Path(harness.group, name).exists()
        assert "service_killed" not in harness.log.ring.events(polite)
        assert "service_killed" in harness.log.ring.events(deaf)


@pytest.mark.parametrize("grouped", [True, False])
async def test_a_restart_ends_connections_and_takes_new_ones(grouped: bool, tmp_path: Path) -> None:
    async with supervised() as harness:
        where = UnixStream(path=str(tmp_path / "socket"))
        listener = Listener(name="front", address=where, accept=True)
        service = misbehaving(harness, "engine/is_a_connection", listeners=[listener])
        harness.add_direct(service, grouped=grouped)
        harness.supervisor.start(service.name)
        async with await trio.open_unix_socket(where.path) as client:
            await harness.told("connected")
            harness.supervisor.restart(service.name)
            assert await _until_end(client) != b"", "its process was asked to end"
        async with await trio.open_unix_socket(where.path):
            await harness.told("connected", times=2)
        assert harness.path(service.name) == [*ARMED, "starting", "armed"]


async def _until_end(client: trio.abc.ReceiveStream) -> bytes:
    found = b""
    with trio.fail_after(10):
        while data := await client.receive_some(64):
            found += data
    return found


async def test_a_connection_whose_process_cannot_be_started_is_closed(tmp_path: Path) -> None:
    async with supervised() as harness:
        where = UnixStream(path=str(tmp_path / "socket"))
        listener = Listener(name="front", address=where, accept=True, connections=1)
        harness.add_direct(Service(name="web", command=["/not/there"], listeners=[listener], restart=ONCE))
        harness.supervisor.start("web")
        for _ in range(2):
            async with await trio.open_unix_socket(where.path) as client:
                assert await _until_end(client) == b""
        assert harness.log.ring.events("web").count("connection_not_served") == 2
        assert harness.path("web") == ARMED


async def test_a_service_either_accepts_or_does_not(tmp_path: Path) -> None:
    async with supervised() as harness:
        listeners = [
            Listener(name="a", address=UnixStream(path=str(tmp_path / "a")), accept=True),
            Listener(name="b", address=UnixStream(path=str(tmp_path / "b"))),
        ]
        with pytest.raises(RefusedError, match="either all"):
            harness.add_direct(shell("web", "exec sleep 1000", listeners=listeners))
        assert harness.supervisor.names() == []


async def test_a_service_that_is_stopped_is_stopped_for_clients_too(tmp_path: Path) -> None:
    async with supervised() as harness:
        listener = Listener(name="front", address=UnixStream(path=str(tmp_path / "socket")))
        name = begin_direct(harness, "engine/takes_clients", listeners=[listener])
        await call(listener.address)
        await harness.up(name, "served")
        await harness.supervisor.stop(name)
        assert harness.path(name)[-2:] == STOPPED
        with pytest.raises(OSError, match="No such file"):
            await trio.open_unix_socket(str(tmp_path / "socket"))
