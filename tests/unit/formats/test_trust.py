"""Who signed what, and how many: every way to fall short, with the text that says so."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from milkyway_formats.codec import MalformedError, encode
from milkyway_formats.command import COMMAND_TYPE, Command, PowerOff, Reboot, RestartService, StopService
from milkyway_formats.desired import DESIRED_TYPE, Desired
from milkyway_formats.enrolment import (
    ENROLMENT_TYPE,
    MACHINE_TYPE,
    EnrolmentRecord,
    MachineConfiguration,
    MachineKeys,
)
from milkyway_formats.envelope import (
    EnvelopeRefusedError,
    OversizeRefusedError,
    Signature,
    pae_digest,
    payload_of,
    read_envelope,
    write_envelope,
)
from milkyway_formats.errors import RefusedError
from milkyway_formats.hybrid import (
    BothHalvesRefusedError,
    Ed25519HalfRefusedError,
    MlDsaHalfRefusedError,
    SignatureLengthRefusedError,
)
from milkyway_formats.manifest import MANIFEST_TYPE
from milkyway_formats.report import REPORT_TYPE
from milkyway_formats.root import ROOT_TYPE, LayerDelegation, Role, RootRefusedError
from milkyway_formats.trust import (
    KeyIdRefusedError,
    PathRefusedError,
    SeparationRefusedError,
    ThresholdRefusedError,
    Trust,
    verify_by_key,
    verify_root,
)
from tests.fakes.manifests import manifest_of
from tests.fakes.people import (
    ALICE,
    ALICE_AGAIN,
    BOB,
    CAROL,
    FLEET,
    MACHINE,
    MALLORY,
    NOW,
    OLIVIA,
    OWNER,
    TRUST,
    VENDOR,
    VERA,
    VICTOR,
    ids,
    key_of,
    signed,
)

DESIRED = Desired(
    format="milkyway.desired/1",
    fleet=FLEET,
    machine=MACHINE,
    version=1,
    issued=NOW,
    not_before=NOW,
    expires=NOW + 3600,
)
COMMAND = Command(
    format="milkyway.command/1",
    fleet=FLEET,
    id="c" * 32,
    stream="alice",
    sequence=1,
    issued=NOW,
    not_before=NOW,
    expires=NOW + 600,
    command_class="restart",
    machines=[MACHINE],
    action=RestartService(service="web/nginx"),
)
MANIFEST = manifest_of("example/nginx", built=NOW)
GOOD = signed(DESIRED_TYPE, DESIRED, ALICE, BOB)


def with_signatures(data: bytes, *signatures: Signature) -> bytes:
    """Return the envelope *data* with other signatures."""
    envelope = read_envelope(data, what="test")
    return write_envelope(envelope.payload_type, payload_of(envelope), list(signatures))


def halves(data: bytes, number: int) -> tuple[str, bytes, bytes]:
    """Return key id, ML-DSA half and Ed25519 half of the *number*-th signature in *data*."""
    signature = read_envelope(data, what="test").signatures[number]
    raw = base64.b64decode(signature.sig)
    return signature.keyid, raw[:3309], raw[3309:]


def forged(data: bytes, number: int, sig: bytes, keyid: str | None = None) -> bytes:
    """Return the envelope *data* with the *number*-th signature's bytes (and key id) replaced."""
    signatures = list(read_envelope(data, what="test").signatures)
    signatures[number] = Signature(
        keyid=signatures[number].keyid if keyid is None else keyid, sig=base64.b64encode(sig).decode()
    )
    return with_signatures(data, *signatures)


ALICE_ID, ALICE_MLDSA, ALICE_ED25519 = halves(GOOD, 0)
BOB_ID, BOB_MLDSA, BOB_ED25519 = halves(GOOD, 1)


def test_two_operators_sign_a_desired_state() -> None:
    desired, verified = TRUST.verify_desired(GOOD)
    assert desired == DESIRED
    assert verified.payload == encode(DESIRED)
    assert verified.persons == {"alice", "bob"}
    assert verified.key_ids == {ALICE_ID, BOB_ID}
    assert verified.digest == pae_digest(DESIRED_TYPE, encode(DESIRED))


