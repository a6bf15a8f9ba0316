"""The uplink: the only process of the agent that talks to the network, and no other process trusts it.

The verifier tells it where to connect (Connect), what to fetch (Fetch) and what to deliver (Post). It hands on
what comes: envelopes that have not been checked yet, the reply to an enrolment, whether the server answers. It
keeps nothing, decides nothing and opens no file. Killed at any moment, it is started again and asks anew: then
the newest desired state comes again, and the commands whose acknowledgement the server never saw.

What it promises: waits grow and are spread (``uplink.backoff``), no more bytes than asked for are written,
everything from outside that goes into a message is bounded.
"""

import os
import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Protocol

import trio

from milkyway_agent.ipc.channel import Channel, ChannelClosedError, MessageRefusedError, close_all
from milkyway_agent.ipc.messages import (
    MAX_MESSAGE_BYTES,
    Connect,
    Enrolled,
    Envelope,
    Fetch,
    Fetched,
    FromUplink,
    Handled,
    LinkState,
    Post,
    ToUplink,
)
from milkyway_agent.ipc.sealed_memory import seal
from milkyway_agent.uplink.backoff import REFUSED_S, SPACING_S, Answered, Attempt, Chance, after_failure, persist
from milkyway_agent.uplink.fetch import fetch
from milkyway_agent.uplink.http import AnswerRefusedError, Dial, dial, linked
from milkyway_agent.uplink.poll import ANSWER_S, HELD_S, Poller
from milkyway_formats.agent_protocol import ENROL_PATH, REPORT_PATH, EnvelopeKind
from milkyway_formats.codec import encode
from milkyway_formats.errors import MilkyWayError, RefusedError, UnavailableError

VERIFIER_FD = 3
REPORTS_KEPT = 16  # while the server is away: the newest
FETCHES_AT_ONCE = 2
WAITING = "waiting for an operator to enrol this machine"
MAX_REPLY_BYTES = 96 * 1024


class Verifier(Protocol):
    """The part of the channel to the verifier that is used here."""

    async def send(self, message: FromUplink, fds: Sequence[int] = ()) -> None:
        """Send one message."""
        ...

    async def receive(self) -> tuple[ToUplink, list[int]]:
        """Return the next message and its descriptors."""
        ...


