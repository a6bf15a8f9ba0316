"""Orders: each is admitted once, persisted before it is answered, and refused in the words of the check that failed."""

import base64

import pytest

from milkyway_agent.ipc.messages import CommandAdmitted, DesiredAdmitted, RefusalNoted, Refused, Unavailable
from milkyway_agent.verifier.answers import Outgoing
from milkyway_formats.codec import decode, encode
from milkyway_formats.command import COMMAND_TYPE, PowerOff
from milkyway_formats.desired import DESIRED_TYPE
from milkyway_formats.envelope import Envelope, Signature, payload_of
from milkyway_formats.hybrid import MLDSA_SIGNATURE_BYTES
from milkyway_formats.manifest import MANIFEST_TYPE
from milkyway_signing.key_file import FileSigner
from milkyway_signing.signer import sign_envelope
from tests.fakes.layer_files import make_layer
from tests.fakes.people import ALICE, ALICE_AGAIN, BOB, CAROL, DORA, MALLORY, signed
from tests.fakes.power_cut_disk import PowerCutDisk
from tests.fakes.verifier_site import COREOS, Site, deployment, to_pid1


@pytest.fixture
def site() -> Site:
    site = Site()
    site.begin()
    return site


def refusal(outgoing: list[Outgoing]) -> tuple[str, str]:
    """Return check and message of the one refusal that was answered."""
    assert len(outgoing) == 1
    [refused] = to_pid1(outgoing, Refused)
    return refused.check, refused.message


def change_signature(envelope: bytes, index: int, half: slice) -> bytes:
    """Return *envelope* with one bit of a half of one signature flipped."""
    document = decode(envelope, Envelope)
    signatures = list(document.signatures)
    raw = bytearray(base64.b64decode(signatures[index].sig))
    raw[half.indices(len(raw))[0]] ^= 1
    signatures[index] = Signature(keyid=signatures[index].keyid, sig=base64.b64encode(raw).decode())
    return encode(Envelope(payload=document.payload, payload_type=document.payload_type, signatures=signatures))


def test_a_desired_state_is_admitted_and_kept(site: Site) -> None:
    [answer] = to_pid1(site.apply(site.desired(1)), DesiredAdmitted)
    assert (answer.request, answer.desired.version) == (site.requests, 1)
    [again] = to_pid1(site.begin(), DesiredAdmitted)
    assert (again.id, again.desired) == (answer.id, answer.desired)


def test_a_command_is_admitted_once_whatever_restarts_between(site: Site) -> None:
    envelope = site.command(1, ALICE)
    [answer] = to_pid1(site.push(envelope), CommandAdmitted)
    assert (answer.request, answer.signers) == (0, ["alice"])
    site.begin()
    assert refusal(site.apply(envelope)) == (
        "replay",
        f"cannot accept command {0:016x}: number 1 of stream alice was used, the last is 1",
    )
    [note] = to_pid1(site.push(envelope), RefusalNoted)
    assert note.check == "replay"
    assert to_pid1(site.apply(site.command(2)), CommandAdmitted)


@pytest.mark.parametrize(
    ("changes", "signers", "check", "words"),
    [
        ({"machine": "b" * 64}, (ALICE, BOB), "target", "it is for machine bbbb"),
        ({"fleet": "other"}, (ALICE, BOB), "fleet", "it is for fleet other, this is demo"),
        ({}, (ALICE,), "threshold", "1 of 2 persons signed (alice)"),
        ({}, (ALICE, ALICE_AGAIN), "threshold", "1 of 2 persons signed (alice)"),
        ({}, (ALICE, CAROL), "threshold", "carol does not count for it"),
        ({}, (ALICE, MALLORY), "key-ids", "unknown key"),
        ({}, (ALICE, ALICE), "key-ids", "two signatures by key"),
        ({"rollback": True, "issued": 1}, (ALICE, BOB), "life", "it lives"),
    ],
)
def test_a_desired_state_is_refused(
    site: Site, changes: dict[str, object], signers: tuple[FileSigner, ...], check: str, words: str
) -> None:
    found, message = refusal(site.apply(site.desired(1, *signers, **changes)))
    assert (found, words in message) == (check, True), message


