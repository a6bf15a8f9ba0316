"""Programs that are ready too late or too often, or that another claims to be ready (``misbehaviour/notify.c``)."""

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


async def test_a_service_that_is_ready_twice_is_started_once() -> None:
    async with supervised() as harness:
        name = begin(harness, "notify/is_ready_twice", readiness=BY_NOTIFY)
        pid = await harness.told("once")
        await harness.supervisor.wait_state(name, "started")
        os.kill(pid, signal.SIGUSR1)
        await harness.told("twice")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_service_that_never_says_ready_is_late_every_time() -> None:
    async with supervised() as harness:
        restart = Restart(delay_ms=1, start_limit=2)
        name = begin(harness, "notify/never_says_ready", readiness=BY_NOTIFY, ready_timeout_ms=100, restart=restart)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == ["waiting", "starting", "faltering", "waiting", "starting", "faltering", "failed"]
        assert harness.supervisor.status_of(name).reason == "not ready within 0.1 s; given up after 2 starts within 60 s"


async def test_a_service_that_says_ready_after_the_timeout_is_not_started_any_more() -> None:
    async with supervised() as harness:
        behaviour = "notify/says_ready_when_asked_to_stop"
        name = begin(harness, behaviour, readiness=BY_NOTIFY, ready_timeout_ms=100, restart=ONCE, stop=SHORTLY)
        await harness.supervisor.wait_state(name, "failed")
        await harness.told("too late")
        assert harness.path(name) == ["waiting", "starting", "faltering", "failed"]


async def test_a_service_that_says_ready_when_asked_to_stop_is_stopped() -> None:
    async with supervised() as harness:
        name = begin(harness, "notify/says_ready_when_asked_to_stop", readiness=BY_NOTIFY, stop=SHORTLY)
        await harness.told("mute")
        await harness.supervisor.stop(name)
        await harness.told("too late")
        assert harness.path(name) == ["waiting", "starting", *STOPPED]


async def test_a_child_may_say_ready_for_its_service() -> None:
    async with supervised() as harness:
        name = begin(harness, "notify/has_a_child_say_ready", readiness=BY_NOTIFY)
        child = await harness.told("child")
        await harness.supervisor.wait_state(name, "started")
        assert harness.path(name) == UP
        assert harness.supervisor.status_of(name).pid != child


async def test_neither_another_service_nor_a_stranger_can_say_ready_for_it() -> None:
    async with supervised() as harness:
        name = begin(harness, "notify/tells_its_address", readiness=BY_NOTIFY)
        pid = await harness.told("waiting")
        await harness.event("output")
        address = harness.lines(name)[0]
        liar = begin(harness, "notify/says_ready_for_another", address)
        await harness.told("lied")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.sendto(b"READY=1", address)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert harness.path(name) == ["waiting", "starting"]
        assert harness.supervisor.status_of(name).reason == "", "nor report a status for it"
        os.kill(pid, signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "started")
        assert harness.path(liar) == UP


async def test_rubbish_on_the_notify_socket_is_passed_over() -> None:
    async with supervised() as harness:
        name = begin(harness, "notify/talks_rubbish", readiness=BY_NOTIFY)
        pid = await harness.told("rubbish")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert harness.path(name) == ["waiting", "starting"]
        os.kill(pid, signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "started")
        assert harness.path(name) == UP


async def test_a_giant_status_is_refused_whole_and_what_follows_counts() -> None:
    async with supervised() as harness:
        name = begin(harness, "notify/has_a_giant_status", readiness=BY_NOTIFY)
        await harness.supervisor.wait_state(name, "started")
        assert harness.path(name) == UP
        assert harness.supervisor.status_of(name).reason == ""
        assert "notification_refused" in harness.log.ring.events(name)


async def test_a_service_that_floods_its_notify_socket_holds_up_no_other() -> None:
    async with supervised() as harness:
        name = begin(harness, "notify/floods_its_notify_socket", readiness=BY_NOTIFY, restart=ONCE)
        await harness.told("flooding")
        other = begin(harness, "ends/ends_badly", restart=AT_ONCE)
        await harness.supervisor.wait_state(other, "failed")
        await harness.supervisor.stop(name)
        assert harness.path(name) == ["waiting", "starting", *STOPPED]


async def test_a_service_that_removes_its_notify_socket_gets_another_at_its_next_start() -> None:
    async with supervised() as harness:
        restart = Restart(delay_ms=1, start_limit=2)
        name = begin(harness, "notify/removes_its_notify_socket", readiness=BY_NOTIFY, ready_timeout_ms=100, restart=restart)
        await harness.told("removed", times=2)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == ["waiting", "starting", "faltering", "waiting", "starting", "faltering", "failed"]


async def test_a_message_with_a_hundred_descriptors_is_refused_whole_and_none_is_kept() -> None:
    async with supervised() as harness:
        name = begin(harness, "notify/hands_over_descriptors", readiness=BY_NOTIFY)
        await harness.told("handed over")
        await harness.event("notification_refused")
        await harness.supervisor.stop(name)
        assert harness.path(name) == ["waiting", "starting", *STOPPED]  # the harness asserts that none is left open


async def test_a_service_that_listens_late_is_ready_late() -> None:
    async with supervised() as harness:
        port = free_port()
        name = begin(harness, "notify/listens_late", str(port), readiness=ReadyByTcp(port=port, interval_ms=10))
        pid = await harness.told("bound")
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert harness.path(name) == ["waiting", "starting"], "it is bound, but does not listen"
        os.kill(pid, signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "started")
        assert harness.path(name) == UP


async def test_a_service_that_listens_on_another_port_is_never_ready() -> None:
    async with supervised() as harness:
        readiness = ReadyByTcp(port=free_port(), interval_ms=10)
        name = begin(harness, "notify/listens_elsewhere", readiness=readiness, ready_timeout_ms=100, restart=ONCE)
        await harness.told("elsewhere")
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == ["waiting", "starting", "faltering", "failed"]


async def test_a_stranger_on_its_port_does_not_make_it_ready() -> None:
    async with supervised() as harness:
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            port = int(stranger.getsockname()[1])
            readiness = ReadyByTcp(port=port, interval_ms=10)
            service = misbehaving(
                harness,
                "notify/finds_its_port_taken",
                str(port),
                user=4711,
                readiness=readiness,
                ready_timeout_ms=200,
                restart=ONCE,
            )
            harness.add(service, users={4711})
            harness.supervisor.start(service.name)
            await harness.told("taken")
            await harness.supervisor.wait_state(service.name, "failed")
            assert harness.path(service.name) == ["waiting", "starting", "faltering", "failed"]


async def test_a_service_that_ends_while_it_is_probed_is_not_ready() -> None:
    async with supervised() as harness:
        readiness = ReadyByTcp(port=free_port(), interval_ms=10)
        name = begin(harness, "notify/ends_before_it_listens", readiness=readiness, restart=ONCE)
        os.kill(await harness.told("alive"), signal.SIGUSR1)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == ["waiting", "starting", "failed"]
        assert harness.supervisor.status_of(name).reason == "ended with status 4"
