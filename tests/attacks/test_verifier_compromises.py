"""Rows of the table "what a compromise yields" in which the verifier is the barrier: what a compromised part cannot do."""

import hashlib

import pytest
from msgspec.structs import replace

from milkyway_agent.ipc.messages import (
    Begun,
    CommandAdmitted,
    Connect,
    DesiredAdmitted,
    Enrolled,
    Fetched,
    LayerVerified,
    RefusalNoted,
    Refused,
)
from milkyway_agent.verifier.answers import Arrival, Outgoing
from milkyway_formats.codec import decode, encode
from milkyway_formats.command import COMMAND_TYPE, PowerOff
from milkyway_formats.desired import DESIRED_TYPE
from milkyway_formats.enrolment import EnrolmentReply, EnrolmentRequest
from milkyway_formats.envelope import Envelope, payload_of, write_envelope
from milkyway_formats.report import REPORT_TYPE
from milkyway_signing.signer import sign_envelope
from tests.fakes.layer_files import MemoryLayer, make_layer
from tests.fakes.people import ALICE, BOB, CAROL, DORA, MALLORY, VICTOR
from tests.fakes.verifier_site import Site, deployment, for_uplink, to_pid1

NGINX = make_layer()


@pytest.fixture
def site() -> Site:
    site = Site()
    site.begin()
    return site


def yields_nothing(outgoing: list[Outgoing], words: str) -> None:
    """Check that PID 1 is told of a refusal in these *words*, and of nothing else."""
    told: list[RefusalNoted | Refused] = [*to_pid1(outgoing, RefusalNoted), *to_pid1(outgoing, Refused)]
    assert len(outgoing) == len(told) == 1, outgoing
    assert words in told[0].message, told[0].message


# --- the control server, its database, the machine CA, the network, the uplink ----------------------------------------


def test_a_control_server_cannot_write_an_order_of_its_own(site: Site) -> None:
    payload = payload_of(decode(site.desired(9, deployments=[deployment(NGINX)]), Envelope))
    yields_nothing(site.push(sign_envelope(DESIRED_TYPE, payload, [MALLORY])), "unknown key")
    yields_nothing(site.push(write_envelope(DESIRED_TYPE, payload, [])), "it is not signed")


def test_a_control_server_cannot_change_a_byte_of_what_it_relays(site: Site) -> None:
    envelope = site.desired(1, deployments=[deployment(NGINX)])
    document = decode(envelope, Envelope)
    payload = payload_of(document)
    for position in range(0, len(payload), 41):
        changed = payload[:position] + bytes([payload[position] ^ 1]) + payload[position + 1 :]
        yields_nothing(site.push(write_envelope(DESIRED_TYPE, changed, document.signatures)), "both halves are wrong")
    assert to_pid1(site.push(envelope), DesiredAdmitted)


def test_a_control_server_cannot_pass_one_kind_of_document_for_another(site: Site) -> None:
    """The signature covers the payload type: a command's signatures do not count for a desired state."""
    document = decode(site.command(1, ALICE, BOB), Envelope)
    for other in (DESIRED_TYPE, REPORT_TYPE):
        outgoing = site.push(write_envelope(other, payload_of(document), document.signatures))
        assert to_pid1(outgoing, RefusalNoted)
        assert not to_pid1(outgoing, CommandAdmitted)


def test_a_control_server_cannot_replay_reorder_or_drop_commands_unseen(site: Site) -> None:
    first, second, third = (site.command(number) for number in (1, 2, 3))
    yields_nothing(site.push(second), "came before number 1")
    assert to_pid1(site.push(first), CommandAdmitted)
    yields_nothing(site.push(first), "was used")
    yields_nothing(site.push(third), "came before number 2")
    site.begin()
    yields_nothing(site.push(first), "was used")


def test_a_control_server_cannot_bring_back_an_older_desired_state(site: Site) -> None:
    old, new = site.desired(1), site.desired(2)
    site.push(old)
    site.push(new)
    yields_nothing(site.push(old), "version 2 was accepted")


def test_a_control_server_cannot_delay_an_order_past_its_life(site: Site) -> None:
    envelope = site.command(1)
    site.boottime += 600
    yields_nothing(site.push(envelope), "expired")


def test_a_control_server_cannot_aim_an_order_at_another_machine(site: Site) -> None:
    other = Site()
    other.chance(1000)
    other.begin()
    assert other.machine != site.machine
    yields_nothing(other.push(site.command(1)), "it is not for this machine")
    yields_nothing(other.push(site.desired(1)), "it is for machine")


