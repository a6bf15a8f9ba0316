"""PID 1's link to the verifier: questions and answers, news, and a new pair of processes when one has ended.

Verifier and uplink are started as a pair, because the socket pair between them is made here and serves for
one life of each: when one ends, the other is ended too and both are started again, after a growing delay. A question
that is open then fails with UnavailableError and can be asked again.

What is asked and what the answers mean is left to the other modules of this room, how a program is started to the caller.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import count
from typing import Protocol, TypeVar

import trio

from milkyway_agent.core.polling import Patience, delay_ms
from milkyway_agent.ipc.channel import Channel, ChannelClosedError, MessageRefusedError, close_all, socket_pair
from milkyway_agent.ipc.messages import (
    Begin,
    Begun,
    CommandAdmitted,
    DesiredAdmitted,
    FromVerifier,
    LinkState,
    RefusalNoted,
    Refused,
    ToVerifier,
    Unavailable,
)
from milkyway_formats.errors import RefusedError, UnavailableError

News = DesiredAdmitted | CommandAdmitted | RefusalNoted | LinkState | Begun
AnswerT = TypeVar("AnswerT")
ASK_SECONDS = 600.0
RESTART = Patience(first_ms=200, limit_ms=30_000)
NEWS_WAITING = 64


class Process(Protocol):
    """A started program."""

    def kill(self) -> None:
        """Send SIGKILL; no error if it is gone."""

    async def wait(self) -> object:
        """Return when it has ended and was reaped."""


# Starts the program of this name; the child has the given descriptors under the given numbers.
StartProgram = Callable[[str, dict[int, int]], Awaitable[Process]]
Note = Callable[..., None]


class NotAdmittedError(RefusedError):
    """The verifier refused; ``failed_check`` names the check that failed."""

    def __init__(self, message: str, *, failed_check: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.failed_check = failed_check


class Verifier(Protocol):
    """The verifier, as the other modules of this room ask it; ``TrustLink`` is the link to the verifier that runs."""

    def number(self) -> int:
        """Return a new request number."""

    async def ask(self, message: ToVerifier, kind: type[AnswerT], fds: Sequence[int] = ()) -> AnswerT:
        """Send *message* and return the answer, which is a *kind*; see ``TrustLink.ask``."""

    async def tell(self, message: ToVerifier, fds: Sequence[int] = ()) -> None:
        """Send *message* and wait for no answer. Raises UnavailableError when there is no verifier now."""


class TrustLink:
    """The link. *begin* returns the first message for a new verifier, with its two descriptors; ``run`` keeps the link up."""

    def __init__(self, start: StartProgram, begin: Callable[[int], tuple[Begin, list[int]]], note: Note) -> None:
        self._start = start
        self._begin = begin
        self._note = note
        self._numbers = count(1)
        self._channel: Channel[ToVerifier, FromVerifier] | None = None
        self._asked: dict[int, trio.MemorySendChannel[FromVerifier]] = {}
        self._send_news, self.news = trio.open_memory_channel[News](NEWS_WAITING)
        self.begun = trio.Event()

    async def run(self, *, chance: Callable[[], float]) -> None:
        """Keep verifier and uplink running until cancelled. *chance* returns numbers in [0, 1) for the jitter."""
        failures = 0
        while True:
            started = trio.current_time()
            try:
                why = await self._live()
            except Exception as error:  # noqa: BLE001 (whatever it was costs this pair of processes, never PID 1)
                why = _why(error)
            self.begun = trio.Event()
            failures = 0 if trio.current_time() - started > 60 else failures + 1
            self._note("verifier_ended", why=why, failures=failures)
            await trio.sleep(delay_ms(RESTART, failures, chance()) / 1000)

    async def ask(self, message: ToVerifier, kind: type[AnswerT], fds: Sequence[int] = ()) -> AnswerT:
        """Send *message* (whose ``request`` is from ``number()``) and return the answer, which is a *kind*.

        Raises NotAdmittedError, or UnavailableError when the verifier said so, has ended, or took too long.
        """
        answer = await self.ask_any(message, fds)
        if not isinstance(answer, kind):
            raise UnavailableError(f"cannot use the verifier's answer: it is a {type(answer).__name__}, not a {kind.__name__}")
        return answer

    async def ask_any(self, message: ToVerifier, fds: Sequence[int] = ()) -> FromVerifier:
        """Send *message* and return the answer, whatever its type but a refusal; raises as ``ask`` does."""
        number: int = message.request  # type: ignore[union-attr]  # only messages with a number are asked
        send, receive = trio.open_memory_channel[FromVerifier](1)
        self._asked[number] = send
        try:
            await self.tell(message, fds)
            with trio.move_on_after(ASK_SECONDS):
                try:
                    return _admitted(await receive.receive())
                except trio.EndOfChannel:
                    raise UnavailableError("cannot ask the verifier: it ended before it answered") from None
            raise UnavailableError(f"cannot ask the verifier: no answer to {type(message).__name__} within {ASK_SECONDS:.0f} s")
        finally:
            self._asked.pop(number, None)

    async def tell(self, message: ToVerifier, fds: Sequence[int] = ()) -> None:
        """Send *message* and wait for no answer. Raises UnavailableError when there is no verifier now."""
        if self._channel is None:
            raise UnavailableError("cannot ask the verifier: it is not running", hint="see `mwctl status` for why")
        await self._channel.send(message, fds)

    def number(self) -> int:
        """Return a new request number."""
        return next(self._numbers)

    async def _live(self) -> str:
        """Start both programs and read until one of them ends; return why. Nothing of either is left then."""
        async with AsyncExitStack() as undo:
            ours, theirs = socket_pair()
            self._channel = Channel(ours, FromVerifier, peer="verifier")
            undo.callback(self._hang_up)
            up, down = socket_pair()
            with theirs, up, down:
                verifier = await self._start("verifier", {3: theirs.fileno(), 4: up.fileno()})
                undo.push_async_callback(_end, verifier)
                uplink = await self._start("uplink", {3: down.fileno()})
                undo.push_async_callback(_end, uplink)
            async with trio.open_nursery() as nursery:
                ended: list[str] = []

                async def watch(name: str, process: Process) -> None:
                    ended.append(f"{name} ended: {await process.wait()}")
                    nursery.cancel_scope.cancel()

                async def read() -> None:
                    ended.append(await self._read())
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch, "verifier", verifier)
                nursery.start_soon(watch, "uplink", uplink)
                nursery.start_soon(read)
                nursery.start_soon(self._introduce)
            return "; ".join(ended)

    async def _introduce(self) -> None:
        message, fds = self._begin(self.number())
        try:
            begun = await self.ask(message, Begun, fds)
        except (RefusedError, UnavailableError) as error:
            self._note("verifier_refused_to_begin", why=str(error))
            return
        finally:
            close_all(fds)
        await self._send_news.send(begun)
        self.begun.set()

    async def _read(self) -> str:
        assert self._channel is not None, "the channel is open while the pair runs"
        while True:
            try:
                message, fds = await self._channel.receive()
            except (ChannelClosedError, MessageRefusedError) as error:
                return str(error)
            close_all(fds)  # no message of the verifier's carries any
            number = getattr(message, "request", 0)
            if number in self._asked:
                self._asked.pop(number).send_nowait(message)
            elif isinstance(message, DesiredAdmitted | CommandAdmitted | RefusalNoted | LinkState):
                await self._send_news.send(message)
            else:
                self._note("verifier_answer_unexpected", kind=type(message).__name__, request=number)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for waiting in self._asked.values():
            waiting.close()
        self._asked.clear()


def _admitted(answer: FromVerifier) -> FromVerifier:
    """Return *answer* unless it is a refusal, which is raised."""
    if isinstance(answer, Refused):
        raise NotAdmittedError(answer.message, failed_check=answer.check, hint=answer.hint)
    if isinstance(answer, Unavailable):
        raise UnavailableError(answer.message)
    return answer


def _why(error: BaseException) -> str:
    """Return *error* as one line; of a group, all errors in it."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_why(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"


async def _end(process: Process) -> None:
    with trio.CancelScope(shield=True):
        process.kill()
        with trio.move_on_after(5):
            await process.wait()
