"""HTTP/1.1 over one TLS connection, as much of it as the agent protocol needs: ask, read the answer, ask again.

h11 on a trio stream (docs/decisions/0050). Every wait has a deadline on trio's clock, every length a bound. Whatever
goes wrong on the way is a LinkError that explains it in one line; an answer that is not 2xx is an AnswerRefusedError
with the server's own words, which are untrusted and therefore cleaned first.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager

import h11
import trio

from milkyway_agent.ipc.messages import Connect
from milkyway_agent.uplink.tls import client_context, explain
from milkyway_formats.agent_protocol import MAX_HEADER_BYTES, MAX_PROBLEM_BYTES, Problem
from milkyway_formats.codec import decode
from milkyway_formats.errors import RefusedError, UnavailableError

CONNECT_S = 20.0
CHUNK_S = 60.0  # without a byte of an answer's body
CHUNK_BYTES = 64 * 1024
MAX_LINE = 300


class LinkError(UnavailableError):
    """The control server can't be reached, or the connection to it broke."""


class AnswerRefusedError(RefusedError):
    """The control server refused, or its answer is not what the protocol allows."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def one_line(text: str) -> str:
    """Return *text* from outside as one short printable line."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:MAX_LINE])


class Link:
    """A connection. Use it from a single task; after any error only ``close`` may be called."""

    def __init__(self, stream: trio.abc.Stream, host: str, *, shows_certificate: bool = False) -> None:
        self._stream = stream
        self._shows_certificate = shows_certificate
        self._answered = False
        self._host = host
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)

    async def ask(
        self, method: str, target: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None, within: float
    ) -> tuple[int, dict[str, str]]:
        """Send a request and return the status and headers of its answer, which must come *within* that many seconds.

        Read the body of a 2xx answer with ``body`` or ``chunks``. Raises LinkError for 5xx (it may pass), and
        AnswerRefusedError for any other status.
        """
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        fields = [("host", self._host), ("content-length", str(len(body))), *(headers or {}).items()]
        try:
            with trio.fail_after(within):
                await self._send(h11.Request(method=method, target=target, headers=fields))
                await self._send(h11.Data(data=body))
                await self._send(h11.EndOfMessage())
                event = await self._next_event()
        except trio.TooSlowError as error:
            raise LinkError(f"cannot ask {self._host}: no answer within {within:.0f} s") from error
        if not isinstance(event, h11.Response):
            raise LinkError(f"cannot ask {self._host}: it closed the connection before answering")
        if event.status_code >= 500:
            raise LinkError(await self._problem(event.status_code))
        if not 200 <= event.status_code < 300:
            raise AnswerRefusedError(await self._problem(event.status_code), status=event.status_code)
        return event.status_code, {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}

    async def body(self, limit: int) -> bytes:
        """Return the rest of the answer, at most *limit* bytes."""
        parts, length = [], 0
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                length += len(chunk)
                if length > limit:
                    raise AnswerRefusedError(f"cannot read answer of {self._host}: more than {limit} bytes", status=200)
                parts.append(chunk)
        return b"".join(parts)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the rest of the answer as it comes."""
        while True:
            try:
                with trio.fail_after(CHUNK_S):
                    event = await self._next_event()
            except trio.TooSlowError as error:
                raise LinkError(f"cannot read from {self._host}: nothing came for {CHUNK_S:.0f} s") from error
            match event:
                case h11.Data():
                    yield bytes(event.data)
                case h11.EndOfMessage():
                    return
                case _:
                    raise LinkError(f"cannot read from {self._host}: it closed the connection in the middle of an answer")

    async def close(self) -> None:
        """Close the connection, without waiting for the peer."""
        await trio.aclose_forcefully(self._stream)

    def _without_answer(self) -> str:
        # In TLS 1.3 the client's handshake is over before the server has looked at the client's certificate: a
        # refusal is the end of the connection in place of the first answer, sometimes with an alert.
        if self._shows_certificate:
            return "it closed the connection without an answer, probably because it rejects our certificate"
        return "it closed the connection without an answer"

    async def _problem(self, status: int) -> str:
        try:
            text = decode(await self.body(MAX_PROBLEM_BYTES), Problem, what="problem").error
        except (RefusedError, LinkError):
            text = "no reason given"
        return f"the control server refused ({status}): {one_line(text)}"

    async def _send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise LinkError(f"cannot send to {self._host}: {explain(error)}") from error

    async def _next_event(self) -> object:
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
                if event is h11.NEED_DATA:
                    data = bytes(await self._stream.receive_some(CHUNK_BYTES))
                    if not data and not self._answered:
                        raise LinkError(f"cannot read from {self._host}: {self._without_answer()}")
                    self._answered = True
                    self._h11.receive_data(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            why = explain(error) if self._answered else f"{explain(error)}: {self._without_answer()}"
            raise LinkError(f"cannot read from {self._host}: {why}") from error
        except h11.RemoteProtocolError as error:
            raise LinkError(f"cannot read from {self._host}: not HTTP: {one_line(str(error))}") from error
        return event


Dial = Callable[[Connect], Awaitable[Link]]


async def dial(where: Connect) -> Link:
    """Return a new connection to *where*, with the TLS handshake done."""
    what = f"cannot reach {where.host}:{where.port}"
    context = client_context(where)
    try:
        with trio.fail_after(CONNECT_S):
            tcp = await trio.open_tcp_stream(where.host, where.port)
            stream = trio.SSLStream(tcp, context, server_hostname=where.host, https_compatible=True)
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(tcp)
                raise
    except trio.TooSlowError as error:
        raise LinkError(f"{what}: no answer within {CONNECT_S:.0f} s") from error
    except (OSError, trio.BrokenResourceError) as error:
        raise LinkError(f"{what}: {explain(error)}") from error
    return Link(stream, where.host, shows_certificate=bool(where.certificate))


@asynccontextmanager
async def linked(dial: Dial, where: Connect) -> AsyncGenerator[Link, None]:
    """Yield a connection made by *dial*, and close it afterwards."""
    link = await dial(where)
    try:
        yield link
    finally:
        await link.close()
