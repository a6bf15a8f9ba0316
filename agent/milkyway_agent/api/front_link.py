"""The link to a front process: its connections with their peers, its requests and their answers.

Nothing that the front says has authority: what a request may do is decided by the peer of its connection. A front that
floods, falls silent or breaks the protocol is given up; ``api.server`` starts another.
"""

import os
import socket
from contextlib import AsyncExitStack
from typing import NamedTuple, Protocol

import msgspec
import trio

from milkyway_agent.api.access import Peer
from milkyway_agent.api.draining import Drain
from milkyway_agent.api.machine import plain
from milkyway_agent.api.requests import Answer, Answers, Note, failure
from milkyway_agent.ipc.channel import Channel, ChannelClosedError, MessageRefusedError, close_all
from milkyway_agent.ipc.messages import ApiAnswer, ApiClosed, ApiConnection, ApiRequest, FromFront, ToFront
from milkyway_formats.errors import UnavailableError

# A body travels inside a message (128 KiB) as a JSON string, where every quote counts twice.
MAX_INLINE_BYTES = 48 * 1024
SEND_SECONDS = 5.0
LEAVE_SECONDS = 2.0


class Limits(NamedTuple):
    """How much there is at most: connections in all and per ordinary user, requests per second.

    A front without connections leaves after *idle_seconds*. A front that neither asks nor closes, though it would have given
    up on any client long ago (``front.server.Seconds``), is taken for stuck after *silent_seconds*.
    """

    connections: int = 64
    per_user: int = 16
    requests_per_second: float = 100.0
    idle_seconds: float = 10.0
    silent_seconds: float = 90.0


DEFAULT_LIMITS = Limits()


class FrontProcess(Protocol):
    """A started front."""

    def kill(self) -> None:
        """Send SIGKILL; no error if it is gone."""

    async def wait(self) -> object:
        """Return when it has ended and was reaped."""


