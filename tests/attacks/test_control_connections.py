"""What becomes of connections without the right: certificates, revocation, and bytes other than those asked for."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from milkyway_agent.ipc.messages import Connect
from milkyway_agent.uplink.http import AnswerRefusedError, LinkError, dial, linked
from milkyway_agent.verifier.machine_keys import connection_key, connection_key_pem, generate
from milkyway_control.fleet.client import ServerRefusedError
from milkyway_control.server.ca import Authority
from milkyway_formats.agent_protocol import BLOB_PREFIX, MAX_REPORT_BYTES, POLL_PATH, REPORT_PATH, machine_uri
from tests.fakes.control_bench import HOST, Bench, control_bench, machine, serve_again

NOT_ENROLLED = "b" * 64


async def test_without_a_certificate_nothing_but_enrolment_is_answered(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench:
        for method, path in [("GET", POLL_PATH), ("GET", BLOB_PREFIX + "a" * 64), ("POST", REPORT_PATH), ("GET", "/")]:
            with pytest.raises(AnswerRefusedError, match=r"refused \(401\): .* a machine's certificate is required"):
                await _ask(_where(bench), method, path)


async def test_a_certificate_of_another_authority_is_refused_by_name(tmp_path: Path) -> None:
    stranger = Authority.create("MilkyWay demo machines", datetime.now(UTC))
    async with control_bench(tmp_path) as bench:
        where = _where(bench, stranger)
        with pytest.raises(LinkError, match="rejects our certificate"):
            await _ask(where, "GET", POLL_PATH)
    assert "handshake_refused" in bench.events.names


async def test_the_operators_authority_makes_no_machines(tmp_path: Path) -> None:
    """Each port trusts its own authority: an operator's certificate is not a machine's."""
    async with control_bench(tmp_path) as bench:
        with pytest.raises(LinkError, match="rejects our certificate"):
            await _ask(_where(bench, bench.site.operators.read()), "GET", POLL_PATH)


async def test_a_good_certificate_of_a_machine_that_is_not_enrolled_is_refused(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench:
        with pytest.raises(AnswerRefusedError, match=r"\(403\): cannot answer machine b{16}: it is not enrolled here"):
            await _ask(_where(bench, bench.site.machines.read()), "GET", POLL_PATH)


async def test_a_server_that_is_not_the_pinned_one_gets_nothing(tmp_path: Path) -> None:
    stranger = Authority.create("MilkyWay demo machines", datetime.now(UTC))
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.connect(bench, enrolment="{}", ca=stranger.pem)
        await web.until(lambda: web.states)
    assert "its certificate is not trusted" in web.states[0].detail
    assert "enrolment_requested" not in bench.events.names


async def test_a_revoked_machine_is_cut_off_in_the_middle_of_a_poll(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        await bench.fleet("revoke", "web-1")
        with trio.fail_after(5):
            await web.until(lambda: not web.states[-1].connected)
        refused = await bench.fleet("restart", "web-1", "web/nginx", *bench.key("alice"), code=1)
    assert web.states[-1].detail.endswith("cannot answer machine web-1: it was revoked")
    assert str(refused.exception) == "cannot store command: machine web-1 was revoked"


async def test_the_server_goes_and_comes_back(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        bench.stop.cancel()
        await web.until(lambda: not web.states[-1].connected)
        async with trio.open_nursery() as nursery:
            await serve_again(nursery, bench.site, bench.ports)
            await web.until(lambda: web.states[-1].connected)
            nursery.cancel_scope.cancel()


async def test_a_report_that_another_signed_is_not_stored(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        await web.report(1, secrets=generate(os.urandom))
        await web.until(lambda: any("cannot" in state.detail for state in web.states))
        await web.report(2)
        await bench.events.until("report_stored")
    refusals = [state.detail for state in web.states if "cannot" in state.detail]
    assert len(refusals) == 1
    assert "cannot accept report: it is not signed by key" in refusals[0]
    assert bench.events.names.count("report_stored") == 1


async def test_a_report_that_is_too_long_is_refused_unread(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        enrolled = await web.enrol(bench)
        where = _where(bench, secrets_pem=connection_key_pem(web.secrets), certificate=enrolled.certificate)
        with pytest.raises(AnswerRefusedError, match=rf"\(413\): cannot read body: {MAX_REPORT_BYTES + 1} bytes, at most"):
            await _ask(where, "POST", REPORT_PATH, b"x" * (MAX_REPORT_BYTES + 1))


@pytest.mark.parametrize(
    ("wanted", "why"),
    [(999, "the server announces 1000 bytes instead of 999"), (1001, "the server announces 1000 bytes instead of 1001")],
)
async def test_a_blob_of_another_size_is_not_written(tmp_path: Path, wanted: int, why: str) -> None:
    blob = os.urandom(1000)
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        sha256 = await _upload(bench, tmp_path / "blob", blob)
        staging = os.open(tmp_path / "staging", os.O_RDWR | os.O_CREAT)
        fetched = await web.fetch(sha256, wanted, staging)
        os.close(staging)
    assert why in fetched.error
    assert (tmp_path / "staging").read_bytes() == b""


async def test_a_missing_blob_is_reported_as_missing(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        staging = os.open(tmp_path / "staging", os.O_RDWR | os.O_CREAT)
        fetched = await web.fetch("a" * 64, 10, staging)
        os.close(staging)
    assert fetched.error.endswith("cannot send blob aaaaaaaaaaaaaaaa: it is not here")


async def test_an_upload_whose_bytes_have_another_hash_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"other bytes")
    async with control_bench(tmp_path) as bench:
        with bench.client() as client, pytest.raises(ServerRefusedError, match="its bytes hash to") as refused:
            await trio.to_thread.run_sync(client.upload, "a" * 64, tmp_path / "blob", 11, lambda _: None)
        left = [path for path in (bench.site.directory / "blobs").rglob("*") if path.is_file()]
    assert "cannot store blob aaaaaaaaaaaaaaaa" in str(refused.value)
    assert left == []


async def test_a_server_that_shows_an_older_state_is_found_out(tmp_path: Path) -> None:
    """A change that builds on it would undo the newer one."""
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        bench.config.note_seen(web.id, 7)
        refused = await bench.fleet("remove", "web", "--from", "web-1", *bench.key("alice"), code=1)
    assert str(refused.exception) == "cannot change web-1: the control server shows desired state 0, but this tool has seen 7"


async def _ask(where: Connect, method: str, path: str, body: bytes = b"") -> None:
    async with linked(dial, where) as link:
        await link.ask(method, path, body=body, within=10)
        await link.body(1 << 20)


def _where(bench: Bench, authority: Authority | None = None, *, secrets_pem: str = "", certificate: str = "") -> Connect:
    """Return where to connect, and as whom: without a certificate, or as a machine that *authority* made up."""
    if authority is not None:
        secrets = generate(os.urandom)
        secrets_pem = connection_key_pem(secrets)
        public = connection_key(secrets).public_key()
        certificate = authority.issue_for(public, "web-1", machine_uri(NOT_ENROLLED), datetime.now(UTC))
    return Connect(
        host=HOST,
        port=bench.ports.agents,
        ca=bench.site.machines.ca.read_text(),
        private_key=secrets_pem,
        certificate=certificate,
    )


async def _upload(bench: Bench, path: Path, blob: bytes) -> str:
    path.write_bytes(blob)
    sha256 = hashlib.sha256(blob).hexdigest()
    with bench.client() as client:
        await trio.to_thread.run_sync(client.upload, sha256, path, len(blob), lambda _: None)
    return sha256
