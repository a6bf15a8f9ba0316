"""PID 1's and the uplink's ends of a verifier's channels, and the directories that PID 1 hands over."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import trio

from milkyway_agent.ipc.channel import Channel
from milkyway_agent.ipc.messages import Begin, Begun, FromUplink, FromVerifier, Handled, ToUplink, ToVerifier
from tests.fakes.people import NOW
from tests.fakes.verifier_site import COREOS, MACHINE_ENVELOPE, OWNER_ROOT

MessageT = TypeVar("MessageT")


class Peers:
    """Both peers of a verifier, in one test. They wait a few seconds for each answer, and no longer."""

    def __init__(self, pid1: Channel[ToVerifier, FromVerifier], uplink: Channel[FromUplink, ToUplink], root: Path) -> None:
        self.pid1 = pid1
        self.uplink = uplink
        self.trust, self.secure = root / "trust", root / "secure"
        self.trust.mkdir(mode=0o700, exist_ok=True)
        self.secure.mkdir(exist_ok=True)
        (self.secure / "owner-root.json").write_bytes(OWNER_ROOT)
        (self.secure / "machine.json").write_bytes(MACHINE_ENVELOPE)

    async def begin(self) -> Begun:
        """Send Begin with both directories; return the answer."""
        message = Begin(request=1, now=NOW, boot_id="boot", coreos_root_hash=COREOS, development=True)
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.trust, self.secure)]
        await self.tell(message, fds)
        return await self.answer(Begun)

    async def tell(self, message: ToVerifier, fds: Sequence[int] = ()) -> None:
        """Send *message* as PID 1; *fds* are closed here."""
        await self.pid1.send(message, fds)
        for descriptor in fds:
            os.close(descriptor)

    async def answer(self, kind: type[MessageT]) -> MessageT:
        """Return the next message for PID 1, which is a *kind*."""
        return _only(await _soon(self.pid1), kind)[0]

    async def ordered(self, kind: type[MessageT]) -> tuple[MessageT, list[int]]:
        """Return the next message for the uplink, which is a *kind*, with its descriptors.

        Messages that an envelope was handled are skipped, unless *kind* asks for them.
        """
        while isinstance((received := await _soon(self.uplink))[0], Handled) and kind is not Handled:
            pass
        return _only(received, kind)


async def _soon(channel: Channel[Any, Any]) -> tuple[object, list[int]]:
    with trio.fail_after(20):
        return await channel.receive()


def _only(received: tuple[object, list[int]], kind: type[MessageT]) -> tuple[MessageT, list[int]]:
    message, fds = received
    assert isinstance(message, kind), message
    return message, fds