class FrontLink:
    """One front process: its connections by number, with their peers, and what each is waiting for."""

    def __init__(
        self, end: socket.socket, process: FrontProcess, answers: Answers, note: Note, drain: Drain, limits: Limits
    ) -> None:
        self.peers: dict[int, Peer] = {}
        self.usable = True
        self._channel: Channel[ToFront, FromFront] = Channel(end, FromFront, peer="front")
        self._process = process
        self._answers = answers
        self._note = note
        self._drain = drain
        self._limits = limits
        self._waiting: dict[int, trio.CancelScope] = {}
        self._word_due: dict[int, float] = {}  # by when the front must ask or close; never while it passes on a stream
        self._tasks = 0
        self._fault = ""
        self._scope = trio.CancelScope()
        self._peers_changed = trio.Event()

    async def take(self, number: int, peer: Peer, descriptor: int) -> None:
        """Give the front another connection."""
        self.peers[number] = peer
        self._expect_word(number)
        self._peers_changed.set()
        await self._send(ApiConnection(connection=number), [descriptor])

    async def run(self) -> str:
        """Answer until the front has been idle for long enough (returns "") or misbehaves (returns how)."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_until_idle)
                nursery.start_soon(self._wait_until_stuck)
                await self._read(nursery)
        return self._fault

    async def end(self) -> None:
        """Close the channel, at which a working front leaves; kill any other. Waits until it is gone."""
        self.usable = False
        self._channel.close()
        self._drain.answered(*self.peers)
        with trio.CancelScope(shield=True):
            if self._fault:
                self._process.kill()
            with trio.move_on_after(LEAVE_SECONDS):
                await self._process.wait()
                return
            self._process.kill()
            with trio.move_on_after(LEAVE_SECONDS):
                await self._process.wait()

    def _give_up(self, fault: str) -> None:
        """End ``run``; an empty *fault* is the ordinary end."""
        self._fault = self._fault or fault
        self.usable = False
        self._scope.cancel()

    async def _wait_until_idle(self) -> None:
        while True:
            self._peers_changed = trio.Event()
            with trio.move_on_after(float("inf") if self.peers else self._limits.idle_seconds) as waiting:
                await self._peers_changed.wait()
            if waiting.cancelled_caught and not self.peers:
                self._give_up("")
                return

    async def _wait_until_stuck(self) -> None:
        while True:
            await trio.sleep(self._limits.silent_seconds / 4)
            late = [number for number, due in self._word_due.items() if due < trio.current_time()]
            if late:
                self._give_up(f"it neither asked on connection {late[0]} nor closed it")
                return

    def _expect_word(self, number: int) -> None:
        self._word_due[number] = trio.current_time() + self._limits.silent_seconds

    async def _read(self, nursery: trio.Nursery) -> None:
        """Take messages, no faster than allowed: a front that floods finds its socket full, and PID 1 is not kept busy."""
        allowance = burst = self._limits.requests_per_second
        last = trio.current_time()
        while True:
            try:
                message, fds = await self._channel.receive()
            except (ChannelClosedError, MessageRefusedError) as error:
                self._give_up(str(error))
                return
            fault = self._heed(nursery, message, fds)
            if fault:
                close_all(fds)
                self._give_up(fault)
                return
            now = trio.current_time()
            allowance = min(burst, allowance + (now - last) * burst) - 1
            last = now
            if allowance < 1:
                await trio.sleep(1 / burst)

    def _heed(self, nursery: trio.Nursery, message: FromFront, fds: list[int]) -> str:
        """Act on *message*; return what is wrong with it, if anything is."""
        number = message.connection
        if number not in self.peers:
            return f"it spoke of connection {number}, which it does not have"
        match message:
            case ApiClosed():
                del self.peers[number], self._word_due[number]
                self._drain.answered(number)
                self._peers_changed.set()
                scope = self._waiting.pop(number, None)
                if scope is not None:
                    scope.cancel()
            case ApiRequest():
                # Twice: an answer that is being sent is no longer waited for.
                if number in self._waiting or self._tasks >= 2 * self._limits.connections:
                    return f"it asked on connection {number} before it took its answer"
                self._waiting[number] = trio.CancelScope()
                self._word_due[number] = float("inf")
                self._tasks += 1
                nursery.start_soon(self._answer, self._waiting[number], message, self.peers[number], fds)
        return ""

    async def _answer(self, scope: trio.CancelScope, request: ApiRequest, peer: Peer, fds: list[int]) -> None:
        try:
            with scope:
                try:
                    answer = await self._answers.answer(request, peer, fds)
                finally:
                    close_all(fds)
                if answer.lines is not None or len(answer.body) > MAX_INLINE_BYTES:
                    if answer.lines is not None:
                        self._drain.answered(request.connection)
                    await self._stream(request.request, answer)
                    return
                if self._waiting.pop(request.connection, None) is None:
                    return  # closed while the answer was on its way out of the machine
                self._expect_word(request.connection)
                await self._send(ApiAnswer(request=request.request, status=answer.status, body=answer.body.decode()))
        finally:
            self._tasks -= 1
            if self._waiting.get(request.connection) is scope:
                del self._waiting[request.connection]

    async def _stream(self, request: int, answer: Answer) -> None:
        """Send *answer*'s body through a pipe, as fast as the front takes it."""
        async with AsyncExitStack() as undo:
            if answer.lines is not None:
                undo.push_async_callback(answer.lines.aclose)
            try:
                theirs, ours = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:  # no descriptor is left: this answer is lost, but not the front and all others
                refusal = failure(UnavailableError(f"cannot answer: {error.strerror}"))
                await self._send(ApiAnswer(request=request, status=refusal.status, body=refusal.body.decode()))
                return
            pipe = await undo.enter_async_context(trio.lowlevel.FdStream(ours))
            try:
                await self._send(ApiAnswer(request=request, status=answer.status, has_body=True), [theirs])
            finally:
                os.close(theirs)
            try:
                if answer.lines is None:
                    await pipe.send_all(answer.body)
                    return
                async for line in answer.lines:
                    await pipe.send_all(msgspec.json.encode(plain(line)) + b"\n")
            except trio.BrokenResourceError:
                return  # the reader has gone
            except Exception as error:  # noqa: BLE001 (a log that fails half-way says so in its last line)
                self._note("api_stream_failed", why=f"{type(error).__name__}: {error}")
                with trio.move_on_after(SEND_SECONDS):
                    await pipe.send_all(failure(error).body + b"\n")

    async def _send(self, message: ToFront, fds: list[int] | None = None) -> None:
        with trio.move_on_after(SEND_SECONDS) as sending:
            try:
                await self._channel.send(message, fds or [])
            except ChannelClosedError as error:
                self._give_up(str(error))
        if sending.cancelled_caught:
            self._give_up("it does not read")
