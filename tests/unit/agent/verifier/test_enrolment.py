"""Enrolment: the machine proves its token, and takes no record or certificate but its own."""

import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from msgspec.structs import replace

from milkyway_agent.ipc.messages import Begun, Connect, Enrolled, Post, RefusalNoted, SendReport
from milkyway_agent.verifier.answers import Outgoing
from milkyway_agent.verifier.machine_keys import generate, machine_id, public_keys
from milkyway_formats.codec import decode, encode
from milkyway_formats.enrolment import ENROLMENT_TYPE, EnrolmentRecord, EnrolmentReply, EnrolmentRequest, proof, split_token
from milkyway_formats.hybrid import HybridPublicKey
from milkyway_formats.report import REPORT_TYPE, ProcessStatus, Report, Status
from milkyway_formats.trust import verify_by_key
from milkyway_signing.key_file import FileSigner
from tests.fakes.people import ALICE, CAROL, FLEET, MALLORY, NOW, signed
from tests.fakes.verifier_site import COREOS, TOKEN, Site, for_uplink, to_pid1

CA_KEY = ec.derive_private_key(1234567, ec.SECP256R1())
OTHER = generate(lambda length: bytes([7]) * length)  # another machine's
STATUS = Status(
    slot="a",
    root_hash=COREOS,
    selinux="enforcing",
    development=True,
    version="1",
    boot_id="boot",
    booted=NOW,
    uptime_ms=1000,
    desired_version=0,
)


def request_of(outgoing: list[Outgoing]) -> EnrolmentRequest:
    return decode(for_uplink(outgoing, Connect)[0].enrolment.encode(), EnrolmentRequest)


def certificate_for(key: ec.EllipticCurvePublicKey) -> str:
    name = x509.Name([])
    start = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key, 7, start, start + datetime.timedelta(days=7))
    return builder.sign(CA_KEY, SHA256()).public_bytes(Encoding.PEM).decode()


def record_for(request: EnrolmentRequest, **changes: object) -> EnrolmentRecord:
    record = EnrolmentRecord(
        format="milkyway.enrolment/1",
        fleet=FLEET,
        machine=HybridPublicKey(bytes.fromhex(request.keys.identity)).key_id,
        name="web1",
        keys=request.keys,
        token=request.token,
        issued=NOW,
    )
    return replace(record, **changes)


