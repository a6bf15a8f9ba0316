"""Programs that are ready too late, too often, or not themselves (``misbehaviour/notify.c``)."""

import os
import signal
import socket

import pytest
import trio
import trio.testing

from milkyway_formats.service import ReadyByNotify, ReadyByTcp, Restart
from tests.privileged.misbehaviour.programs import AT_ONCE, ONCE, SHORTLY, STOPPED, UP, begin, misbehaving
from tests.privileged.supervisor.supervised import supervised

pytestmark = pytest.mark.privileged

BY_NOTIFY = ReadyByNotify()


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


async def test_who_is_ready_twice_is_started_once() -> None:
    async with supervised() as one:
        name = begin(one, "notify/is_ready_twice", readiness=BY_NOTIFY)
        pid = await one.told("once")
        await one.supervisor.wait_state(name, "started")
        os.kill(pid, signal.SIGUSR1)
        await one.told("twice")
        await one.supervisor.stop(name)
        assert one.path(name) == [*UP, *STOPPED]


async def test_who_never_says_ready_is_late_every_time() -> None:
    async with supervised() as one:
        restart = Restart(delay_ms=1, start_limit=2)
        name = begin(one, "notify/never_says_ready", readiness=BY_NOTIFY, ready_timeout_ms=100, restart=restart)
        await one.supervisor.wait_state(name, "failed")
        assert one.path(name) == ["waiting", "starting", "faltering", "waiting", "starting", "faltering", "failed"]
        assert one.supervisor.status_of(name).reason == "not ready within 0.1 s; given up after 2 starts within 60 s"


async def test_who_says_ready_after_the_timeout_is_not_started_any_more() -> None:
    async with supervised() as one:
        behaviour = "notify/says_ready_when_asked_to_stop"
        name = begin(one, behaviour, readiness=BY_NOTIFY, ready_timeout_ms=100, restart=ONCE, stop=SHORTLY)
        await one.supervisor.wait_state(name, "failed")
        await one.told("too late")
        assert one.path(name) == ["waiting", "starting", "faltering", "failed"]


async def test_who_says_ready_when_asked_to_stop_is_stopped() -> None:
    async with supervised() as one:
        name = begin(one, "notify/says_ready_when_asked_to_stop", readiness=BY_NOTIFY, stop=SHORTLY)
        await one.told("mute")
        await one.supervisor.stop(name)
        await one.told("too late")
        assert one.path(name) == ["waiting", "starting", *STOPPED]


async def test_a_child_may_say_ready_for_its_service() -> None:
    async with supervised() as one:
        name = begin(one, "notify/has_a_child_say_ready", readiness=BY_NOTIFY)
        child = await one.told("child")
        await one.supervisor.wait_state(name, "started")
        assert one.path(name) == UP
        assert one.supervisor.status_of(name).pid != child


async def test_neither_another_service_nor_a_stranger_can_say_ready_for_it() -> None:
    async with supervised() as one:
        name = begin(one, "notify/tells_its_address", readiness=BY_NOTIFY)
        pid = await one.told("waiting")
        await one.event("output")
        address = one.lines(name)[0]
        liar = begin(one, "notify/says_ready_for_another", address)
        await one.told("lied")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.sendto(b"READY=1", address)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert one.path(name) == ["waiting", "starting"]
        assert one.supervisor.status_of(name).reason == "", "nor tell what it is at"
        os.kill(pid, signal.SIGUSR1)
        await one.supervisor.wait_state(name, "started")
        assert one.path(liar) == UP


async def test_rubbish_on_the_notify_socket_is_passed_over() -> None:
    async with supervised() as one:
        name = begin(one, "notify/talks_rubbish", readiness=BY_NOTIFY)
        pid = await one.told("rubbish")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert one.path(name) == ["waiting", "starting"]
        os.kill(pid, signal.SIGUSR1)
        await one.supervisor.wait_state(name, "started")
        assert one.path(name) == UP