@pytest.mark.parametrize(
    ("data", "refusal", "check", "reason"),
    [
        (b"x" * 500_000, OversizeRefusedError, "size", "500000 bytes, at most"),
        (b"{}", EnvelopeRefusedError, "envelope", "missing required field"),
        (GOOD + b" ", EnvelopeRefusedError, "envelope", "not in canonical form"),
        (
            GOOD[:-1] + b',"payload":"aGk="}',
            EnvelopeRefusedError,
            "envelope",
            "duplicate key 'payload'",
        ),
        (signed(COMMAND_TYPE, DESIRED, ALICE, BOB), EnvelopeRefusedError, "envelope", "its payload type is 'application"),
        (with_signatures(GOOD), EnvelopeRefusedError, "envelope", "it is not signed"),
        (
            with_signatures(GOOD, *(Signature(keyid="0" * 64, sig="") for _ in range(17))),
            EnvelopeRefusedError,
            "envelope",
            "17 signatures, at most 16 are allowed",
        ),
        (signed(DESIRED_TYPE, DESIRED, ALICE, MALLORY), KeyIdRefusedError, "key-ids", "unknown key"),
        (signed(DESIRED_TYPE, DESIRED, ALICE, BOB, MALLORY), KeyIdRefusedError, "key-ids", "unknown key"),
        (signed(DESIRED_TYPE, DESIRED, ALICE, VERA), KeyIdRefusedError, "key-ids", "unknown key"),
        (forged(GOOD, 0, ALICE_MLDSA, keyid=""), KeyIdRefusedError, "key-ids", "unknown key ''"),
        (signed(DESIRED_TYPE, DESIRED, ALICE, ALICE), KeyIdRefusedError, "key-ids", "two signatures by key .* of alice"),
        (
            forged(GOOD, 1, ALICE_MLDSA + ALICE_ED25519),
            BothHalvesRefusedError,
            "halves",
            "signed by bob: .*both halves are wrong",
        ),
        (forged(GOOD, 1, BOB_MLDSA), SignatureLengthRefusedError, "halves", "signed by bob: .*3309 bytes, both halves"),
        (forged(GOOD, 1, BOB_ED25519), SignatureLengthRefusedError, "halves", "signed by bob: .*64 bytes, both halves"),
        (
            forged(GOOD, 1, BOB_MLDSA + ALICE_ED25519),
            Ed25519HalfRefusedError,
            "halves",
            "signed by bob: .*the Ed25519 half is wrong",
        ),
        (
            forged(GOOD, 1, ALICE_MLDSA + BOB_ED25519),
            MlDsaHalfRefusedError,
            "halves",
            "signed by bob: .*the ML-DSA-65 half is wrong",
        ),
        (
            forged(signed(DESIRED_TYPE, DESIRED, ALICE, BOB, CAROL), 2, bytes(3373)),
            BothHalvesRefusedError,
            "halves",
            "signed by carol",
        ),
        (signed(DESIRED_TYPE, COMMAND, ALICE, BOB), MalformedError, "form", "read desired state: Invalid enum value"),
        (signed(DESIRED_TYPE, DESIRED, ALICE), ThresholdRefusedError, "threshold", r"1 of 2 persons signed \(alice\)"),
        (
            signed(DESIRED_TYPE, DESIRED, ALICE, ALICE_AGAIN),
            ThresholdRefusedError,
            "threshold",
            r"1 of 2 persons signed \(alice\)",
        ),
        (
            signed(DESIRED_TYPE, DESIRED, ALICE, CAROL),
            ThresholdRefusedError,
            "threshold",
            r"1 of 2 persons signed \(alice\); carol does not count",
        ),
        (
            signed(DESIRED_TYPE, DESIRED, OLIVIA),
            ThresholdRefusedError,
            "threshold",
            r"0 of 2 persons signed \(none\); olivia does not count",
        ),
    ],
)
def test_a_desired_state_is_refused(data: bytes, refusal: type[RefusedError], check: str, reason: str) -> None:
    with pytest.raises(refusal, match=f"^cannot .*{reason}") as raised:
        TRUST.verify_desired(data)
    assert raised.value.check == check


