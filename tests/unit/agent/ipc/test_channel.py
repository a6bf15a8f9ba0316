"""One typed message per datagram: what is sent arrives; anything else is refused and leaves nothing open."""

import array
import os
import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from milkyway_agent.ipc.channel import Channel, ChannelClosedError, MessageRefusedError, close_all, descriptors_of, socket_pair
from milkyway_agent.ipc.messages import (
    MAX_MESSAGE_BYTES,
    Envelope,
    Fetch,
    Fetched,
    FromUplink,
    LinkState,
    Post,
    ToUplink,
)

DIGEST = "ab" * 32
Uplink = Channel[FromUplink, ToUplink]
Verifier = Channel[ToUplink, FromUplink]


@pytest.fixture
async def raw_and_channel() -> AsyncIterator[tuple[socket.socket, Verifier]]:
    """A peer that may send anything, and the channel that must cope with it."""
    raw, end = socket_pair()
    channel: Verifier = Channel(end, FromUplink, peer="uplink")
    with raw:
        yield raw, channel
    channel.close()


def send_raw(raw: socket.socket, data: bytes, fds: list[int]) -> None:
    raw.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def send_with_null(raw: socket.socket, data: bytes, count: int) -> None:
    """Send *data* with *count* descriptors of /dev/null."""
    null = os.open("/dev/null", os.O_RDONLY)
    send_raw(raw, data, [null] * count)
    os.close(null)


def ends() -> tuple[Verifier, Uplink]:
    ours, theirs = socket_pair()
    return Channel(ours, FromUplink, peer="uplink"), Channel(theirs, ToUplink, peer="verifier")


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_messages_and_descriptors_arrive_in_order() -> None:
    verifier, uplink = ends()
    async with verifier, uplink:
        reading, writing = os.pipe()
        await verifier.send(Fetch(request=7, sha256=DIGEST, size=5), [writing])
        await verifier.send(Post(envelope="{}"))
        os.close(writing)
        message, fds = await uplink.receive()
        assert message == Fetch(request=7, sha256=DIGEST, size=5)
        os.write(fds[0], b"bytes")
        close_all(fds)
        assert os.read(reading, 10) == b"bytes"
        assert os.read(reading, 10) == b"", "the sender's and the receiver's copies are closed, and there is no other"
        os.close(reading)
        assert await uplink.receive() == (Post(envelope="{}"), [])


async def test_a_received_descriptor_is_closed_on_exec(raw_and_channel: tuple[socket.socket, Verifier]) -> None:
    raw, channel = raw_and_channel
    send_with_null(raw, b'{"type":"envelope","kind":"command"}', 1)
    message, fds = await channel.receive()
    assert message == Envelope(kind="command")
    assert not os.get_inheritable(fds[0])
    close_all(fds)


@pytest.mark.parametrize(
    ("data", "descriptors", "why"),
    [
        (b"{", 0, "Input data was truncated"),
        (b"\xff\xfe", 0, "malformed"),
        (b'{"type":"post","envelope":""}', 0, "Invalid value 'post'"),
        (b'{"type":"begun","request":1}', 0, "Invalid value 'begun'"),
        (b'{"type":"link-state","connected":true,"extra":1}', 0, "unknown field `extra`"),
        (b'{"type":"link-state","connected":true,"connected":true}', 0, "duplicate key 'connected'"),
        (b'{"type":"link-state", "connected":true}', 0, "not in canonical form"),
        (b'{"type":"link-state","connected":1}', 0, "Expected `bool`, got `int`"),
        (b'{"type":"fetched","request":-1}', 0, "Expected `int` >= 0"),
        (b'{"type":"fetched","request":' + b"9" * 5000 + b"}", 0, "out of range"),
        (b"[" * 100_000, 0, "Expected `object`, got `array`"),
        (b" " * (MAX_MESSAGE_BYTES + 1), 0, "at most 131072 are allowed"),
        (b" " * (MAX_MESSAGE_BYTES + 2), 0, "longer than 131072 bytes"),
        (b'{"type":"link-state","connected":true}', 1, "LinkState with 1 descriptors instead of 0"),
        (b'{"type":"envelope","kind":"desired"}', 0, "Envelope with 0 descriptors instead of 1"),
        (b'{"type":"envelope","kind":"desired"}', 2, "Envelope with 2 descriptors instead of 1"),
        (b'{"type":"envelope","kind":"desired"}', 3, "more than 2 descriptors"),
        (b'{"type":"envelope","kind":"desired"}', 200, "more than 2 descriptors"),
    ],
)
async def test_what_is_no_message_is_refused_and_the_next_message_is_read(
    raw_and_channel: tuple[socket.socket, Verifier], data: bytes, descriptors: int, why: str
) -> None:
    raw, channel = raw_and_channel
    before = open_descriptors()
    send_with_null(raw, data, descriptors)
    with pytest.raises(MessageRefusedError) as refused:
        await channel.receive()
    assert str(refused.value).startswith("cannot read a message from uplink: ")
    assert why in str(refused.value)
    assert refused.value.peer == "uplink"
    assert open_descriptors() == before, "whatever came along is closed"
    send_raw(raw, b'{"type":"link-state","connected":true}', [])
    assert await channel.receive() == (LinkState(connected=True), [])


