"""HTTP/1.1 for programs over TLS: a task for each connection, and a bound on everything a peer can make us hold.

``serve`` turns a stream into requests and a handler's answers into bytes. The handler decides
who may ask what; it learns the names in the peer's certificate (which TLS has checked) and nothing
else about the peer. A peer that is slow, silent or hostile costs no more than its task, until a
deadline by trio's clock. Refusals (RefusedError) become 4xx with a Problem; a bug becomes 500.
"""

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import parse_qsl

import h11
import structlog
import trio

from milkyway_formats.agent_protocol import MAX_HEADER_BYTES, Problem
from milkyway_formats.codec import encode
from milkyway_formats.errors import RefusedError, UnavailableError

log = structlog.get_logger()

CHUNK_BYTES = 256 * 1024


class HttpError(RefusedError):
    """A refusal with an HTTP status of its own."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What each peer, and all peers together, may take: seconds and numbers."""

    connections: int = 4096
    anonymous: int = 512  # of the connections: those without a certificate
    handshake_s: float = 15
    idle_s: float = 90  # between two requests
    request_s: float = 30  # from the first byte of a request to the end of its headers; each part of a body
    send_s: float = 30  # each chunk of an answer
    linger_s: float = 5  # how long the rest of a body that no handler read is received and thrown away
    linger_bytes: int = 1 << 20  # and at most how much of it
    requests: int = 100_000  # on one connection


@dataclass(frozen=True)
class Request:
    """A request. Only the handler reads the body, at most once, by ``body`` or ``chunks``."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    uris: tuple[str, ...]  # subject alternative names of the peer's certificate; none without a certificate
    chunks: Callable[[], AsyncGenerator[bytes, None]]

    async def body(self, limit: int) -> bytes:
        """Return the whole body, or refuse when it is longer than *limit* bytes."""
        announced = self.content_length()
        if announced is not None and announced > limit:
            raise HttpError(413, f"cannot read body: {announced} bytes, at most {limit} are allowed")
        parts, length = [], 0
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                length += len(chunk)
                if length > limit:
                    raise HttpError(413, f"cannot read body: more than {limit} bytes")
                parts.append(chunk)
        return b"".join(parts)

    def content_length(self) -> int | None:
        """Return the announced length of the body (h11 holds the peer to it), or None."""
        return int(self.headers["content-length"]) if "content-length" in self.headers else None


@dataclass(frozen=True)
class Response:
    """An answer: *body* as it is, or a *stream* of exactly *length* bytes."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None
    length: int = 0


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class PeerGoneError(Exception):
    """The peer closed, stalled or broke the protocol, so that no answer is possible. Never leaves this module."""


