"""Listeners: opened as they were asked for, and closed without touching the files of others."""

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from milkyway_agent.launching.listeners import (
    accept_connection,
    close_listener,
    describe_address,
    environment,
    hand_over,
    open_listener,
)
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.listener import Address, Fifo, Listener, Tcp, Udp, UnixDatagram, UnixStream

FileKind = type[UnixStream] | type[UnixDatagram] | type[Fifo]
FILES: list[FileKind] = [UnixStream, UnixDatagram, Fifo]


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET6, kind) as probe:
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


def listener(address: Address, *, accept: bool = False) -> Listener:
    return Listener(name="web", address=address, accept=accept)


Opening = Callable[[Listener], int]


@pytest.fixture
def opened() -> Iterator[Opening]:
    """Opens listeners, and closes them when the test is over."""
    all_opened: list[tuple[int, Listener]] = []

    def opens(wanted: Listener) -> int:
        descriptor = open_listener(wanted)
        all_opened.append((descriptor, wanted))
        return descriptor

    yield opens
    for descriptor, wanted in all_opened:
        try:
            close_listener(descriptor, wanted)
        except OSError as error:
            assert error.errno == errno.EBADF, "closed by the test itself"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "service.sock")


def addresses(path: str) -> list[Address]:
    return [
        Tcp(port=free_port()),
        Tcp(port=free_port(), address="127.0.0.1"),
        Tcp(port=free_port(), address="::1"),
        Udp(port=free_port(socket.SOCK_DGRAM)),
        Udp(port=free_port(socket.SOCK_DGRAM), address="127.0.0.1"),
        UnixStream(path=path),
        UnixDatagram(path=f"{path}-datagram"),
        Fifo(path=f"{path}-pipe"),
    ]


def test_every_kind_is_closed_on_exec_and_blocks_only_when_handed_over(opened: Opening, path: str) -> None:
    for address in addresses(path):
        descriptor = opened(listener(address))
        assert not os.get_inheritable(descriptor)
        assert not os.get_blocking(descriptor)
        hand_over(descriptor)
        assert os.get_blocking(descriptor)


def test_an_address_of_all_takes_both_families(opened: Opening) -> None:
    port = free_port()
    descriptor = opened(listener(Tcp(port=port), accept=True))
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port)) as client:
            connection = accept_connection(descriptor)
            assert connection is not None
            assert (connection.remote_address, connection.remote_port) == client.getsockname()[:2]
            os.close(connection.descriptor)


@pytest.mark.parametrize(
    ("host", "other"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("::", "127.0.0.1"), ("0.0.0.0", "::1")]
)
def test_an_address_of_one_family_leaves_the_other_alone(opened: Opening, host: str, other: str) -> None:
    port = free_port()
    opened(listener(Tcp(port=port, address=host)))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((other, port))
    opened(listener(Tcp(port=port, address=other)))


def test_a_port_in_use_is_reported_in_one_line(opened: Opening) -> None:
    port = free_port()
    opened(listener(Tcp(port=port)))
    with pytest.raises(UnavailableError) as caught:
        open_listener(listener(Tcp(port=port)))
    assert str(caught.value) == f"cannot open listener web (TCP *:{port}): another process listens there already"


def test_an_address_of_another_machine_is_reported_in_one_line() -> None:
    with pytest.raises(UnavailableError) as caught:
        open_listener(listener(Udp(port=9, address="192.0.2.1")))
    assert str(caught.value) == "cannot open listener web (UDP 192.0.2.1:9): the address is not this machine's"


@pytest.mark.parametrize("address", ["localhost", "1.2.3", "::1%lo", "1.2.3.4\0"])
def test_what_is_no_address_is_refused_and_never_looked_up(address: str) -> None:
    with pytest.raises(RefusedError, match="is no IP address"):
        open_listener(listener(Tcp(port=9, address=address)))


def test_a_port_can_be_taken_again_at_once_after_a_connection(opened: Opening) -> None:
    """Connections that linger in TIME_WAIT hold nothing up."""
    wanted = listener(Tcp(port=free_port(), address="127.0.0.1"), accept=True)
    descriptor = opened(wanted)
    with socket.create_connection(("127.0.0.1", wanted.address.port)):  # type: ignore[union-attr] # it is a Tcp
        connection = accept_connection(descriptor)
        assert connection is not None
        os.close(connection.descriptor)  # the side that closes first lingers
    close_listener(descriptor, wanted)
    os.close(open_listener(wanted))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o000])
def test_a_file_has_its_mode_whatever_the_umask(opened: Opening, path: str, kind: FileKind, mode: int) -> None:
    before = os.umask(0o077)
    try:
        opened(listener(kind(path=path, mode=mode)))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat(path).st_mode) == mode


@pytest.mark.parametrize("kind", FILES)
def test_opening_and_closing_leaves_nothing(path: str, kind: FileKind) -> None:
    wanted = listener(kind(path=path))
    descriptors = len(os.listdir("/proc/self/fd"))
    close_listener(open_listener(wanted), wanted)
    assert not os.path.lexists(path)
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("kind", FILES)
def test_closing_leaves_a_file_that_another_process_put_there(path: str, kind: FileKind) -> None:
    wanted = listener(kind(path=path))
    descriptor = open_listener(wanted)
    os.unlink(path)
    other = open_listener(wanted)
    close_listener(descriptor, wanted)
    assert os.path.lexists(path)
    close_listener(other, wanted)
    assert not os.path.lexists(path)


@pytest.mark.parametrize("kind", FILES)
def test_closing_leaves_a_plain_file_that_took_its_place(path: str, kind: FileKind) -> None:
    wanted = listener(kind(path=path))
    descriptor = open_listener(wanted)
    os.unlink(path)
    Path(path).write_text("somebody's")
    close_listener(descriptor, wanted)
    assert Path(path).read_text() == "somebody's"


