"""What a peer can cost: deadlines on a clock that jumps, lengths, numbers, and answers to what is not HTTP."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import structlog
import trio
import trio.testing

from milkyway_control.server.http_service import HttpError, HttpService, Limits, Request, Response, serve_stream
from milkyway_formats.agent_protocol import MAX_HEADER_BYTES
from milkyway_formats.errors import RefusedError, UnavailableError


async def echo(request: Request) -> Response:
    """Answer with the body, or as the path says."""
    match request.path:
        case "/refuse":
            raise RefusedError("cannot do it: no", hint="do another")
        case "/later":
            raise UnavailableError("cannot do it now: busy")
        case "/bug":
            raise KeyError("a bug")
        case "/ignore":
            return Response(200, b"not read")
        case "/stream":
            return Response(200, stream=_parts(), length=6)
        case "/empty":
            return Response(204)
        case _:
            return Response(200, await request.body(10))


async def _parts() -> AsyncGenerator[bytes, None]:
    for part in (b"abc", b"def"):
        yield part


@asynccontextmanager
async def connected(limits: Limits | None = None) -> AsyncGenerator[trio.abc.Stream, None]:
    """Give the client's end of a served connection; at the end the server must finish with it by itself."""
    ours, theirs = trio.testing.memory_stream_pair()
    with structlog.testing.capture_logs():
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                await serve_stream(theirs, echo, limits or Limits())
                await theirs.aclose()

            nursery.start_soon(serve)
            yield ours


async def _answer(*sent: bytes) -> bytes:
    """Return the whole answer to *sent*, followed by the end of the stream."""
    async with connected() as stream:
        for part in sent:
            await stream.send_all(part)
        assert isinstance(stream, trio.StapledStream)
        await stream.send_eof()
        return await _all(stream)


async def _all(stream: trio.abc.Stream) -> bytes:
    parts = []
    while part := await stream.receive_some(65536):
        parts.append(bytes(part))
    return b"".join(parts)


def _request(path: str, body: bytes = b"", method: str = "POST") -> bytes:
    return b"%s %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (method.encode(), path.encode(), len(body), body)


async def test_requests_follow_each_other_on_one_connection() -> None:
    """Even requests that are sent before the first is answered."""
    answer = await _answer(_request("/", b"first") + _request("/", b"second"), _request("/", b"third"))
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.endswith(b"third")
    assert b"connection: close" not in answer


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/refuse", b"400", b'{"error":"cannot do it: no","hint":"do another"}'),
        ("/later", b"503", b'{"error":"cannot do it now: busy"}'),
        ("/bug", b"500", b'{"error":"cannot answer: the control server has a bug; its log says more"}'),
        ("/stream", b"200", b"abcdef"),
        ("/empty", b"204", b"\r\n\r\n"),
    ],
)
async def test_each_family_of_failure_has_its_status(path: str, status: bytes, text: bytes) -> None:
    answer = await _answer(_request(path))
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(text)


async def test_an_empty_answer_says_no_length() -> None:
    assert b"content-length" not in await _answer(_request("/empty"))


async def test_head_gets_no_body() -> None:
    answer = await _answer(_request("/stream", method="HEAD"), _request("/", b"next"))
    assert b"abc" not in answer
    assert answer.endswith(b"next")


async def test_a_body_that_is_announced_too_long_is_not_read() -> None:
    answer = await _answer(_request("/", b"x" * 11))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"11 bytes, at most 10 are allowed" in answer
    assert b"connection: close" in answer


async def test_a_body_that_grows_too_long_is_cut_off() -> None:
    chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + b"6\r\nxxxxxx\r\n" * 3 + b"0\r\n\r\n"
    answer = await _answer(chunked)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"more than 10 bytes" in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no host
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * MAX_HEADER_BYTES, b"431"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"400"),
        (b"\x16\x03\x01", b""),
    ],
)
async def test_what_is_not_http_is_refused(sent: bytes, status: bytes) -> None:
    answer = await _answer(sent)
    assert answer.startswith(b"HTTP/1.1 " + status if status else b"")


async def test_a_silent_peer_is_dropped_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Limits(idle_s=90)) as stream:
        before = trio.current_time()
        assert await stream.receive_some(1) == b""
    assert trio.current_time() - before == pytest.approx(90)


async def test_headers_that_drip_in_are_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """One byte every ten seconds keeps no connection: the request as a whole has a deadline."""
    async with connected(Limits(request_s=30)) as stream, trio.open_nursery() as nursery:
        before = trio.current_time()

        async def drip() -> None:
            for byte in b"GET / HTTP/1.1\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy":
                try:
                    await stream.send_all(bytes([byte]))
                except trio.BrokenResourceError:
                    return
                await trio.sleep(10)

        nursery.start_soon(drip)
        assert await stream.receive_some(1) == b""
        nursery.cancel_scope.cancel()
    assert trio.current_time() - before == pytest.approx(30, abs=1)


async def test_a_body_that_stops_is_answered_and_the_peer_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Limits(request_s=30, linger_s=5)) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf")
        answer = await _all(stream)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"the client stopped sending" in answer


async def test_an_answer_that_nobody_reads_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, theirs, echo, Limits(send_s=30))
        await ours.send_all(_request("/stream"))
        before = trio.current_time()
    assert trio.current_time() - before == pytest.approx(30)


async def test_a_body_that_nobody_reads_is_thrown_away_and_answered() -> None:
    answer = await _answer(_request("/ignore", b"x" * 100_000))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"not read")
    assert b"connection: close" in answer


async def test_one_connection_too_many_is_closed_at_once() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    service = HttpService(echo, context, Limits(connections=1))
    ours, theirs = trio.testing.memory_stream_pair()
    second, refused = trio.testing.memory_stream_pair()
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.serve, theirs)
            await trio.testing.wait_all_tasks_blocked()
            await service.serve(refused)
            assert await second.receive_some(1) == b""
            await ours.aclose()
    assert [log["event"] for log in logs] == ["handshake_refused"]


async def test_a_handshake_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    service = HttpService(echo, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Limits(handshake_s=15))
    ours, theirs = trio.testing.memory_stream_pair()
    before = trio.current_time()
    with structlog.testing.capture_logs():
        await service.serve(theirs)
    assert await ours.receive_some(1) == b""
    assert trio.current_time() - before == pytest.approx(15)


def test_an_http_error_is_a_refusal() -> None:
    error = HttpError(404, "cannot find it: gone", hint="look")
    assert isinstance(error, RefusedError)
    assert (error.status, str(error), error.hint) == (404, "cannot find it: gone", "look")