@settings(max_examples=300, deadline=None)
@given(st.integers(min_value=0, max_value=8 * len(GOOD) - 1))
def test_no_bit_of_an_envelope_can_be_flipped(bit: int) -> None:
    data = bytearray(GOOD)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RefusedError, match=r"^cannot "):
        TRUST.verify_desired(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(min_value=0, max_value=len(GOOD) - 1))
def test_no_envelope_can_be_cut(length: int) -> None:
    with pytest.raises(EnvelopeRefusedError):
        TRUST.verify_desired(GOOD[:length])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused_and_nothing_else_happens(data: bytes) -> None:
    for verify in (TRUST.verify_desired, TRUST.verify_command, TRUST.verify_manifest, TRUST.verify_enrolment, verify_root):
        with pytest.raises(RefusedError):
            verify(data)


@pytest.mark.parametrize("text", [b'{"format":"milkyway.desired/1","format":"milkyway.desired/1"}', b"\xff", b"[" * 5000])
def test_a_signed_payload_that_is_no_document_is_refused(text: bytes) -> None:
    """Two operators may sign anything; what is not such a document is still refused."""
    signatures = [signer.sign(DESIRED_TYPE, text) for signer in (ALICE, BOB)]
    with pytest.raises(MalformedError, match=r"^cannot read desired state: "):
        TRUST.verify_desired(write_envelope(DESIRED_TYPE, text, signatures))


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "persons"),
    [
        (COMMAND, 1),
        (replace(COMMAND, command_class="stop", action=StopService(service="web/nginx")), 1),
        (
            replace(
                COMMAND,
                command_class="stop",
                action=StopService(service="web/nginx"),
                machines=[f"{number:064x}" for number in range(11)],
            ),
            2,
        ),
        (replace(COMMAND, command_class="deep", action=Reboot()), 2),
        (replace(COMMAND, command_class="deep", action=PowerOff()), 2),
        (replace(COMMAND, command_class="change"), 2),
        (replace(COMMAND, command_class="read"), 1),
    ],
)
def test_a_command_needs_the_persons_of_its_class(command: Command, persons: int) -> None:
    signers = [ALICE, BOB]
    assert TRUST.verify_command(signed(COMMAND_TYPE, command, *signers[:persons]))[0] == command
    short = [ALICE, ALICE_AGAIN] if persons == 2 else [CAROL]
    with pytest.raises(ThresholdRefusedError, match=f"{persons - 1} of {persons} persons signed"):
        TRUST.verify_command(signed(COMMAND_TYPE, command, *short))


def test_an_unknown_action_is_refused_by_name() -> None:
    payload = encode(COMMAND).replace(b'"type":"restart"', b'"type":"format"')
    data = write_envelope(COMMAND_TYPE, payload, [ALICE.sign(COMMAND_TYPE, payload)])
    with pytest.raises(MalformedError, match=r"cannot read command: Invalid value 'format' - at `\$.action.type`"):
        TRUST.verify_command(data)


def test_an_overlong_command_is_refused() -> None:
    with pytest.raises(OversizeRefusedError, match=r"^cannot read command: "):
        TRUST.verify_command(write_envelope(COMMAND_TYPE, bytes(200_000), [ALICE.sign(COMMAND_TYPE, b"")]))


def test_a_signature_on_one_kind_of_document_does_not_hold_for_another() -> None:
    """The payload type is signed twice: in the pae and as the context."""
    other = ALICE.sign(DESIRED_TYPE, encode(COMMAND))
    with pytest.raises(BothHalvesRefusedError, match="signed by alice"):
        TRUST.verify_command(write_envelope(COMMAND_TYPE, encode(COMMAND), [other]))


# --- layers -----------------------------------------------------------------------------------------------------------


def test_the_owners_layer_signer_signs_layers() -> None:
    manifest, verified = TRUST.verify_manifest(signed(MANIFEST_TYPE, MANIFEST, CAROL), "example/nginx")
    assert manifest == MANIFEST
    assert verified.persons == {"carol"}


def test_the_vendors_layers_run_where_the_owner_lets_them() -> None:
    layer = replace(MANIFEST, path="vendor/base")
    assert TRUST.verify_manifest(signed(MANIFEST_TYPE, layer, VICTOR))[1].persons == {"victor"}


