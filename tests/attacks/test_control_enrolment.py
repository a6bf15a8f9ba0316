"""Attempts to be enrolled without the token, or to put another machine in the place of the right one."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from milkyway_agent.verifier.enrolment import make_request
from milkyway_agent.verifier.machine_keys import generate
from milkyway_control.fleet.config import KeptToken
from milkyway_control.fleet.enrolment import record_of
from milkyway_control.server.ca import Authority, CsrRefusedError
from milkyway_control.server.enrolment import EnrolmentRefusedError, approve, read_request
from milkyway_formats.codec import encode
from milkyway_formats.enrolment import ENROLMENT_TYPE, EnrolmentRequest
from milkyway_formats.envelope import EnvelopeRefusedError
from tests.fakes.control_bench import Bench, control_bench, machine
from tests.fakes.people import ALICE, FLEET, NOW, signed
from tests.fakes.verifier_site import CONFIGURATION

KEPT = KeptToken(format="milkyway.kept-token/1", secret="5e" * 32, name="web-1")


async def test_a_machine_with_another_secret_is_found_out_by_the_operators_tool(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        token = (await bench.fleet("token", "web-1")).stdout.strip()
        await web.ask_enrolment(bench, token.partition(".")[0] + "." + "0" * 64)
        refused = await bench.fleet("enrol", "web-1", "--wait", "10", *bench.key("alice"), code=1)
        listed = (await bench.fleet("status")).stdout
    assert str(refused.exception).startswith("cannot enrol web-1: the proof does not hold")
    assert listed == "no machine is enrolled\n"


async def test_a_server_that_swaps_the_machine_is_found_out_by_the_operators_tool(tmp_path: Path) -> None:
    """The server replaces the machine's keys and CSR by valid ones of its own, and keeps the machine's proof."""
    async with control_bench(tmp_path) as bench, machine() as web:
        token = (await bench.fleet("token", "web-1")).stdout.strip()
        configuration = await web.ask_enrolment(bench, token)
        await bench.events.until("enrolment_requested")
        honest, evil = make_request(web.secrets, configuration), make_request(generate(os.urandom), configuration)
        swapped = msgspec.structs.replace(evil, proof=honest.proof)
        assert read_request(encode(swapped)) == swapped, "the server itself would see nothing wrong"
        _put_in_place(bench, swapped)
        refused = await bench.fleet("enrol", "web-1", *bench.key("alice"), code=1)
    assert str(refused.exception).startswith("cannot enrol web-1: the proof does not hold")


async def test_a_token_works_for_one_machine(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine(1) as first, machine(2) as second:
        token = (await bench.fleet("token", "web-1")).stdout.strip()
        await first.ask_enrolment(bench, token)
        await bench.events.until("enrolment_requested")
        await second.ask_enrolment(bench, token)
        await second.until(lambda: second.states)
        await bench.fleet("enrol", "web-1", *bench.key("alice"))
        await first.until(lambda: first.enrolments)
    assert second.states[-1].detail.endswith("was used by another machine")
    assert second.enrolments == []
    assert "enrolment_refused" in bench.events.names


async def test_an_unknown_token_is_refused(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.ask_enrolment(bench, "0123456789abcdef." + "5e" * 32)
        await web.until(lambda: web.states)
    assert web.states[0].detail.endswith("cannot enrol: token 0123456789abcdef is not known here")


async def test_the_tool_sends_no_record_that_a_machine_would_refuse(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        token = (await bench.fleet("token", "web-1")).stdout.strip()
        await web.ask_enrolment(bench, token)
        refused = await bench.fleet("enrol", "--wait", "10", *bench.key("mallory"), code=1)
    assert str(refused.exception).startswith("cannot accept enrolment record: unknown key")
    assert "machine_enrolled" not in bench.events.names


def test_a_csr_for_another_key_than_the_proven_one_is_refused() -> None:
    request, other = _request(), _request()
    with pytest.raises(EnrolmentRefusedError, match="its certificate request is for another key"):
        read_request(encode(msgspec.structs.replace(request, csr=other.csr)))


def test_a_csr_that_is_not_signed_by_its_own_key_is_refused() -> None:
    """One byte of the signature is changed; the key in it stays."""
    request = _request()
    lines = request.csr.splitlines()
    middle = lines[-2]
    lines[-2] = ("B" if middle[0] != "B" else "C") + middle[1:]
    with pytest.raises(CsrRefusedError, match=r"cannot (accept|read) certificate request"):
        read_request(encode(msgspec.structs.replace(request, csr="\n".join(lines) + "\n")))


@pytest.mark.parametrize("csr", ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"])
def test_a_malformed_csr_is_refused(csr: str) -> None:
    with pytest.raises(CsrRefusedError, match="cannot read certificate request: it is malformed"):
        read_request(encode(msgspec.structs.replace(_request(), csr=csr)))


@pytest.mark.parametrize(
    ("field", "value"),
    [("fleet", "other"), ("token", "f" * 16), ("machine", "b" * 64), ("keys", None)],
)
def test_a_record_that_is_not_of_the_request_gives_no_certificate(field: str, value: object) -> None:
    request = _request()
    record = record_of(request, KEPT, FLEET, NOW)
    wrong = msgspec.structs.replace(record, **{field: _request().keys if value is None else value})
    with pytest.raises(EnrolmentRefusedError, match=f"its {field} is not that of the request"):
        approve(request, signed(ENROLMENT_TYPE, wrong, ALICE), FLEET, _authority(), NOW)


def test_a_command_is_not_an_enrolment_record() -> None:
    request = _request()
    envelope = signed("application/vnd.milkyway.command.v1+json", record_of(request, KEPT, FLEET, NOW), ALICE)
    with pytest.raises(EnrolmentRefusedError, match=r"its type is application/vnd\.milkyway\.command"):
        approve(request, envelope, FLEET, _authority(), NOW)
    with pytest.raises(EnvelopeRefusedError, match="cannot read"):
        approve(request, b"{}", FLEET, _authority(), NOW)


def _request() -> EnrolmentRequest:
    return make_request(generate(os.urandom), CONFIGURATION)


def _authority() -> Authority:
    return Authority.create("test", datetime.fromtimestamp(NOW, UTC))


def _put_in_place(bench: Bench, request: EnrolmentRequest) -> None:
    """Do what the server's administrator could do with a database editor."""
    with closing(sqlite3.connect(bench.site.directory / "control.sqlite")) as database, database:
        database.execute("UPDATE enrolments SET request = ? WHERE token = ?", (encode(request), request.token))
