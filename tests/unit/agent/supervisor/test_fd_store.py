"""Descriptors that a service stores with us, and gets back."""

import os
import socket
from collections.abc import Iterator

import pytest

from milkyway_agent.supervisor.fd_store import FdStore, Stored, Taken, is_name


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    """Two sockets."""
    first, second = socket.socketpair()
    with first, second:
        yield first.fileno(), second.fileno()


def test_stored_descriptors_keep_name_and_order(pair: tuple[int, int]) -> None:
    store = FdStore(8)
    assert store.take({"FDSTORE": "1", "FDNAME": "web"}, pair[:1]) == Taken(watch=pair[:1])
    assert store.take({"FDSTORE": "1"}, pair[1:]) == Taken(watch=pair[1:])
    assert store.names == ("web", "stored")
    assert store.stored == (Stored("web", pair[0]), Stored("stored", pair[1]))
    assert FdStore(8, store.stored).stored == store.stored


def test_what_is_over_the_limit_is_to_be_closed(pair: tuple[int, int]) -> None:
    store = FdStore(1)
    assert store.take({"FDSTORE": "1"}, pair) == Taken((pair[1],), (pair[0],), "more than 1 stored descriptors")
    assert FdStore(0).take({"FDSTORE": "1"}, pair).close == pair


def test_the_same_socket_is_stored_once(pair: tuple[int, int]) -> None:
    store = FdStore(8)
    store.take({"FDSTORE": "1", "FDNAME": "web"}, pair[:1])
    again = os.dup(pair[0])
    try:
        assert store.take({"FDSTORE": "1", "FDNAME": "web"}, [again]) == Taken(close=(again,))
    finally:
        os.close(again)
    assert store.names == ("web",)


def test_both_ends_of_a_pipe_are_stored() -> None:
    ends = os.pipe()
    try:
        assert FdStore(8).take({"FDSTORE": "1"}, ends).close == ()
    finally:
        for end in ends:
            os.close(end)


def test_removing_drops_all_with_that_name(pair: tuple[int, int]) -> None:
    store = FdStore(8)
    store.take({"FDSTORE": "1", "FDNAME": "web"}, pair[:1])
    store.take({"FDSTORE": "1", "FDNAME": "second"}, pair[1:])
    assert store.take({"FDSTOREREMOVE": "1", "FDNAME": "web"}, [99]) == Taken(close=(99, pair[0]))
    assert store.take({"FDSTOREREMOVE": "1"}, []).refused == "FDSTOREREMOVE=1 without a name"
    assert store.names == ("second",)


def test_descriptors_that_came_for_something_else_are_to_be_closed() -> None:
    assert FdStore(8).take({"BARRIER": "1"}, [7]) == Taken(close=(7,))
    assert FdStore(8).take({"FDSTORE": "0"}, [7]) == Taken(close=(7,))


def test_a_hang_up_drops_what_is_polled_and_nothing_else(pair: tuple[int, int]) -> None:
    store = FdStore(8)
    store.take({"FDSTORE": "1"}, pair[:1])
    assert store.take({"FDSTORE": "1", "FDPOLL": "0"}, pair[1:]) == Taken()
    assert store.hung_up(pair[1]) == ()
    assert store.hung_up(pair[0]) == (pair[0],)
    assert store.hung_up(pair[0]) == ()
    assert store.clear() == (pair[1],)
    assert store.stored == ()


def test_no_name_can_break_the_list_of_names(pair: tuple[int, int]) -> None:
    store = FdStore(8)
    store.take({"FDSTORE": "1", "FDNAME": "a:b"}, pair[:1])
    assert store.names == ("stored",)
    assert [is_name(name) for name in ("", "x" * 255, "x" * 256, "a b", "a\n", "é", "a:b")] == [
        False, True, False, True, False, False, False,
    ]  # fmt: skip