@pytest.mark.parametrize(
    ("trust", "path", "signer", "refusal", "reason"),
    [
        (TRUST, "example/nginx", ALICE, ThresholdRefusedError, r"0 of 1 persons of the owner signed \(none\)"),
        (TRUST, "example/nginx", VICTOR, ThresholdRefusedError, r"0 of 1 persons of the owner signed \(none\)"),
        (TRUST, "vendor/base", VERA, ThresholdRefusedError, r"owner signed \(none\); 0 of 1 persons of the vendor"),
        (TRUST, "example/nginx", MALLORY, KeyIdRefusedError, "unknown key"),
        (
            Trust(vendor=VENDOR, owner=replace(OWNER, vendor_paths=["vendor/other"])),
            "vendor/base",
            VICTOR,
            ThresholdRefusedError,
            "the owner lets no vendor layer of this path run",
        ),
        (
            Trust(vendor=VENDOR, owner=replace(OWNER, layers=[], vendor_paths=["*"])),
            "example/nginx",
            CAROL,
            PathRefusedError,
            "nobody may sign layers of path example/nginx",
        ),
        (
            Trust(
                vendor=VENDOR,
                owner=replace(
                    OWNER,
                    layers=[*OWNER.layers, LayerDelegation(paths=["bank/*"], keys=ids(CAROL, BOB), threshold=2)],
                ),
            ),
            "bank/vault",
            CAROL,
            ThresholdRefusedError,
            r"1 of 2 persons of the owner signed \(carol\)",
        ),
    ],
)
def test_a_manifest_is_refused(trust: Trust, path: str, signer: object, refusal: type[RefusedError], reason: str) -> None:
    data = signed(MANIFEST_TYPE, replace(MANIFEST, path=path), signer)  # type: ignore[arg-type] # parametrized
    with pytest.raises(refusal, match=f"^cannot accept manifest.*{reason}"):
        trust.verify_manifest(data)


def test_a_layer_in_anothers_place_is_refused() -> None:
    with pytest.raises(PathRefusedError, match="it is of layer example/nginx, expected example/other") as refusal:
        TRUST.verify_manifest(signed(MANIFEST_TYPE, MANIFEST, CAROL), "example/other")
    assert refusal.value.check == "path"


def test_a_layers_signer_never_counts_for_its_deployment() -> None:
    desired = TRUST.verify_desired(GOOD)[1]
    by_carol = TRUST.verify_manifest(signed(MANIFEST_TYPE, MANIFEST, CAROL))[1]
    by_bob = TRUST.verify_manifest(signed(MANIFEST_TYPE, MANIFEST, BOB))[1]
    by_both = TRUST.verify_manifest(signed(MANIFEST_TYPE, MANIFEST, CAROL, BOB))[1]
    TRUST.check_separation(desired, [])
    TRUST.check_separation(desired, [by_carol, by_carol])
    for manifests in ([by_bob], [by_carol, by_bob], [by_both]):
        with pytest.raises(SeparationRefusedError, match=r"own signers \(bob\) 1 of 2 persons signed") as refusal:
            TRUST.check_separation(desired, manifests)
        assert refusal.value.check == "separation"


def test_a_third_operator_makes_up_for_the_layers_signer() -> None:
    desired = TRUST.verify_desired(signed(DESIRED_TYPE, DESIRED, ALICE, BOB, key_of("dora")))[1]
    TRUST.check_separation(desired, [TRUST.verify_manifest(signed(MANIFEST_TYPE, MANIFEST, BOB))[1]])


# --- enrolment, machine, reports --------------------------------------------------------------------------------------

KEYS = MachineKeys(connection="00", identity=MALLORY.entry.public, encryption="00")
RECORD = EnrolmentRecord(
    format="milkyway.enrolment/1", fleet=FLEET, machine=MACHINE, name="web-1", keys=KEYS, token="0" * 16, issued=NOW
)
CONFIGURATION = MachineConfiguration(format="milkyway.machine/1", fleet=FLEET, hostname="web-1")


