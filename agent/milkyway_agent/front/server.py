"""The API's front: HTTP/1.1 on connections that PID 1 accepted, typed requests to PID 1.

A process of its own, in its own domain (front_t), so that no byte of HTTP is parsed in PID 1. It
decides nothing: it does not know who is at the other end, and PID 1 does not ask it. Descriptor
3 is its channel to PID 1; when that closes, it leaves.

Bounded everywhere: 16 KiB of request head, a body of the size of an envelope and for ``apply`` alone, ten
seconds for a head or between two requests, thirty for a body. A connection that breaks HTTP gets
an answer that says so and is closed; the others don't notice.
"""

import os
import traceback
from itertools import count
from typing import NamedTuple, Protocol

import h11
import msgspec
import trio

from milkyway_agent.front.routes import JSON, HttpRefusedError, Route, content_type, route
from milkyway_agent.ipc.channel import Channel, ChannelClosedError, close_all
from milkyway_agent.ipc.messages import ApiAnswer, ApiClosed, ApiConnection, ApiRequest, FromFront, ToFront
from milkyway_agent.ipc.sealed_memory import seal
from milkyway_formats.limits import MAX_ENVELOPE_BYTES

CHANNEL = 3
MAX_HEAD_BYTES = 16 * 1024
CHUNK = 64 * 1024
LINGER_BYTES = 1024 * 1024


class Seconds(NamedTuple):
    """How long the other side may take for what."""

    head: float = 10.0
    body: float = 30.0
    write: float = 30.0
    linger: float = 1.0


SECONDS = Seconds()
# ``error.kind`` of each failure that the front itself finds
REFUSED = "refused"


class Asks(Protocol):
    """What a conversation needs: PID 1's answers."""

    async def ask(self, connection: int, asked: Route, body: bytes) -> tuple[ApiAnswer, list[int]]:
        """Return PID 1's answer, with the descriptor of its body if there is one, now the caller's."""

    async def say_closed(self, connection: int) -> None:
        """Tell PID 1 that *connection* is gone."""