def reply_for(request: EnrolmentRequest, *signers: FileSigner, certificate: str = "", **changes: object) -> Enrolled:
    key = x509.load_pem_x509_csr(request.csr.encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    reply = EnrolmentReply(
        format="milkyway.enrolment-reply/1",
        certificate=certificate or certificate_for(key),
        record=signed(ENROLMENT_TYPE, record_for(request, **changes), *(signers or (ALICE,))).decode(),
    )
    return Enrolled(reply=encode(reply).decode())


@pytest.fixture
def begun() -> tuple[Site, EnrolmentRequest]:
    site = Site()
    return site, request_of(site.begin())


def test_the_request_proves_the_token_over_the_keys_that_the_machine_has(begun: tuple[Site, EnrolmentRequest]) -> None:
    site, request = begun
    token, secret = split_token(TOKEN)
    assert request.token == token
    assert request.proof == proof(secret, token, site.keys())
    csr = x509.load_pem_x509_csr(request.csr.encode())
    assert csr.is_signature_valid
    spki = csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spki.hex() == request.keys.connection
    assert isinstance(load_der_public_key(spki), ec.EllipticCurvePublicKey)
    MLKEM768PublicKey.from_public_bytes(bytes.fromhex(request.keys.encryption)[32:])


def test_a_good_reply_is_kept_and_the_uplink_connects_with_its_certificate(begun: tuple[Site, EnrolmentRequest]) -> None:
    site, request = begun
    [connect] = for_uplink(site.verifier.enrolled(reply_for(request)), Connect)
    assert "BEGIN CERTIFICATE" in connect.certificate
    assert connect.enrolment == ""
    key = load_pem_private_key(connect.private_key.encode(), None).public_key()
    assert key == x509.load_pem_x509_certificate(connect.certificate.encode()).public_key()
    outgoing = site.begin()
    assert not to_pid1(outgoing, RefusalNoted)
    assert for_uplink(outgoing, Connect) == [connect], "the next boot connects at once"


@pytest.mark.parametrize(
    ("signers", "changes", "words"),
    [
        ((MALLORY,), {}, "unknown key"),
        ((CAROL,), {}, "0 of 1 persons signed"),
        ((), {"fleet": "other"}, "its record is of fleet other, this machine's is demo"),
        ((), {"machine": machine_id(OTHER)}, "its record names another machine"),
        ((), {"token": "f" * 16}, "its record is for another token"),
        ((), {"keys": public_keys(OTHER)}, "does not name this machine's connection key"),
    ],
)
def test_a_record_that_is_not_this_machines_is_refused(
    begun: tuple[Site, EnrolmentRequest], signers: tuple[FileSigner, ...], changes: dict[str, Any], words: str
) -> None:
    site, request = begun
    [note] = to_pid1(site.verifier.enrolled(reply_for(request, *signers, **changes)), RefusalNoted)
    assert words in note.message
    assert for_uplink(site.begin(), Connect)[0].certificate == "", "nothing of it was kept"


@pytest.mark.parametrize("name", ["connection", "identity", "encryption"])
def test_each_of_the_three_keys_must_be_this_machines(begun: tuple[Site, EnrolmentRequest], name: str) -> None:
    site, request = begun
    keys = replace(request.keys, **{name: getattr(public_keys(OTHER), name)})
    [note] = to_pid1(site.verifier.enrolled(reply_for(request, keys=keys)), RefusalNoted)
    assert f"its record does not name this machine's {name} key" in note.message


def test_a_certificate_for_a_swapped_csr_is_refused(begun: tuple[Site, EnrolmentRequest]) -> None:
    """The server had its own key certified in the machine's name."""
    site, request = begun
    reply = reply_for(request, certificate=certificate_for(CA_KEY.public_key()))
    [note] = to_pid1(site.verifier.enrolled(reply), RefusalNoted)
    assert (note.check, note.message) == (
        "enrolment",
        "cannot accept enrolment: the certificate is not for this machine's connection key",
    )


@pytest.mark.parametrize("reply", ["", "{}", "[]", '{"format":"milkyway.enrolment-reply/1","certificate":"","record":"{}"}'])
def test_a_reply_that_is_none_is_refused(begun: tuple[Site, EnrolmentRequest], reply: str) -> None:
    site, _ = begun
    [note] = to_pid1(site.verifier.enrolled(Enrolled(reply=reply)), RefusalNoted)
    assert note.message.startswith("cannot read")


def test_a_certificate_that_is_none_is_refused(begun: tuple[Site, EnrolmentRequest]) -> None:
    site, request = begun
    [note] = to_pid1(site.verifier.enrolled(reply_for(request, certificate="no certificate")), RefusalNoted)
    assert "its certificate can't be read" in note.message


def test_an_enrolled_machine_takes_no_second_enrolment(begun: tuple[Site, EnrolmentRequest]) -> None:
    site, request = begun
    site.verifier.enrolled(reply_for(request))
    for _ in range(2):
        [note] = to_pid1(site.verifier.enrolled(reply_for(request)), RefusalNoted)
        assert note.message == "cannot accept enrolment: this machine did not ask for it"
        site.begin()


def test_a_kept_record_is_verified_again_at_every_boot(begun: tuple[Site, EnrolmentRequest]) -> None:
    site, request = begun
    forged = signed(ENROLMENT_TYPE, record_for(request), MALLORY).decode()
    site.verifier._standing.store.save_enrolment(forged, "certificate")  # type: ignore[union-attr]
    outgoing = site.begin()
    assert "unknown key" in to_pid1(outgoing, RefusalNoted)[0].message
    assert for_uplink(outgoing, Connect)[0].certificate == ""


# --- reports ----------------------------------------------------------------------------------------------------------


def report_in(outgoing: list[Outgoing], site: Site) -> Report:
    [post] = for_uplink(outgoing, Post)
    key = HybridPublicKey(bytes.fromhex(site.keys().identity))
    return verify_by_key(post.envelope.encode(), key, REPORT_TYPE, Report, what="report")[0]


def test_reports_are_signed_by_the_identity_key_and_numbered_across_boots(begun: tuple[Site, EnrolmentRequest]) -> None:
    site, request = begun
    assert site.verifier.send_report(SendReport(now=NOW, status=STATUS), site.boottime) == [], "nobody knows it yet"
    site.verifier.enrolled(reply_for(request))
    first = report_in(site.verifier.send_report(SendReport(now=NOW + 1, status=STATUS), site.boottime), site)
    site.begin()
    second = report_in(site.verifier.send_report(SendReport(now=NOW + 2, status=STATUS), site.boottime), site)
    assert (first.sequence, second.sequence, second.issued) == (1, 2, NOW + 2)
    assert (second.machine, second.fleet, second.status) == (site.machine, FLEET, STATUS)


def test_a_report_that_is_too_long_goes_without_its_processes(begun: tuple[Site, EnrolmentRequest]) -> None:
    site, request = begun
    site.verifier.enrolled(reply_for(request))
    many = [ProcessStatus(pid=pid, name="nginx", context="u:r:web_1.v1.process:s0") for pid in range(2000)]
    long = replace(STATUS, processes=many)
    assert report_in(site.verifier.send_report(SendReport(now=NOW, status=long), site.boottime), site).status == STATUS


def test_a_machine_in_quarantine_still_says_so(begun: tuple[Site, EnrolmentRequest]) -> None:
    site, request = begun
    site.verifier.enrolled(reply_for(request))
    for copy in ("a", "b"):
        del site.trust.files[f"state.{copy}"]
    outgoing = site.begin()
    assert to_pid1(outgoing, Begun)[0].quarantined
    assert for_uplink(outgoing, Connect)[0].certificate
    report = report_in(site.verifier.send_report(SendReport(now=NOW, status=STATUS), site.boottime), site)
    assert report.sequence == NOW