def test_a_lower_version_is_refused_unless_it_is_signed_as_a_rollback(site: Site) -> None:
    site.apply(site.desired(5))
    assert refusal(site.apply(site.desired(4)))[0] == "version"
    assert refusal(site.apply(site.desired(5)))[0] == "version"
    site.now += 1
    rollback = site.desired(4, rollback=True)
    [answer] = to_pid1(site.apply(rollback), DesiredAdmitted)
    assert answer.desired.version == 4
    site.begin()
    assert refusal(site.apply(rollback))[0] == "version", "a rollback is no key to come back with"
    assert to_pid1(site.apply(site.desired(6)), DesiredAdmitted)


def test_the_document_in_force_sent_once_more_by_the_network_is_no_news(site: Site) -> None:
    envelope = site.desired(1)
    assert to_pid1(site.push(envelope), DesiredAdmitted)
    assert site.push(envelope) == []
    [note] = to_pid1(site.push(site.desired(1, expires=site.now + 60)), RefusalNoted)
    assert note.check == "version", "another document of that version is none"


@pytest.mark.parametrize(
    ("changes", "signers", "check"),
    [
        ({"expires": 1_900_000_000, "not_before": 1_899_999_990, "issued": 1_899_999_990}, (ALICE,), "expiry"),
        ({"not_before": 1_900_000_060}, (ALICE,), "not-before"),
        ({"machines": ["b" * 64]}, (ALICE,), "target"),
        ({"expect": "d" * 64}, (ALICE,), "expected-state"),
        ({"action": PowerOff()}, (ALICE,), "permission"),
        ({"command_class": "deep", "action": PowerOff()}, (ALICE,), "threshold"),
        ({"command_class": "deep", "action": PowerOff()}, (ALICE, DORA), "permission"),
        ({"expires": 1_900_000_000 + 40 * 24 * 3600}, (ALICE,), "life"),
    ],
)
def test_a_command_is_refused(site: Site, changes: dict[str, object], signers: tuple[FileSigner, ...], check: str) -> None:
    assert refusal(site.apply(site.command(1, *signers, **changes)))[0] == check
    assert to_pid1(site.apply(site.command(1, expect=COREOS)), CommandAdmitted), "what was refused used up no number"


def test_a_command_before_which_one_is_missing_waits_for_it(site: Site) -> None:
    site.apply(site.command(1))
    assert refusal(site.apply(site.command(3))) == (
        "gap",
        f"cannot accept command {0:016x}: number 3 of stream alice came before number 2",
    )
    assert to_pid1(site.apply(site.command(2)), CommandAdmitted)
    assert to_pid1(site.apply(site.command(3)), CommandAdmitted)


@pytest.mark.parametrize(
    ("half", "words"),
    [
        (slice(0, MLDSA_SIGNATURE_BYTES), "the ML-DSA-65 half is wrong"),
        (slice(MLDSA_SIGNATURE_BYTES, None), "the Ed25519 half is wrong"),
    ],
)
@pytest.mark.parametrize("index", [0, 1])
def test_one_half_alone_is_not_a_signature(site: Site, half: slice, words: str, index: int) -> None:
    check, message = refusal(site.apply(change_signature(site.desired(1), index, half)))
    assert check == "halves"
    assert words in message


def test_what_is_no_order_is_refused(site: Site) -> None:
    assert refusal(site.apply(b""))[0] == "envelope"
    assert refusal(site.apply(b"x" * 10_000_000))[0] == "size"
    assert refusal(site.apply(signed(MANIFEST_TYPE, make_layer().manifest, CAROL))) == (
        "envelope",
        f"cannot accept order: '{MANIFEST_TYPE}' is neither a desired state nor a command",
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"version":1', b'"version":1,"version":1', "duplicate key 'version'"),
        (b'"version":1', b'"version":1,"more":1', "unknown field `more`"),
        (b'"version":1', b'"version":-1', "Expected `int` >= 1"),
        (b'"version":1', b'"version": 1', "not in canonical form"),
    ],
)
def test_a_payload_in_another_form_is_refused_even_when_it_is_well_signed(
    site: Site, old: bytes, new: bytes, words: str
) -> None:
    payload = payload_of(decode(site.desired(1), Envelope))
    assert old in payload
    check, message = refusal(site.apply(sign_envelope(DESIRED_TYPE, payload.replace(old, new), [ALICE, BOB])))
    assert (check, words in message) == ("form", True), message


def test_an_unknown_action_is_refused(site: Site) -> None:
    payload = payload_of(decode(site.command(1), Envelope)).replace(b'"type":"restart"', b'"type":"run"')
    check, message = refusal(site.apply(sign_envelope(COMMAND_TYPE, payload, [ALICE])))
    assert (check, "Invalid value 'run'" in message) == ("form", True), message


