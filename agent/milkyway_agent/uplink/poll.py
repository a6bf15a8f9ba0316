"""Asking the control server what is new, for ever: the long poll.

``poll`` lasts as long as one connection: it ends only with an error, after which ``backoff.persist`` waits. The
first poll on a connection is not held, so that we know at once whether the server accepts us; every later
poll is answered when there is something new, or with nothing when the server's hold is over.
"""

import hashlib
from collections.abc import Awaitable, Callable

import trio

from milkyway_agent.ipc.messages import Connect
from milkyway_agent.uplink.backoff import Answered, after_answer
from milkyway_agent.uplink.http import AnswerRefusedError, Dial, Link, linked
from milkyway_formats.agent_protocol import CURSOR_HEADER, KIND_HEADER, POLL_HOLD_S, EnvelopeKind, PollQuery
from milkyway_formats.limits import MAX_ENVELOPE_BYTES

ANSWER_S = 30.0
HELD_S = POLL_HOLD_S + ANSWER_S
QUICK_S = 1.0  # an answer that comes sooner was not held
MAX_CURSOR_DIGITS = 15

HandOn = Callable[[EnvelopeKind, bytes], Awaitable[None]]


class Poller:
    """Remembers what was handed on already, for as long as the uplink lives."""

    def __init__(self, where: Connect, dial: Dial, hand_on: HandOn) -> None:
        self._where = where
        self._dial = dial
        self._hand_on = hand_on
        self._desired: str | None = None
        self._commands: int | None = None

    async def poll(self, answered: Answered) -> None:
        """Connect and poll until the connection breaks."""
        async with linked(self._dial, self._where) as link:
            await self._ask(link, hold=0)
            await answered("")
            quick = 0
            while True:
                asked = trio.current_time()
                await self._ask(link, hold=None)
                quick = quick + 1 if trio.current_time() - asked < QUICK_S else 0
                await answered("")
                await trio.sleep(after_answer(quick))

    async def _ask(self, link: Link, *, hold: int | None) -> None:
        query = PollQuery(desired=self._desired, commands=self._commands, hold=hold)
        status, headers = await link.ask("GET", query.target(), within=HELD_S if hold is None else ANSWER_S)
        body = await link.body(MAX_ENVELOPE_BYTES)
        if status == 200 and body:
            match headers.get(KIND_HEADER):
                case "desired":
                    await self._hand_on("desired", body)
                    self._desired = hashlib.sha256(body).hexdigest()
                case "command":
                    cursor = _cursor(headers.get(CURSOR_HEADER, ""))
                    await self._hand_on("command", body)
                    self._commands = cursor
                case _:
                    raise AnswerRefusedError("cannot read answer to a poll: its kind is unknown", status=status)


def _cursor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_CURSOR_DIGITS):
        raise AnswerRefusedError("cannot read answer to a poll: a command without a valid cursor", status=200)
    return int(text)
