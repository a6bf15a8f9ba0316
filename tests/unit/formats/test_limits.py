"""What is just short enough is taken by every door that it passes; what is too long is refused by each, in one line."""

import base64
import json
import os
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import memory_stream_pair

from milkyway_agent.api.access import Peer
from milkyway_agent.api.requests import Answers
from milkyway_agent.front.routes import Route
from milkyway_agent.front.server import Conversation
from milkyway_agent.ipc.messages import MAX_MESSAGE_BYTES, ApiAnswer, ApiRequest, DesiredAdmitted, Refused
from milkyway_agent.ipc.sealed_memory import seal
from milkyway_agent.mwctl import command
from milkyway_control.operator_protocol import ANY_MATCH, MACHINES_PATH, MATCH_HEADER
from milkyway_control.server.blobs import Blobs
from milkyway_control.server.ca import Authority
from milkyway_control.server.http_service import HttpError, Request
from milkyway_control.server.operator_api import OperatorApi
from milkyway_control.server.store import MachineRow, Store, TokenRow
from milkyway_control.server.wakeups import Wakeups
from milkyway_formats.agent_protocol import OPERATOR_URI
from milkyway_formats.codec import decode, encode
from milkyway_formats.envelope import MAX_PAYLOAD_TYPE, Envelope, Signature, payload_of, write_envelope
from milkyway_formats.errors import RefusedError
from milkyway_formats.hybrid import SIGNATURE_BYTES
from milkyway_formats.limits import (
    MAX_DESIRED_BYTES,
    MAX_DOCUMENT_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_SIGNATURES,
    envelope_bytes,
)
from tests.fakes.api import Events
from tests.fakes.layer_files import make_layer
from tests.fakes.machine import FakeMachine
from tests.fakes.people import CAROL, FLEET, NOW, TRUST
from tests.fakes.verifier_site import Site, deployment, to_pid1

NGINX = make_layer("example/nginx", CAROL)


@pytest.fixture
def site() -> Site:
    made = Site()
    made.begin()
    return made