# --- time -------------------------------------------------------------------------------------------------------------


def test_time_runs_on_between_messages(site: Site) -> None:
    """The uplink brings no time of its own: what has passed since PID 1's last word counts."""
    envelope = site.command(1)
    site.boottime += 601
    [note] = to_pid1(site.push(envelope), RefusalNoted)
    assert note.check == "expiry"


def test_a_clock_that_goes_back_does_not_revive_what_has_expired(site: Site) -> None:
    """Only signed times hold the floor: after an order of now, an order of an hour ago is expired whatever the RTC says."""
    old = site.command(1, expires=site.now + 60)
    site.now += 3600
    site.apply(site.desired(1))
    site.now -= 3600
    site.begin()
    assert refusal(site.apply(old))[0] == "expiry"


def test_a_clock_that_is_far_ahead_leaves_no_trace(site: Site) -> None:
    site.now += 100 * 365 * 24 * 3600
    site.begin()
    site.apply(b"{}")
    site.now -= 100 * 365 * 24 * 3600
    site.begin()
    assert to_pid1(site.apply(site.command(1)), CommandAdmitted)


# --- the power goes ---------------------------------------------------------------------------------------------------


def test_a_power_cut_while_a_command_is_admitted_leaves_it_admitted_at_most_once(site: Site) -> None:
    """At every byte: the next boot begins in order, and the command is either still to come or used, never twice."""
    envelope = site.command(1)
    before = site.trust.noted
    site.push(envelope)
    outcomes = set()
    for disk in states(site.trust, before):
        boot = Site(trust=disk)
        answers = boot.begin()
        assert not to_pid1(answers, RefusalNoted)
        outcomes.add(tuple(type(one.message).__name__ for one in boot.push(envelope)))
        assert to_pid1(boot.push(envelope), RefusalNoted)[0].check == "replay"
    assert outcomes == {("CommandAdmitted",), ("RefusalNoted",)}


def test_a_power_cut_while_a_desired_state_is_admitted_leaves_the_old_or_the_new(site: Site) -> None:
    site.apply(site.desired(1))
    before = site.trust.noted
    site.apply(site.desired(2))
    versions = set()
    for disk in states(site.trust, before):
        outgoing = Site(trust=disk).begin()
        assert not to_pid1(outgoing, RefusalNoted)
        versions.add(to_pid1(outgoing, DesiredAdmitted)[0].desired.version)
    assert versions == {1, 2}


def test_once_answered_no_power_cut_takes_it_back(site: Site) -> None:
    envelope = site.command(1)
    site.push(envelope)
    for disk in states(site.trust, site.trust.noted - 1):
        boot = Site(trust=disk)
        boot.begin()
        assert to_pid1(boot.push(envelope), RefusalNoted)[0].check == "replay"


def test_a_power_cut_during_the_first_boot_is_a_first_boot_again_or_done() -> None:
    site = Site()
    site.begin()
    for disk in states(site.trust, 0):
        boot = Site(trust=disk)
        assert not to_pid1(boot.begin(), RefusalNoted)
        assert boot.verifier._standing.quarantined == ""  # type: ignore[union-attr]


def states(disk: PowerCutDisk, skip: int) -> list[PowerCutDisk]:
    """Return the different disks that a cut may leave."""
    found = {hash(tuple(sorted(left.files.items()))): left for left in disk.after_a_cut(skip=skip)}
    return list(found.values())


class FullDisk(PowerCutDisk):
    """A disk without room once it is told to be full."""

    full = False

    def write(self, name: str, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(name, data)


def test_what_cannot_be_persisted_is_not_admitted() -> None:
    disk = FullDisk()
    site = Site(trust=disk)
    site.begin()
    envelope = site.command(1)
    disk.full = True
    [answer] = to_pid1(site.apply(envelope), Unavailable)
    assert answer.message == "cannot persist the state of the trust state: No space left on device"
    [note] = to_pid1(site.push(site.desired(1)), RefusalNoted)
    assert note.check == "unavailable"
    disk.full = False
    assert to_pid1(site.apply(envelope), CommandAdmitted), "it was never carried out, so it still may be"


def test_two_deployments_of_one_id_are_refused(site: Site) -> None:
    layer = make_layer()
    both = [deployment(layer), deployment(layer, name="other")]
    assert refusal(site.apply(site.desired(1, deployments=both)))[0] == "arguments"
