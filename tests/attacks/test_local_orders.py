"""Orders without operators: only root on a machine whose owner says ``local: change`` may give them."""

import pytest
from msgspec.structs import replace

from milkyway_agent.ipc.messages import Begun, DesiredAdmitted, LayerVerified, RefusalNoted, Refused
from milkyway_agent.verifier.answers import Outgoing
from milkyway_agent.verifier.machine_keys import identity_key
from milkyway_agent.verifier.trust_state import TrustStore
from milkyway_formats.codec import decode, encode
from milkyway_formats.command import LONGEST_LIFE_SECONDS
from milkyway_formats.desired import DESIRED_TYPE
from milkyway_formats.envelope import Envelope, payload_of, write_envelope
from milkyway_formats.report import REPORT_TYPE
from milkyway_formats.root import ROOT_TYPE
from tests.fakes.layer_files import make_layer
from tests.fakes.people import ALICE, MALLORY, NOW, OLIVIA, OWNER, signed
from tests.fakes.power_cut_disk import PowerCutDisk
from tests.fakes.verifier_site import Site, deployment, to_pid1, unsigned

NGINX = make_layer()
CHANGE = replace(OWNER, local="change")
DAY = LONGEST_LIFE_SECONDS["change"]


def owned(local: str, number: int = 0) -> Site:
    """Return a machine that has begun under an owner's root that says *local*; its keys depend on *number*."""
    site = Site()
    site.chance(number + 1)
    site.secure.files["owner-root.json"] = signed(ROOT_TYPE, replace(OWNER, local=local), OLIVIA)
    site.begin()
    return site


@pytest.fixture
def site() -> Site:
    return owned("change")


def admitted(outgoing: list[Outgoing]) -> list[int]:
    return [message.desired.version for message in to_pid1(outgoing, DesiredAdmitted)]


def refusal(outgoing: list[Outgoing]) -> Refused:
    assert len(outgoing) == 1, outgoing
    [refused] = to_pid1(outgoing, Refused)
    return refused


def kept(site: Site) -> tuple[str, bytes]:
    """Return name and content of the document on the machine's disk."""
    [name] = [name for name in site.trust.files if name.startswith("desired.")]
    return name, site.trust.files[name]


def sign_as(site: Site, payload_type: str, payload: bytes) -> bytes:
    """Return an envelope signed with the identity key of *site*'s machine, as a thief of the key could make it."""
    secrets = TrustStore.open(PowerCutDisk(site.trust.files), site.chance).secrets
    return write_envelope(payload_type, payload, [identity_key(secrets).sign_payload(payload_type, payload)])


def plant(site: Site, envelope: bytes) -> None:
    """Write *envelope* over the kept document, as anyone who has the disk can."""
    site.trust.files[kept(site)[0]] = envelope


# --- what the policy gives --------------------------------------------------------------------------------------------


def test_root_applies_what_no_operator_signed_and_the_machine_boots_with_it(site: Site) -> None:
    draft = site.draft(1, deployments=[deployment(NGINX)])
    [answer] = to_pid1(site.apply_as_root(draft), DesiredAdmitted)
    [signature] = decode(kept(site)[1], Envelope).signatures
    assert signature.keyid == site.machine, "what is on the disk is signed anew"
    site.now += 30 * DAY
    [again] = to_pid1(site.begin(), DesiredAdmitted)
    assert (again.id, again.desired) == (answer.id, answer.desired)
    assert admitted(site.apply_as_root(site.draft(2))) == [2]
    assert admitted(site.push(site.desired(3))) == [3], "operators can still command it"


def test_the_verifiers_first_message_shows_the_policy(site: Site) -> None:
    for machine, local in ((site, "change"), (owned("read"), "read")):
        [begun] = to_pid1(machine.begin(), Begun)
        assert [(root.side, root.local) for root in begun.roots] == [("vendor", "read"), ("owner", local)]