class HttpService:
    """The HTTP server of a port: the handler, the limits, and the number of connections now."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext, limits: Limits) -> None:
        self._handler = handler
        self._tls = tls
        self._limits = limits
        self._connections = 0
        self._anonymous = 0

    async def serve(self, transport: trio.abc.Stream) -> None:
        """Serve an accepted connection to its end; never raises because of anything the peer does."""
        if self._connections >= self._limits.connections:
            await trio.aclose_forcefully(transport)
            return
        self._connections += 1
        try:
            await self._serve_tls(transport)
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(transport)

    async def _serve_tls(self, transport: trio.abc.Stream) -> None:
        stream = trio.SSLStream(transport, self._tls, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(self._limits.handshake_s):
                await stream.do_handshake()
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # The peer sees the connection closed: trio sends no alert for a handshake that failed on our side.
            log.info("handshake_refused", reason=str(error.__cause__ or error) or "too slow")
            return
        uris = _uris(stream)
        anonymous = not uris
        if anonymous and self._anonymous >= self._limits.anonymous:
            return
        self._anonymous += anonymous
        try:
            await serve_stream(stream, self._handler, self._limits, uris)
        finally:
            self._anonymous -= anonymous


async def serve_stream(stream: trio.abc.Stream, handler: Handler, limits: Limits, uris: tuple[str, ...] = ()) -> None:
    """Answer the requests on *stream* until the peer or a limit ends it."""
    connection = _Connection(stream, limits)
    try:
        for _ in range(limits.requests):
            request = await connection.next_request(uris)
            if request is None:
                return
            await connection.answer(await _handle(handler, request))
            if not connection.goes_on():
                await connection.linger()
                return
    except PeerGoneError:
        return


async def _handle(handler: Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except HttpError as error:
        return problem(error.status, error)
    except RefusedError as error:
        return problem(400, error)
    except UnavailableError as error:
        log.warning("request_not_served", method=request.method, path=request.path, reason=str(error))
        return problem(503, error)
    except PeerGoneError:
        raise
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        return problem(500, "cannot answer: the control server has a bug; its log says more")


def problem(status: int, error: RefusedError | UnavailableError | str) -> Response:
    """Return the answer that tells a person what is wrong."""
    hint = "" if isinstance(error, str) else error.hint
    return json_response(encode(Problem(error=str(error)[:4096], hint=hint[:4096])), status)


def json_response(body: bytes, status: int = 200) -> Response:
    """Return *body*, which is JSON."""
    return Response(status, body, {"content-type": "application/json"})


class _Connection:
    """A stream with its h11 state machine."""

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._method = ""
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)

    async def next_request(self, uris: tuple[str, ...]) -> Request | None:
        """Return the next request, or None when the peer is done."""
        if not self._h11.trailing_data[0]:
            await self._receive(self._limits.idle_s)
        with trio.move_on_after(self._limits.request_s) as deadline:
            try:
                event = await self._next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse_malformed(error)
                return None
        if deadline.cancelled_caught or not isinstance(event, h11.Request):
            return None
        self._method = event.method.decode("ascii")
        path, _, query = event.target.decode("ascii", "replace").partition("?")
        return Request(
            method=self._method,
            path=path,
            query=dict(parse_qsl(query, max_num_fields=16)) if query.count("&") < 16 else {},
            headers={name.decode("ascii"): value.decode("latin-1") for name, value in event.headers},
            uris=uris,
            chunks=self._chunks,
        )

    async def answer(self, response: Response) -> None:
        """Send *response*. If the request's body was not read, it announces that the connection will be closed."""
        length = len(response.body) if response.stream is None else response.length
        headers = [*response.headers.items()]
        if response.status != 204:  # which has no content, and must not say so (RFC 9110, section 8.6)
            headers.append(("content-length", str(length)))
        if not self._request_is_over():
            headers.append(("connection", "close"))
        await self._send(h11.Response(status_code=response.status, headers=headers))
        if self._method == "HEAD":
            pass
        elif response.stream is None:
            await self._send(h11.Data(data=response.body))
        else:
            async with aclosing(response.stream) as chunks:
                async for chunk in chunks:
                    await self._send(h11.Data(data=chunk))
        await self._send(h11.EndOfMessage())

    def _request_is_over(self) -> bool:
        """Tell whether all of the request has been read; looks only at what has been received."""
        if self._h11.their_state is h11.SEND_BODY:
            try:
                self._h11.next_event()
            except h11.RemoteProtocolError:
                return False
        return self._h11.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)

    def goes_on(self) -> bool:
        """Tell whether another request may follow; if so, prepare for it."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    async def linger(self) -> None:
        """Receive and discard the rest, so that the peer can read our answer: closing now would reset the connection."""
        left = self._limits.linger_bytes if self._h11.their_state is h11.SEND_BODY else 0
        with trio.move_on_after(self._limits.linger_s):
            while left > 0:
                try:
                    data = await self._stream.receive_some(CHUNK_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                if not data:
                    return
                left -= len(data)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        if self._h11.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            try:
                with trio.fail_after(self._limits.request_s):
                    event = await self._next_event()
            except trio.TooSlowError as error:
                raise HttpError(408, "cannot read body: the client stopped sending") from error
            except h11.RemoteProtocolError as error:
                raise PeerGoneError from error
            match event:
                case h11.Data():
                    yield bytes(event.data)
                case h11.EndOfMessage():
                    return
                case _:
                    raise PeerGoneError

    async def _next_event(self) -> object:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            await self._receive(None)
        return event

    async def _receive(self, deadline: float | None) -> None:
        try:
            with trio.fail_after(deadline if deadline is not None else float("inf")):
                data = await self._stream.receive_some(CHUNK_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise PeerGoneError from error
        self._h11.receive_data(bytes(data))

    async def _refuse_malformed(self, error: h11.RemoteProtocolError) -> None:
        if self._h11.our_state is h11.IDLE:
            answer = problem(error.error_status_hint, f"cannot read request: {error}")
            await self.answer(answer)

    async def _send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if not data:
            return
        try:
            with trio.fail_after(self._limits.send_s):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise PeerGoneError from error


def _uris(stream: trio.SSLStream[trio.abc.Stream]) -> tuple[str, ...]:
    certificate = stream.getpeercert() or {}
    return tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI")