def test_an_operator_signs_an_enrolment_record() -> None:
    assert TRUST.verify_enrolment(signed(ENROLMENT_TYPE, RECORD, ALICE))[0] == RECORD
    with pytest.raises(ThresholdRefusedError, match="cannot accept enrolment record: 0 of 1 persons"):
        TRUST.verify_enrolment(signed(ENROLMENT_TYPE, RECORD, CAROL))


def test_the_owners_root_signs_a_machines_configuration() -> None:
    assert TRUST.verify_machine(signed(MACHINE_TYPE, CONFIGURATION, OLIVIA))[0] == CONFIGURATION
    with pytest.raises(ThresholdRefusedError, match="cannot accept machine configuration: 0 of 1 persons"):
        TRUST.verify_machine(signed(MACHINE_TYPE, CONFIGURATION, ALICE, BOB))


def test_a_machine_signs_alone_with_its_own_key() -> None:
    key = MALLORY.entry.key
    data = signed(REPORT_TYPE, RECORD, MALLORY)
    assert verify_by_key(data, key, REPORT_TYPE, EnrolmentRecord, what="report")[0] == RECORD
    for other, reason in (
        (signed(REPORT_TYPE, RECORD, ALICE), "it is not signed by key"),
        (signed(REPORT_TYPE, RECORD, MALLORY, ALICE), "it is not signed by key"),
        (signed(DESIRED_TYPE, RECORD, MALLORY), "payload type"),
        (forged(data, 0, bytes(3373)), "both halves are wrong"),
    ):
        with pytest.raises(RefusedError, match=reason):
            verify_by_key(other, key, REPORT_TYPE, EnrolmentRecord, what="report")


# --- roots ------------------------------------------------------------------------------------------------------------

PETRA = key_of("petra")
NEXT = replace(OWNER, version=2, keys=[*OWNER.keys, PETRA.entry], root=Role(keys=ids(PETRA)))


def test_a_root_is_signed_by_its_own_role() -> None:
    assert verify_root(signed(ROOT_TYPE, OWNER, OLIVIA))[0] == OWNER
    with pytest.raises(ThresholdRefusedError, match="cannot accept owner root: 0 of 1 persons"):
        verify_root(signed(ROOT_TYPE, OWNER, ALICE))
    with pytest.raises(EnvelopeRefusedError, match="payload type"):
        verify_root(signed(DESIRED_TYPE, OWNER, OLIVIA))
    with pytest.raises(RootRefusedError, match="no fleet"):
        verify_root(signed(ROOT_TYPE, replace(OWNER, fleet=None), OLIVIA))


def test_a_root_follows_when_the_old_and_the_new_role_signed() -> None:
    root, verified = verify_root(signed(ROOT_TYPE, NEXT, OLIVIA, PETRA), OWNER)
    assert root == NEXT
    assert verified.persons == {"olivia", "petra"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (signed(ROOT_TYPE, NEXT, PETRA), "owner root by its predecessor's role: 0 of 1 persons"),
        (signed(ROOT_TYPE, NEXT, OLIVIA), "cannot accept owner root: 0 of 1 persons"),
        (signed(ROOT_TYPE, replace(NEXT, version=1), OLIVIA, PETRA), "version 1, expected 2"),
        (signed(ROOT_TYPE, replace(NEXT, version=3), OLIVIA, PETRA), "version 3, expected 2"),
        (signed(ROOT_TYPE, replace(NEXT, fleet="other"), OLIVIA, PETRA), "not of the same side and fleet"),
        (signed(ROOT_TYPE, NEXT, OLIVIA, PETRA, MALLORY), "unknown key"),
    ],
)
def test_a_root_does_not_follow(data: bytes, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        verify_root(data, OWNER)


def test_trust_wants_each_root_in_its_place() -> None:
    vendor, owner = signed(ROOT_TYPE, VENDOR, VERA), signed(ROOT_TYPE, OWNER, OLIVIA)
    assert Trust.from_envelopes(vendor=vendor, owner=owner) == TRUST
    with pytest.raises(RootRefusedError, match="cannot use vendor root: it is the owner's"):
        Trust.from_envelopes(vendor=owner, owner=vendor)
    with pytest.raises(RootRefusedError, match="shares a half"):
        Trust(vendor=replace(VENDOR, keys=[*VENDOR.keys, ALICE.entry]), owner=OWNER)