async def test_a_giant_status_is_refused_whole_and_what_follows_counts() -> None:
    async with supervised() as one:
        name = begin(one, "notify/has_a_giant_status", readiness=BY_NOTIFY)
        await one.supervisor.wait_state(name, "started")
        assert one.path(name) == UP
        assert one.supervisor.status_of(name).reason == ""
        assert "notification_refused" in one.log.ring.events(name)


async def test_who_floods_its_notify_socket_starves_nobody() -> None:
    async with supervised() as one:
        name = begin(one, "notify/floods_its_notify_socket", readiness=BY_NOTIFY, restart=ONCE)
        await one.told("flooding")
        other = begin(one, "ends/ends_badly", restart=AT_ONCE)
        await one.supervisor.wait_state(other, "failed")
        await one.supervisor.stop(name)
        assert one.path(name) == ["waiting", "starting", *STOPPED]


async def test_who_removes_its_notify_socket_gets_another_at_its_next_start() -> None:
    async with supervised() as one:
        restart = Restart(delay_ms=1, start_limit=2)
        name = begin(one, "notify/removes_its_notify_socket", readiness=BY_NOTIFY, ready_timeout_ms=100, restart=restart)
        await one.told("removed", times=2)
        await one.supervisor.wait_state(name, "failed")
        assert one.path(name) == ["waiting", "starting", "faltering", "waiting", "starting", "faltering", "failed"]


async def test_a_message_with_a_hundred_descriptors_is_refused_whole_and_none_is_kept() -> None:
    async with supervised() as one:
        name = begin(one, "notify/hands_over_descriptors", readiness=BY_NOTIFY)
        await one.told("handed over")
        await one.event("notification_refused")
        await one.supervisor.stop(name)
        assert one.path(name) == ["waiting", "starting", *STOPPED]  # that none is left open is asserted at the end


async def test_who_listens_late_is_ready_late() -> None:
    async with supervised() as one:
        port = free_port()
        name = begin(one, "notify/listens_late", str(port), readiness=ReadyByTcp(port=port, interval_ms=10))
        pid = await one.told("bound")
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert one.path(name) == ["waiting", "starting"], "bound is not listening"
        os.kill(pid, signal.SIGUSR1)
        await one.supervisor.wait_state(name, "started")
        assert one.path(name) == UP


async def test_who_listens_on_another_port_is_never_ready() -> None:
    async with supervised() as one:
        readiness = ReadyByTcp(port=free_port(), interval_ms=10)
        name = begin(one, "notify/listens_elsewhere", readiness=readiness, ready_timeout_ms=100, restart=ONCE)
        await one.told("elsewhere")
        await one.supervisor.wait_state(name, "failed")
        assert one.path(name) == ["waiting", "starting", "faltering", "failed"]


async def test_a_stranger_on_its_port_does_not_make_it_ready() -> None:
    async with supervised() as one:
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            port = int(stranger.getsockname()[1])
            readiness = ReadyByTcp(port=port, interval_ms=10)
            service = misbehaving(
                one,
                "notify/finds_its_port_taken",
                str(port),
                user=4711,
                readiness=readiness,
                ready_timeout_ms=200,
                restart=ONCE,
            )
            one.add(service, users={4711})
            one.supervisor.start(service.name)
            await one.told("taken")
            await one.supervisor.wait_state(service.name, "failed")
            assert one.path(service.name) == ["waiting", "starting", "faltering", "failed"]


async def test_who_ends_while_it_is_probed_is_not_ready() -> None:
    async with supervised() as one:
        readiness = ReadyByTcp(port=free_port(), interval_ms=10)
        name = begin(one, "notify/ends_before_it_listens", readiness=readiness, restart=ONCE)
        os.kill(await one.told("alive"), signal.SIGUSR1)
        await one.supervisor.wait_state(name, "failed")
        assert one.path(name) == ["waiting", "starting", "failed"]
        assert one.supervisor.status_of(name).reason == "ended with status 4"