@pytest.mark.parametrize("kind", FILES)
def test_closing_twice_over_a_missing_file_is_no_error(path: str, kind: FileKind) -> None:
    wanted = listener(kind(path=path))
    descriptor = open_listener(wanted)
    os.unlink(path)
    close_listener(descriptor, wanted)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("kind", FILES)
def test_a_stale_file_is_replaced(opened: Opening, path: str, kind: FileKind) -> None:
    os.close(open_listener(listener(kind(path=path))))  # as after a power cut
    before = os.lstat(path)
    opened(listener(kind(path=path)))
    assert stat.S_IFMT(os.lstat(path).st_mode) == stat.S_IFMT(before.st_mode)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_at_which_a_process_listens_is_left_alone(opened: Opening, path: str, kind: FileKind) -> None:
    opened(listener(kind(path=path)))
    before = os.lstat(path)
    with pytest.raises(UnavailableError, match="another process listens there already"):
        open_listener(listener(kind(path=path)))
    assert os.lstat(path).st_ino == before.st_ino


@pytest.mark.parametrize(("kind", "other"), [(UnixStream, UnixDatagram), (UnixDatagram, UnixStream)])
def test_so_is_a_file_that_a_process_has_open_as_another_kind(
    opened: Opening, path: str, kind: FileKind, other: FileKind
) -> None:
    opened(listener(kind(path=path)))
    with pytest.raises(UnavailableError, match="another process listens there already"):
        open_listener(listener(other(path=path)))


def test_a_socket_whose_backlog_is_full_still_listens(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(path)
        busy.listen(0)
        client.connect(path)
        with pytest.raises(UnavailableError, match="another process listens there already"):
            open_listener(listener(UnixStream(path=path)))


@pytest.mark.parametrize("kind", FILES)
def test_any_other_file_is_left_alone(path: str, kind: FileKind) -> None:
    Path(path).write_text("data")
    with pytest.raises(RefusedError, match="the file there is not a"):
        open_listener(listener(kind(path=path)))
    assert Path(path).read_text() == "data"


@pytest.mark.parametrize("kind", FILES)
def test_a_link_is_not_followed(path: str, tmp_path: Path, kind: FileKind) -> None:
    target = listener(kind(path=f"{path}-target"))
    os.close(open_listener(target))
    os.symlink(f"{path}-target", path)
    with pytest.raises(RefusedError, match="the file there is not a"):
        open_listener(listener(kind(path=path)))
    assert os.path.islink(path)


@pytest.mark.parametrize("kind", FILES)
def test_a_missing_directory_is_reported_in_one_line(path: str, kind: FileKind) -> None:
    wanted = listener(kind(path=f"{path}/missing/file"))
    with pytest.raises(UnavailableError) as caught:
        open_listener(wanted)
    place = describe_address(wanted.address)
    assert str(caught.value) == f"cannot open listener web ({place}): its directory is missing"


def test_a_pipe_never_ends_and_gives_what_was_written(opened: Opening, path: str) -> None:
    descriptor = opened(listener(Fifo(path=path)))
    for text in (b"one", b"two"):
        Path(path).write_bytes(text)
        assert os.read(descriptor, 100) == text
    with pytest.raises(BlockingIOError):
        os.read(descriptor, 100)


def test_a_connection_is_closed_on_exec_blocks_and_has_its_clients_address(opened: Opening) -> None:
    wanted = listener(Tcp(port=free_port(), address="127.0.0.1"), accept=True)
    descriptor = opened(wanted)
    assert accept_connection(descriptor) is None
    with socket.create_connection(("127.0.0.1", wanted.address.port)) as client:  # type: ignore[union-attr] # it is a Tcp
        connection = accept_connection(descriptor)
        assert connection is not None
        assert not os.get_inheritable(connection.descriptor)
        assert os.get_blocking(connection.descriptor)
        assert connection.environment(wanted) == {
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "web",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": str(client.getsockname()[1]),
        }
        os.write(connection.descriptor, b"hello")
        assert client.recv(100) == b"hello"
        os.close(connection.descriptor)


def test_a_connection_over_a_unix_socket_has_no_address(opened: Opening, path: str) -> None:
    wanted = listener(UnixStream(path=path), accept=True)
    descriptor = opened(wanted)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        connection = accept_connection(descriptor)
        assert connection is not None
        assert connection.environment(wanted) == {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
        os.close(connection.descriptor)


def test_a_connection_that_was_reset_ends_at_once(opened: Opening) -> None:
    wanted = listener(Tcp(port=free_port(), address="127.0.0.1"), accept=True)
    descriptor = opened(wanted)
    client = socket.create_connection(("127.0.0.1", wanted.address.port))  # type: ignore[union-attr] # it is a Tcp
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()  # a reset
    connection = accept_connection(descriptor)
    if connection is not None:
        os.close(connection.descriptor)
    assert accept_connection(descriptor) is None


def test_the_environment_names_what_is_handed_over_in_order() -> None:
    names = [Listener(name=name, address=Tcp(port=9)) for name in ("http", "admin")]
    inetd = Listener(name="inetd", address=Tcp(port=9), accept=True)
    assert environment([names[0], inetd, names[1]], ["stored"]) == {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "http:admin:stored"}
    assert environment([inetd]) == {}


def test_addresses_are_written_as_people_read_them() -> None:
    assert [describe_address(address) for address in (Tcp(port=80), Udp(port=53, address="::1"), Fifo(path="/run/x"))] == [
        "TCP *:80",
        "UDP [::1]:53",
        "named pipe /run/x",
    ]
