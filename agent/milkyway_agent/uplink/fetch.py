"""Fetching a blob into a descriptor: resumed where it broke, and never a byte more than was asked for.

Whether they are the right bytes is not checked here: the verifier hashes them. The length that the server
announces is compared with what the signed document says before the first byte is written.
"""

import os
from contextlib import aclosing

import trio

from milkyway_agent.ipc.messages import Connect, Fetch
from milkyway_agent.uplink.backoff import Chance, after_failure
from milkyway_agent.uplink.http import AnswerRefusedError, Dial, LinkError, linked
from milkyway_formats.agent_protocol import BLOB_PREFIX
from milkyway_formats.errors import UnavailableError

ANSWER_S = 30.0
FAILURES = 8  # in a row, without a byte in between: then the fetch fails, and may be asked for again


class WriteError(UnavailableError):
    """The staging file cannot be written any further."""


async def fetch(where: Connect, wanted: Fetch, fd: int, dial: Dial, chance: Chance) -> None:
    """Write the blob into *fd*, starting at offset 0. Raises MilkyWayError with the reason."""
    what, have, failures = f"cannot fetch {wanted.sha256[:16]}", 0, 0
    while True:
        before = have
        try:
            async with linked(dial, where) as link:
                headers = {"range": f"bytes={have}-"} if have else {}
                status, answer = await link.ask("GET", BLOB_PREFIX + wanted.sha256, headers=headers, within=ANSWER_S)
                _check_length(wanted, have, status, answer)
                async with aclosing(link.chunks()) as chunks:
                    async for chunk in chunks:
                        if have + len(chunk) > wanted.size:
                            raise AnswerRefusedError(f"{what}: more than {wanted.size} bytes", status=status)
                        have += _write(fd, chunk, have)
                if have != wanted.size:
                    raise LinkError(f"{what}: it ended after {have} of {wanted.size} bytes")
                return
        except LinkError:
            failures = failures + 1 if have == before else 1
            if failures >= FAILURES:
                raise
        await trio.sleep(after_failure(failures, chance()))


def _check_length(wanted: Fetch, have: int, status: int, answer: dict[str, str]) -> None:
    """Refuse an answer that is not the rest of a blob of the wanted size."""
    left = wanted.size - have
    length = answer.get("content-length", "none")
    if length != str(left):
        raise AnswerRefusedError(
            f"cannot fetch {wanted.sha256[:16]}: the server announces {length} bytes instead of {left}", status=status
        )
    if status != (206 if have else 200):
        raise AnswerRefusedError(f"cannot fetch {wanted.sha256[:16]}: the server does not resume", status=status)


def _write(fd: int, chunk: bytes, offset: int) -> int:
    written = 0
    try:
        while written < len(chunk):
            written += os.pwrite(fd, chunk[written:], offset + written)
    except OSError as error:
        raise WriteError(f"cannot write blob: {error.strerror}") from error
    return written