def test_a_layer_still_needs_its_own_signatures(site: Site) -> None:
    strange = make_layer("example/nginx", MALLORY)
    assert admitted(site.apply_as_root(site.draft(1, deployments=[deployment(NGINX)]))) == [1]
    assert to_pid1(site.verify(NGINX.data, NGINX.sha256), LayerVerified)
    assert admitted(site.apply_as_root(site.draft(2, deployments=[deployment(strange)]))) == [2]
    assert "unknown key" in refusal(site.verify(strange.data, strange.sha256)).message


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"fleet": "other"}, "fleet"),
        ({"machine": "b" * 64}, "target"),
        ({"expires": NOW + DAY + 1}, "life"),
        ({"not_before": NOW + 60}, "not-before"),
        ({"issued": NOW - 60, "not_before": NOW - 60, "expires": NOW}, "expiry"),
        ({"version": 3}, "version"),
        ({"version": 2, "rollback": True, "issued": NOW - 5, "not_before": NOW - 5}, "version"),
        ({"deployments": [deployment(NGINX), deployment(NGINX)]}, "arguments"),
    ],
)
def test_every_other_check_still_applies(site: Site, changes: dict[str, object], check: str) -> None:
    assert admitted(site.apply_as_root(site.draft(3))) == [3]
    assert refusal(site.apply_as_root(unsigned(site.desired(**{"version": 4, **changes})))).check == check  # type: ignore[arg-type]
    assert admitted(site.begin()) == [3]


def test_a_clock_that_is_far_ahead_does_no_harm_later(site: Site) -> None:
    """A local order is dated by the machine's own clock: it raises no minimum time, so operators can still command."""
    site.now += 3650 * DAY // 20
    assert admitted(site.apply_as_root(site.draft(1))) == [1]
    site.now = NOW + 60
    site.begin()
    assert admitted(site.push(site.desired(2))) == [2]


# --- what it does not give --------------------------------------------------------------------------------------------


def test_without_the_policy_root_is_refused_and_told_what_to_do() -> None:
    """Even if PID 1 says that root may: the verifier consults the root document that it has verified itself."""
    site = owned("read")
    for outgoing in (site.apply_as_root(site.draft()), site.apply(site.draft())):
        refused = refusal(outgoing)
        assert refused.check == "local"
        assert refused.message == (
            "cannot accept desired state: no operator signed it, and the owner's policy does not let root at the machine"
            " change it"
        )
        assert refused.hint == "have it signed (`milkyway fleet sign FILE`), or let the owner's next root say `local: change`"
    assert admitted(site.begin()) == []


def test_a_user_other_than_root_is_refused(site: Site) -> None:
    refused = refusal(site.apply(site.draft()))
    assert (refused.check, refused.message) == (
        "peer",
        "cannot accept desired state: no operator signed it, and the caller is not root",
    )
    assert admitted(site.begin()) == []


def test_an_unsigned_document_from_the_network_is_refused(site: Site) -> None:
    outgoing = site.push(site.draft())
    [note] = to_pid1(outgoing, RefusalNoted)
    assert (len(outgoing), note.message) == (1, "cannot read order: it is not signed")
    assert admitted(site.begin()) == []


def test_an_unsigned_command_is_refused(site: Site) -> None:
    refused = refusal(site.apply_as_root(unsigned(site.command())))
    assert (refused.check, refused.message) == ("envelope", "cannot accept order: it is not signed, and not a desired state")


def test_a_signed_document_is_judged_by_its_signatures(site: Site) -> None:
    assert "1 of 2 persons signed (alice)" in refusal(site.apply_as_root(site.desired(1, ALICE))).message
    assert "unknown key" in refusal(site.apply_as_root(site.desired(1, MALLORY))).message