class Uplink:
    """The uplink of one process. *dial* makes connections, *chance* gives numbers in [0, 1)."""

    def __init__(self, verifier: Verifier, dial: Dial = dial, chance: Chance = random.random) -> None:
        self._verifier = verifier
        self._dial = dial
        self._chance = chance
        self._where: Connect | None = None
        self._reports: deque[str] = deque(maxlen=REPORTS_KEPT)
        self._report_came = trio.Event()
        self._fetches = trio.CapacityLimiter(FETCHES_AT_ONCE)
        self._said: LinkState | None = None
        self._numbers = count(1)
        self._handing_on: tuple[int, trio.MemorySendChannel[bool]] | None = None

    async def run(self) -> None:
        """Carry out the verifier's messages until it is gone."""
        try:
            async with trio.open_nursery() as nursery:
                session = trio.CancelScope()
                while True:
                    try:
                        message, fds = await self._verifier.receive()
                    except MessageRefusedError:
                        continue  # a message of another version: the verifier will notice that nothing happens
                    match message:
                        case Connect():
                            session.cancel()
                            session = trio.CancelScope()
                            self._where = message
                            nursery.start_soon(self._session, message, session)
                        case Fetch():
                            nursery.start_soon(self._fetch, message, fds)
                        case Post():
                            self._reports.append(message.envelope)
                            self._report_came.set()
                        case Handled():
                            self._handled(message)
        except* ChannelClosedError:
            pass  # the verifier is gone: there is nothing left to do

    async def _session(self, where: Connect, scope: trio.CancelScope) -> None:
        """Enrol the machine, or serve it once enrolled, until another Connect ends the session."""
        with scope:
            if not where.certificate:
                await self._persist(partial(self._enrol, where))
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._persist, Poller(where, self._dial, self._hand_on).poll)
                nursery.start_soon(self._deliver, where)

    async def _persist(self, attempt: Attempt) -> None:
        await persist(attempt, self._say, self._chance)

    async def _say(self, connected: bool, detail: str) -> None:
        """Tell the verifier whether the server answers, if that has changed."""
        state = LinkState(connected=connected, detail=detail)
        if state != self._said:
            self._said = state
            await self._verifier.send(state)

    async def _enrol(self, where: Connect, answered: Answered) -> None:
        """Ask until an operator has approved; then wait for the Connect that the verifier makes of the reply.

        As with polls, the first request is not held: we soon know whether the server accepts the token.
        """
        body, target = where.enrolment.encode(), f"{ENROL_PATH}?hold=0"
        async with linked(self._dial, where) as link:
            while True:
                status, _ = await link.ask("POST", target, body=body, within=HELD_S)
                reply = await link.body(MAX_REPLY_BYTES)
                if status == 200:
                    break
                await answered(WAITING)
                target = ENROL_PATH
                await trio.sleep(SPACING_S)
        await self._verifier.send(_enrolled(reply))
        await trio.sleep(REFUSED_S)  # the Connect has long ended this, unless the verifier refused the reply
        raise AnswerRefusedError("cannot enrol: the verifier refused the control server's reply", status=status)

    async def _hand_on(self, kind: EnvelopeKind, body: bytes) -> None:
        """Give the verifier what came and wait for its answer. Raises UnavailableError if it can't keep it now."""
        number, fd = next(self._numbers), seal(body, name=kind)
        tell, told = trio.open_memory_channel[bool](1)
        with tell, told:
            self._handing_on = (number, tell)
            try:
                await self._verifier.send(Envelope(kind=kind, number=number), [fd])
            finally:
                os.close(fd)
            again = await told.receive()
        if again:
            raise UnavailableError("cannot accept what the control server sent: this machine can't store it now")

    def _handled(self, message: Handled) -> None:
        if self._handing_on is not None and self._handing_on[0] == message.number:
            _, tell = self._handing_on
            self._handing_on = None
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the session has ended meanwhile
                tell.send_nowait(message.again)

    async def _fetch(self, wanted: Fetch, fds: list[int]) -> None:
        error = ""
        try:
            async with self._fetches:
                if self._where is None or not self._where.certificate:
                    error = "cannot fetch: this machine is not enrolled"
                else:
                    await fetch(self._where, wanted, fds[0], self._dial, self._chance)
        except MilkyWayError as failure:
            error = str(failure)
        finally:
            close_all(fds)
        await self._verifier.send(Fetched(request=wanted.request, error=error))

    async def _deliver(self, where: Connect) -> None:
        """Post reports as they come, oldest first. A report that the server refuses is dropped, and the verifier told."""
        while True:
            while self._reports:
                await self._post(where, self._reports[0])
            self._report_came = trio.Event()
            await self._report_came.wait()

    async def _post(self, where: Connect, report: str) -> None:
        failures = 0
        while True:
            try:
                async with linked(self._dial, where) as link:
                    await link.ask("POST", REPORT_PATH, body=report.encode(), within=ANSWER_S)
            except RefusedError as error:
                await self._say(True, f"cannot deliver a report: {error}")
            except UnavailableError:  # the poll reports it
                failures += 1
                await trio.sleep(after_failure(failures, self._chance()))
                continue
            if self._reports and self._reports[0] == report:  # newer reports may have displaced it meanwhile
                self._reports.popleft()
            return


def _enrolled(reply: bytes) -> Enrolled:
    """Return the message with *reply*. Raises AnswerRefusedError if no message can carry it."""
    try:
        message = Enrolled(reply=reply.decode())
    except UnicodeDecodeError as error:
        raise AnswerRefusedError("cannot enrol: the reply is not text", status=200) from error
    if len(encode(message)) > MAX_MESSAGE_BYTES:
        raise AnswerRefusedError("cannot enrol: the reply is too long", status=200)
    return message


async def _run() -> None:
    verifier: Channel[FromUplink, ToUplink] = Channel.adopt(VERIFIER_FD, ToUplink, peer="verifier")
    async with verifier:
        await Uplink(verifier).run()


def main() -> None:
    """Run the uplink: the entry script's only call. Returns when the verifier is gone."""
    trio.run(_run)