class Pid1:
    """The channel to PID 1: asks, and gives each answer to the task that asked."""

    def __init__(self, channel: Channel[FromFront, ToFront]) -> None:
        self._channel = channel
        self._numbers = count(1)
        self._waiting: dict[int, trio.MemorySendChannel[tuple[ApiAnswer, list[int]]]] = {}

    async def ask(self, connection: int, asked: Route, body: bytes) -> tuple[ApiAnswer, list[int]]:
        """Return PID 1's answer, with the descriptor of its body if there is one, now the caller's."""
        number = next(self._numbers)
        send, receive = trio.open_memory_channel[tuple[ApiAnswer, list[int]]](1)
        self._waiting[number] = send
        fds = [seal(body, name="api-body")] if body else []
        try:
            await self._channel.send(
                ApiRequest(
                    request=number,
                    connection=connection,
                    verb=asked.verb,
                    argument=asked.argument,
                    parameters=asked.parameters,
                    has_body=bool(fds),
                ),
                fds,
            )
            return await receive.receive()
        finally:
            del self._waiting[number]
            close_all(fds)

    async def say_closed(self, connection: int) -> None:
        """Tell PID 1 that *connection* is gone."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SECONDS.linger):
            try:
                await self._channel.send(ApiClosed(connection=connection))
            except ChannelClosedError:
                return  # PID 1 has closed its end, and this process is about to leave

    def pass_answer(self, answer: ApiAnswer, fds: list[int]) -> None:
        """Give *answer* to the task that waits for it; there is none if its connection broke meanwhile."""
        waiting = self._waiting.get(answer.request)
        if waiting is None:
            close_all(fds)
        else:
            waiting.send_nowait((answer, fds))


class Conversation:
    """A connection: requests, one after the other, until either side closes it."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, number: int, pid1: Asks, seconds: Seconds = SECONDS) -> None:
        self._stream = stream
        self._number = number
        self._pid1 = pid1
        self._seconds = seconds
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def run(self) -> None:
        """Answer requests; return when the connection is closed."""
        try:
            async with self._stream:
                while await self._answer_next():
                    self._http.start_next_cycle()
                await self._linger()
        except (trio.BrokenResourceError, trio.TooSlowError):
            return  # gone, or as good as gone
        except Exception:  # noqa: BLE001 (a bug on one connection must not end the others)
            traceback.print_exc()  # the agent logs what a front prints
        finally:
            await self._pid1.say_closed(self._number)

    async def _answer_next(self) -> bool:
        """Answer a request; return whether another may follow on this connection."""
        try:
            with trio.move_on_after(self._seconds.head) as head:
                request = await self._next_event()
            if head.cancelled_caught:
                if self._http.trailing_data[0]:
                    await self._refuse(408, f"cannot read the request: not complete within {self._seconds.head:.0f} s")
                return False
            if not isinstance(request, h11.Request):
                return False
            asked = route(request.method.decode("ascii"), request.target.decode("ascii"))
            answer, fds = await self._pid1.ask(self._number, asked, await self._read_body(request, asked))
            if fds:
                await self._respond_with(answer.status, fds[0], content_type(asked.verb, answer.status))
            else:
                await self._respond(answer.status, answer.body.encode(), content_type(asked.verb, answer.status))
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, f"cannot read the request: {error}")
        except HttpRefusedError as error:
            await self._refuse(error.status, str(error), error.hint)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _read_body(self, request: h11.Request, asked: Route) -> bytes:
        limit = MAX_ENVELOPE_BYTES if asked.verb == "apply" else 0
        declared = dict(request.headers).get(b"content-length", b"0")
        if int(declared) > limit:  # h11 has checked that it is a number
            raise self._too_long(asked, limit)
        body = bytearray()
        with trio.move_on_after(self._seconds.body) as reading:
            while isinstance(event := await self._next_event(), h11.Data):
                body += event.data
                if len(body) > limit:
                    raise self._too_long(asked, limit)
        if reading.cancelled_caught:
            raise HttpRefusedError(408, f"cannot read the body: not complete within {self._seconds.body:.0f} s")
        if asked.verb == "apply" and not body:
            raise HttpRefusedError(400, "cannot apply: the body is empty", hint="the body is a signed envelope (DSSE, JSON)")
        return bytes(body)

    def _too_long(self, asked: Route, limit: int) -> HttpRefusedError:
        return HttpRefusedError(
            413, f"cannot {asked.verb}: " + (f"the body is longer than {limit} bytes" if limit else "it takes no body")
        )

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(bytes(await self._stream.receive_some(CHUNK)))
        return event

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            with trio.fail_after(self._seconds.write):
                await self._stream.send_all(data)

    async def _respond(self, status: int, body: bytes, kind: str = JSON) -> None:
        headers = [("content-type", kind), ("content-length", str(len(body) + 1))]
        if self._http.their_state is not h11.DONE:  # what is left of the body will not be read
            headers.append(("connection", "close"))
        await self._send(h11.Response(status_code=status, headers=headers))
        await self._send(h11.Data(data=body + b"\n"))
        await self._send(h11.EndOfMessage())

    async def _refuse(self, status: int, message: str, hint: str = "") -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = {"error": {"kind": REFUSED, "message": message, "hint": hint}}
            await self._respond(status, msgspec.json.encode(body))

    async def _respond_with(self, status: int, descriptor: int, kind: str) -> None:
        """Pass on what comes from the pipe *descriptor* until it ends or the client leaves."""
        async with trio.lowlevel.FdStream(descriptor) as pipe:
            await self._send(h11.Response(status_code=status, headers=[("content-type", kind), ("connection", "close")]))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_until_left, nursery.cancel_scope)
                await self._pump(pipe)
                nursery.cancel_scope.cancel()
        await self._send(h11.EndOfMessage())

    async def _pump(self, pipe: trio.lowlevel.FdStream) -> None:
        try:
            while data := await pipe.receive_some(CHUNK):
                # No deadline: a reader may pause (less, say) and keeps its connection, of which each user has only so many.
                await self._stream.send_all(self._http.send(h11.Data(data=data)) or b"")
        except trio.BrokenResourceError:
            return  # the client has gone, as the next send will say

    async def _wait_until_left(self, scope: trio.CancelScope) -> None:
        """Cancel *scope* when the client closes; what it still sends is ignored."""
        try:
            while await self._stream.receive_some(CHUNK):
                pass
        except trio.BrokenResourceError:
            pass
        scope.cancel()

    async def _linger(self) -> None:
        """Let the client read the answer: a close before it has finished sending would discard the answer."""
        await self._stream.send_eof()
        left = LINGER_BYTES
        with trio.move_on_after(self._seconds.linger):
            while left > 0 and (data := await self._stream.receive_some(CHUNK)):
                left -= len(data)


async def serve(channel: Channel[FromFront, ToFront], seconds: Seconds = SECONDS) -> None:
    """Serve every connection that comes through *channel* until PID 1 closes it."""
    pid1 = Pid1(channel)
    async with channel, trio.open_nursery() as nursery:
        while True:
            try:
                message, fds = await channel.receive()
            except ChannelClosedError:
                nursery.cancel_scope.cancel()
                return
            match message:
                case ApiConnection():
                    end = trio.socket.fromfd(fds[0], trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
                    os.close(fds[0])
                    nursery.start_soon(Conversation(trio.SocketStream(end), message.connection, pid1, seconds).run)
                case ApiAnswer():
                    pid1.pass_answer(message, fds)


def main() -> None:
    """Run the front on the channel that PID 1 left in descriptor 3."""
    channel: Channel[FromFront, ToFront] = Channel.adopt(CHANNEL, ToFront, peer="agent")
    trio.run(serve, channel)