async def test_a_peer_that_is_gone_is_reported(raw_and_channel: tuple[socket.socket, Verifier]) -> None:
    raw, channel = raw_and_channel
    raw.close()
    with pytest.raises(ChannelClosedError, match="cannot receive from uplink: it is gone"):
        await channel.receive()
    with pytest.raises(ChannelClosedError, match="cannot send to uplink: it is gone"):
        await channel.send(Post(envelope=""))


async def test_a_peer_that_leaves_messages_unread_is_gone_too(raw_and_channel: tuple[socket.socket, Verifier]) -> None:
    raw, channel = raw_and_channel
    await channel.send(Post(envelope=""))
    raw.close()
    with pytest.raises(ChannelClosedError):
        await channel.receive()


async def test_an_empty_datagram_counts_as_gone_and_leaks_nothing(raw_and_channel: tuple[socket.socket, Verifier]) -> None:
    raw, channel = raw_and_channel
    before = open_descriptors()
    send_with_null(raw, b"", 1)
    with pytest.raises(ChannelClosedError):
        await channel.receive()
    assert open_descriptors() == before


async def test_a_closed_end_wakes_its_own_reader() -> None:
    ours, theirs = socket_pair()
    with theirs:
        channel: Verifier = Channel(ours, FromUplink, peer="uplink")

        async def close() -> None:
            channel.close()
            channel.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            with pytest.raises(ChannelClosedError):
                await channel.receive()


async def test_several_tasks_may_send_to_a_slow_peer() -> None:
    """More than the socket holds, from several tasks at once: everything arrives, nothing is torn."""
    verifier, uplink = ends()
    sent = [Post(envelope=letter * 100_000) for letter in "abcdef"]
    got: list[ToUplink] = []
    async with verifier, uplink, trio.open_nursery() as nursery:
        for message in sent:
            nursery.start_soon(verifier.send, message)
        await trio.testing.wait_all_tasks_blocked()
        for _ in sent:
            received, _fds = await uplink.receive()
            got.append(received)
    assert sorted(got, key=str) == sorted(sent, key=str)


async def test_sending_other_descriptors_than_the_type_carries_or_too_much_is_a_bug(
    raw_and_channel: tuple[socket.socket, Verifier],
) -> None:
    _, channel = raw_and_channel
    with pytest.raises(AssertionError, match="Fetch travels with 1 descriptors, not 0"):
        await channel.send(Fetch(request=1, sha256=DIGEST, size=1))
    with pytest.raises(AssertionError, match="at most 131072"):
        await channel.send(Post(envelope="x" * MAX_MESSAGE_BYTES))


async def test_an_adopted_descriptor_is_closed_on_exec() -> None:
    ours, theirs = socket_pair()
    descriptor = os.dup(ours.fileno())
    os.set_inheritable(descriptor, True)
    ours.close()
    channel: Verifier = Channel.adopt(descriptor, FromUplink, peer="uplink")
    assert not os.get_inheritable(descriptor)
    channel.close()
    theirs.close()


def test_other_messages_carry_no_descriptors() -> None:
    assert descriptors_of(Fetched(request=1)) == 0


async def test_a_task_that_waits_for_its_turn_to_send_is_told_when_this_end_closes() -> None:
    verifier, uplink = ends()
    failures: list[str] = []

    async def send_until_closed() -> None:
        with pytest.raises(ChannelClosedError) as raised:
            while True:
                await uplink.send(LinkState(connected=True))
        failures.append(str(raised.value))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(send_until_closed)
        await trio.testing.wait_all_tasks_blocked()
        uplink.close()
    verifier.close()
    assert failures == ["cannot send to verifier: it is gone"] * 3