def test_a_control_server_cannot_enrol_a_machine_by_itself() -> None:
    site = Site()
    [connect] = for_uplink(site.begin(), Connect)
    decode(connect.enrolment.encode(), EnrolmentRequest)
    reply = EnrolmentReply(format="milkyway.enrolment-reply/1", certificate="made by its CA", record="{}")
    yields_nothing(site.verifier.enrolled(Enrolled(reply=encode(reply).decode())), "cannot read envelope of enrolment record")


def test_an_uplink_cannot_pass_a_changed_layer(site: Site) -> None:
    """It reports the file as filled, but has filled it with another layer, even a well-signed one."""
    other = make_layer(content=b"an older build with a hole")
    for data in (other.data, NGINX.data[:-1] + b"\1", b"\0" * len(NGINX.data)):
        site.fetch(NGINX, MemoryLayer(data))
        arrival = site.verifier.fetched(Fetched(request=site.requests))
        assert isinstance(arrival, Arrival)
        found = hashlib.sha256(data).hexdigest()
        yields_nothing(site.verifier.arrived(arrival, found, site.boottime), ", expected ")


def test_an_uplink_cannot_answer_twice(site: Site) -> None:
    site.fetch(NGINX, MemoryLayer(NGINX.data))
    assert isinstance(site.verifier.fetched(Fetched(request=site.requests)), Arrival)
    again = site.verifier.fetched(Fetched(request=site.requests))
    assert isinstance(again, list)
    yields_nothing(again, "it was not asked for")


# --- one operator, one layer key --------------------------------------------------------------------------------------


def test_a_single_operator_cannot_bring_in_or_activate_code(site: Site) -> None:
    yields_nothing(site.push(site.desired(1, ALICE, deployments=[deployment(NGINX)])), "1 of 2 persons signed")


def test_a_single_operator_cannot_switch_a_machine_off(site: Site) -> None:
    deep = {"command_class": "deep", "action": PowerOff()}
    yields_nothing(site.push(site.command(1, ALICE, **deep)), "1 of 2 persons signed")
    yields_nothing(site.push(site.command(1, ALICE, action=PowerOff())), "its action is of class deep")


def test_an_operator_cannot_use_anothers_narrower_key(site: Site) -> None:
    """Dora may read and restart: her signature does not count as the second one for a change."""
    yields_nothing(site.push(site.desired(1, ALICE, DORA)), "1 of 2 persons may sign class change (dora may not)")


def test_a_layer_key_cannot_deploy_its_layer(site: Site) -> None:
    evil = make_layer("example/nginx", CAROL, content=b"evil")
    payload = payload_of(decode(site.desired(1, deployments=[deployment(evil)]), Envelope))
    yields_nothing(site.push(sign_envelope(DESIRED_TYPE, payload, [CAROL])), "0 of 2 persons signed")
    assert not to_pid1(site.begin(), DesiredAdmitted)


def test_a_vendors_key_cannot_command_the_fleet_or_take_the_owners_paths(site: Site) -> None:
    payload = payload_of(decode(site.command(1), Envelope))
    yields_nothing(site.push(sign_envelope(COMMAND_TYPE, payload, [VICTOR])), "unknown key")
    evil = make_layer("example/nginx", VICTOR)
    yields_nothing(site.verify(evil.data, evil.sha256), "0 of 1 persons of the owner signed")


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_an_old_copy_of_the_secure_configuration_changes_no_owner(site: Site) -> None:
    """Writing the partition can only deny service; the machine's trust is on the other disk."""
    for content in (b"", b"{}", make_layer().data):
        site.secure.files["owner-root.json"] = content
        [begun] = to_pid1(site.begin(), Begun)
        assert (begun.quarantined, begun.roots[1].version) == ("", 1)


def test_a_layer_store_cannot_change_what_is_installed(site: Site) -> None:
    evil = make_layer(content=b"evil")
    site.push(site.desired(1, deployments=[deployment(NGINX)]))
    message = site.verify(NGINX.data, NGINX.sha256)
    assert to_pid1(message, LayerVerified)
    swapped = replace(NGINX.pin, size=len(evil.data))
    yields_nothing(site.verify(evil.data, NGINX.sha256, swapped.size), "path, version or root hash differ")
