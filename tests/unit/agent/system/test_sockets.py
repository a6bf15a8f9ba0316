"""Messages to the notify socket: their senders, their words, and their descriptors, none of which leaks."""

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from milkyway_agent.system import sockets


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The notify socket and a client."""
    path = str(tmp_path / "notify")
    with sockets.datagram(path, 0o666) as opened, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(path)
        yield opened, client


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def send(client: socket.socket, data: bytes, descriptors: list[int]) -> None:
    client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else [])


def test_without_a_message_there_is_none(notify: tuple[socket.socket, socket.socket]) -> None:
    assert sockets.receive_notify(notify[0]) is None


def test_words_come_with_their_sender(notify: tuple[socket.socket, socket.socket]) -> None:
    opened, client = notify
    send(client, b"READY=1\nSTATUS=a=b \xff\nSTATUS=again\nnonsense\n\n", [])
    assert sockets.receive_notify(opened) == (os.getpid(), {"READY": "1", "STATUS": "a=b \ufffd"}, (), "")
    assert sockets.receive_notify(opened) is None


@pytest.mark.parametrize("count", [1, 2, sockets.NOTIFY_DESCRIPTORS])
def test_descriptors_come_with_their_words_and_are_closed_on_exec(
    notify: tuple[socket.socket, socket.socket], count: int
) -> None:
    opened, client = notify
    readable, writable = os.pipe()
    try:
        send(client, b"FDSTORE=1\nFDNAME=pipe", [writable] * count)
        received = sockets.receive_notify(opened)
        assert received is not None
        assert (received.pid, received.fields, received.refused) == (os.getpid(), {"FDSTORE": "1", "FDNAME": "pipe"}, "")
        assert len(received.descriptors) == count
        for descriptor in received.descriptors:
            assert not os.get_inheritable(descriptor)
            os.write(descriptor, b"x")
            os.close(descriptor)
        assert os.read(readable, 100) == b"x" * count
    finally:
        os.close(readable)
        os.close(writable)


@pytest.mark.parametrize("count", [sockets.NOTIFY_DESCRIPTORS + 1, 253])
def test_too_many_descriptors_are_refused_and_closed(notify: tuple[socket.socket, socket.socket], count: int) -> None:
    opened, client = notify
    before = open_descriptors()
    send(client, b"FDSTORE=1", [client.fileno()] * count)
    assert sockets.receive_notify(opened) == (os.getpid(), {}, (), "more than 16 descriptors")
    assert open_descriptors() == before


def test_a_message_that_is_too_long_is_refused_and_its_descriptors_closed(notify: tuple[socket.socket, socket.socket]) -> None:
    opened, client = notify
    before = open_descriptors()
    send(client, b"READY=1\n" + b"x" * sockets.NOTIFY_BYTES, [client.fileno()])
    assert sockets.receive_notify(opened) == (os.getpid(), {}, (), "more than 4096 bytes")
    assert open_descriptors() == before


def test_a_null_byte_ends_a_message_and_is_refused_inside(notify: tuple[socket.socket, socket.socket]) -> None:
    opened, client = notify
    send(client, b"READY=1\0", [])
    send(client, b"READY=1\0STATUS=x", [])
    assert sockets.receive_notify(opened) == (os.getpid(), {"READY": "1"}, (), "")
    assert sockets.receive_notify(opened) == (os.getpid(), {}, (), "a null byte")


def test_an_empty_message_says_nothing(notify: tuple[socket.socket, socket.socket]) -> None:
    opened, client = notify
    send(client, b"", [])
    assert sockets.receive_notify(opened) == (os.getpid(), {}, (), "")


def test_a_borrowed_descriptor_stays_open() -> None:
    with socket.socket() as opened:
        with sockets.borrowed(opened.fileno()) as borrowed:
            assert borrowed.type == socket.SOCK_STREAM
        os.fstat(opened.fileno())