def test_a_control_server_that_sends_the_machines_own_document_back_does_nothing(site: Site) -> None:
    site.apply_as_root(site.draft(1, deployments=[deployment(NGINX)]))
    old = kept(site)[1]
    site.apply_as_root(site.draft(2))
    for envelope in (old, kept(site)[1]):
        [note] = to_pid1(site.push(envelope), RefusalNoted)
        assert "unknown key" in note.message
        assert "unknown key" in refusal(site.apply_as_root(envelope)).message
    assert admitted(site.begin()) == [2]


def test_a_document_that_another_machine_signed_is_refused(site: Site) -> None:
    """From the network, by hand, and on the disk, even if it names this machine."""
    other = owned("change", 1000)
    assert other.machine != site.machine
    site.apply_as_root(site.draft(1))
    payload = payload_of(decode(site.draft(2, deployments=[deployment(NGINX)]), Envelope))
    foreign = sign_as(other, DESIRED_TYPE, payload)
    assert "unknown key" in to_pid1(site.push(foreign), RefusalNoted)[0].message
    assert "unknown key" in refusal(site.apply_as_root(foreign)).message
    plant(site, foreign)
    outgoing = site.begin()
    assert admitted(outgoing) == []
    assert "unknown key" in to_pid1(outgoing, RefusalNoted)[0].message


def test_a_signature_that_claims_this_machines_key_must_be_made_with_it(site: Site) -> None:
    site.apply_as_root(site.draft(1))
    document = decode(kept(site)[1], Envelope)
    changed = payload_of(decode(site.draft(1, deployments=[deployment(NGINX)]), Envelope))
    plant(site, write_envelope(DESIRED_TYPE, changed, document.signatures))
    outgoing = site.begin()
    assert admitted(outgoing) == []
    assert "both halves are wrong" in to_pid1(outgoing, RefusalNoted)[0].message


def test_a_report_of_the_machine_is_no_order(site: Site) -> None:
    """The signature covers the payload type: the same key signs both kinds, and neither passes for the other."""
    site.apply_as_root(site.draft(1))
    payload = payload_of(decode(site.draft(2, deployments=[deployment(NGINX)]), Envelope))
    report = decode(sign_as(site, REPORT_TYPE, payload), Envelope)
    for payload_type in (REPORT_TYPE, DESIRED_TYPE):
        plant(site, encode(replace(report, payload_type=payload_type)))
        assert admitted(site.begin()) == []


def test_an_older_document_of_the_machine_is_not_resumed(site: Site) -> None:
    """Somebody with the disk puts back what was in force before: the state names the newer document by its digest."""
    site.apply_as_root(site.draft(1, deployments=[deployment(NGINX)]))
    old = kept(site)[1]
    site.apply_as_root(site.draft(2))
    plant(site, old)
    assert admitted(site.begin()) == []


def test_when_the_next_root_withdraws_the_policy_nothing_is_resumed_and_the_reason_is_given(site: Site) -> None:
    site.apply_as_root(site.draft(4, deployments=[deployment(NGINX)]))
    site.secure.files["owner-root.json"] = signed(ROOT_TYPE, replace(OWNER, version=2), OLIVIA)
    outgoing = site.begin()
    assert admitted(outgoing) == []
    assert [note.message for note in to_pid1(outgoing, RefusalNoted)] == [
        "cannot resume desired state 4: no operator signed it, and the owner's policy does not let root at the machine"
        " change it",
        "cannot resume the desired state: its document is missing or no longer signed by enough persons",
    ]
    assert refusal(site.apply_as_root(site.draft(5))).check == "local"
    assert admitted(site.push(site.desired(5))) == [5], "operators bring the machine back"
    assert admitted(site.begin()) == [5]


def test_when_the_policy_comes_back_the_document_is_resumed(site: Site) -> None:
    site.apply_as_root(site.draft(4))
    site.secure.files["owner-root.json"] = signed(ROOT_TYPE, replace(OWNER, version=2), OLIVIA)
    assert admitted(site.begin()) == []
    site.secure.files["owner-root.json"] = signed(ROOT_TYPE, replace(CHANGE, version=3), OLIVIA)
    assert admitted(site.begin()) == [4]