def desired_of(site: Site, length: int) -> bytes:
    """Return the envelope of a desired state whose document has *length* bytes, signed by two."""
    texts = {f"{number:03}": "x" * 4000 for number in range((length - 4000) // 4008)}
    first, last = 0, 0
    while True:  # once to see how much is missing, once with that
        envelope = site.desired(deployments=[deployment(NGINX, configuration={**texts, "a": "x" * first, "b": "x" * last})])
        missing = length - len(payload_of(decode(envelope, Envelope)))
        if not missing:
            return envelope
        first, last = missing // 2, missing - missing // 2


# --- doors ---------------------------------------------------------------------------------------------------------------


class FakePid1:
    """Implements ``front.server.Asks``; keeps the bodies."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def ask(self, connection: int, asked: Route, body: bytes) -> tuple[ApiAnswer, list[int]]:
        self.bodies.append(body)
        return ApiAnswer(request=1, status=200, body="{}"), []

    async def say_closed(self, connection: int) -> None:
        pass


async def through_the_front(body: bytes) -> tuple[bytes, str]:
    """Send *body* through the API's front; return what PID 1 got of it and the refusal, either empty."""
    client, server = memory_stream_pair()
    pid1, answer = FakePid1(), bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Conversation(server, 7, pid1).run)
        await client.send_all(b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await client.send_eof()
        while data := await client.receive_some():
            answer += data
    if pid1.bodies:
        return b"".join(pid1.bodies), ""
    return b"", json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


async def through_pid1(body: bytes) -> tuple[bytes, str]:
    """Hand *body* to PID 1's side of the API, as the front does; return what the machine got of it and the refusal."""
    machine = FakeMachine()
    answers = Answers(machine, Events(), group=None, local=lambda: "read")
    sealed = seal(body, name="test")
    try:
        request = ApiRequest(request=1, connection=1, verb="apply", has_body=True)
        answer = await answers.answer(request, Peer(pid=1, uid=0, groups=frozenset()), [sealed])
    finally:
        os.close(sealed)
    if answer.status == 200:
        return b"".join(machine.envelopes), ""
    return b"", json.loads(answer.body)["error"]["message"]


class LetterBox:
    """What answers at the control server's operator port once TLS is done, with one machine."""

    def __init__(self, root: Path, machine: str) -> None:
        store = Store(root / "control.sqlite")
        store.create(FLEET)
        token = TokenRow(id="0" * 16, name="web-1", operator="operator", created=1, expires=2)
        store.add_token(token)
        store.add_enrolment(token.id, b"request", 1)
        store.enrol(token.id, MachineRow(machine, "web-1", b"", b"", "", 1, None, None, 0), b"reply")
        self.machine = machine
        (root / "blobs").mkdir()
        authority = Authority.create("test", datetime.now(UTC))
        self.api = OperatorApi(store, Blobs(root / "blobs"), Wakeups(), fleet=FLEET, authority=authority, clock=lambda: NOW)

    async def push(self, envelope: bytes) -> str:
        """Push *envelope* as an operator's tool does; return the refusal, or nothing."""

        async def chunks() -> AsyncGenerator[bytes, None]:
            yield envelope

        request = Request(
            method="POST",
            path=f"{MACHINES_PATH}/{self.machine}/desired",
            query={},
            headers={MATCH_HEADER: ANY_MATCH},
            uris=(f"{OPERATOR_URI}operator",),
            chunks=chunks,
        )
        try:
            return "" if (await self.api.handle(request)).status == 201 else "?"
        except (HttpError, RefusedError) as error:
            return str(error)


async def through_the_letter_box(root: Path, machine: str, body: bytes) -> tuple[bytes, str]:
    """Push *body* to the control server; return what it stored and the refusal, either empty."""
    refusal = await LetterBox(root, machine).push(body)
    return (b"" if refusal else body), refusal


def through_mwctl(root: Path, body: bytes, capsys: pytest.CaptureFixture[str]) -> str:
    """Have ``mwctl apply`` read *body* from a file; return the refusal. There is no agent that would take it."""
    file = root / "order.json"
    file.write_bytes(body + b"\n")
    code = command.run(["--socket", str(root / "nothing"), "apply", str(file)])
    said = capsys.readouterr().err
    if code == 4:
        assert said.startswith("cannot reach the agent")
        return ""
    return said.strip()


# --- tests ---------------------------------------------------------------------------------------------------------------


async def test_the_longest_desired_state_is_taken_by_every_door(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = desired_of(site, MAX_DESIRED_BYTES)
    assert through_mwctl(tmp_path, longest, capsys) == ""
    assert await through_the_front(longest) == (longest, "")
    assert await through_pid1(longest) == (longest, "")
    assert await through_the_letter_box(tmp_path, site.machine, longest) == (longest, "")
    (admitted,) = to_pid1(site.apply(longest), DesiredAdmitted)
    assert len(encode(admitted)) <= MAX_MESSAGE_BYTES
    site.begin()
    (again,) = to_pid1(site.begin(), DesiredAdmitted)  # it is resumed at every boot
    assert again.desired == admitted.desired


async def test_a_longer_desired_state_is_refused_by_every_door_that_reads_it(site: Site, tmp_path: Path) -> None:
    longer = desired_of(site, MAX_DESIRED_BYTES + 1)
    why = "cannot read desired state: 130049 bytes, at most 130048 are allowed"
    (refused,) = to_pid1(site.apply(longer), Refused)
    assert (refused.check, refused.message) == ("form", why)
    assert await through_the_letter_box(tmp_path, site.machine, longer) == (b"", why)
    with pytest.raises(RefusedError, match=why):  # as the operator's tool checks before it pushes
        TRUST.verify_desired(longer)


async def test_bytes_longer_than_any_envelope_are_refused_by_every_door(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for length, too_long in ((MAX_ENVELOPE_BYTES, False), (MAX_ENVELOPE_BYTES + 1, True)):
        body = b"x" * length
        refusals = {
            "mwctl": through_mwctl(tmp_path, body, capsys),
            "the front": (await through_the_front(body))[1],
            "PID 1": (await through_pid1(body))[1],
        }
        assert refusals == {
            "mwctl": f"cannot apply {tmp_path}/order.json: longer than {MAX_ENVELOPE_BYTES} bytes" if too_long else "",
            "the front": f"cannot apply: the body is longer than {MAX_ENVELOPE_BYTES} bytes" if too_long else "",
            "PID 1": f"cannot take the envelope: {length} bytes, at most {MAX_ENVELOPE_BYTES} are allowed" if too_long else "",
        }
        (refused,) = to_pid1(site.apply(body), Refused)
        assert (refused.check == "size") == too_long  # what is short enough is no envelope for another reason
    stored, why = await through_the_letter_box(tmp_path, site.machine, body)
    assert (stored, why) == (b"", f"cannot read body: more than {MAX_ENVELOPE_BYTES} bytes")


@pytest.mark.parametrize("document", [0, 1, 2, MAX_DESIRED_BYTES, MAX_DOCUMENT_BYTES])
def test_an_envelope_has_room_for_its_document_and_all_signatures(document: int) -> None:
    signature = Signature(keyid="f" * 64, sig=base64.b64encode(b"x" * SIGNATURE_BYTES).decode())
    envelope = write_envelope("t" * MAX_PAYLOAD_TYPE, b"x" * document, [signature] * MAX_SIGNATURES)
    assert len(envelope) <= envelope_bytes(document)
