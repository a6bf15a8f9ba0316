"""A beginning reads and verifies everything anew; what is lost is never taken for a first boot."""

import pytest
from msgspec.structs import replace

from milkyway_agent.ipc.messages import Begun, Connect, DesiredAdmitted, RefusalNoted, Refused
from milkyway_formats.codec import decode
from milkyway_formats.enrolment import MACHINE_TYPE, EnrolmentRequest
from milkyway_formats.root import ROOT_TYPE
from tests.fakes.people import ALICE, FLEET, MALLORY, NOW, OLIVIA, OWNER, VENDOR, VERA, key_of, signed
from tests.fakes.power_cut_disk import PowerCutDisk
from tests.fakes.verifier_site import CONFIGURATION, OWNER_ROOT, Site, for_uplink, to_pid1

NEXT_OWNER = replace(OWNER, version=2, issued=NOW + 5)


def begun(site: Site) -> tuple[Begun, list[str]]:
    """Begin; return the answer and the refusals that were noted."""
    outgoing = site.begin()
    return to_pid1(outgoing, Begun)[0], [note.message for note in to_pid1(outgoing, RefusalNoted)]


def test_a_first_boot_makes_keys_pins_the_owner_and_asks_for_enrolment() -> None:
    site = Site()
    outgoing = site.begin()
    answer = to_pid1(outgoing, Begun)[0]
    assert (answer.machine, answer.quarantined) == (site.machine, "")
    assert [(root.side, root.version) for root in answer.roots] == [("vendor", 1), ("owner", 1)]
    assert answer.roots[1].thresholds["change"] == 2
    assert answer.configuration == replace(CONFIGURATION, token=""), "PID 1 has no use for the token"
    assert not to_pid1(outgoing, RefusalNoted)
    connect = for_uplink(outgoing, Connect)[0]
    assert (connect.host, connect.port, connect.certificate) == ("control.example", 8443, "")
    assert decode(connect.enrolment.encode(), EnrolmentRequest).keys == site.keys()


def test_the_next_boot_is_the_same_machine() -> None:
    site = Site()
    first, _ = begun(site)
    second, notes = begun(site)
    assert second.machine == first.machine
    assert notes == []


def test_the_secrets_are_on_no_message_but_the_uplinks_own_key() -> None:
    site = Site()
    outgoing = site.begin()
    secrets = site.verifier._standing.store.secrets  # type: ignore[union-attr]  # nobody else may know them
    said = repr(outgoing)
    assert secrets.identity not in said
    assert secrets.x25519 not in said
    assert "PRIVATE KEY" in for_uplink(outgoing, Connect)[0].private_key


@pytest.mark.parametrize("lost", ["state", "keys", "enrolment"])
@pytest.mark.parametrize("how", ["missing", "torn"])
def test_what_is_lost_is_not_a_first_boot(lost: str, how: str) -> None:
    """Both copies gone or damaged: quarantine, at this boot and every later one, and nothing on the disk is touched."""
    site = Site()
    site.begin()
    site.verifier._standing.store.save_enrolment("record", "certificate")  # type: ignore[union-attr]
    for copy in ("a", "b"):
        if how == "torn" or lost == "enrolment":
            site.trust.files[f"{lost}.{copy}"] = site.trust.files[f"{lost}.{copy}"][:-1]
        else:
            del site.trust.files[f"{lost}.{copy}"]
    left = dict(site.trust.files)
    for _ in range(2):
        answer, _notes = begun(site)
        assert "lost" in answer.quarantined
        assert site.trust.files == left
    [refused] = to_pid1(site.apply(b"{}"), Refused)
    assert refused.check == "quarantine"
    assert "this machine is in quarantine: the" in refused.message


def test_one_damaged_copy_is_repaired() -> None:
    site = Site()
    site.begin()
    good = site.trust.files["state.a"]
    site.trust.files["state.b"] = b""
    answer, notes = begun(site)
    assert (answer.quarantined, notes) == ("", [])
    assert site.trust.files["state.a"] == site.trust.files["state.b"] != good


def test_a_lost_memory_goes_on_running_what_it_ran() -> None:
    site = Site()
    site.begin()
    site.apply(site.desired(3))
    for copy in ("a", "b"):
        del site.trust.files[f"state.{copy}"]
    outgoing = site.begin()
    assert to_pid1(outgoing, Begun)[0].quarantined
    assert [message.desired.version for message in to_pid1(outgoing, DesiredAdmitted)] == [3]


class BrokenDisk(PowerCutDisk):
    """A disk that answers nothing."""

    def names(self) -> list[str]:
        raise OSError(5, "Input/output error")

    def read(self, name: str) -> bytes | None:
        raise OSError(5, f"Input/output error at {name}")


def test_a_disk_that_cannot_be_read_is_quarantine_and_no_crash() -> None:
    site = Site(trust=BrokenDisk())
    answer, notes = begun(site)
    assert "the trust state can't be read or written" in answer.quarantined
    assert notes == ["cannot read the desired state: Input/output error"]


def test_a_secure_configuration_that_cannot_be_read_is_said() -> None:
    site = Site()
    site.secure = BrokenDisk()
    answer, _ = begun(site)
    assert "cannot read owner-root.json of the secure configuration: Input/output error" in answer.quarantined


# --- roots ------------------------------------------------------------------------------------------------------------


def test_another_owner_does_not_replace_the_pinned_one() -> None:
    """Mallory rewrites the secure configuration: the machine keeps to its owner and says so."""
    site = Site()
    site.begin()
    mallorys = replace(OWNER, keys=[*OWNER.keys, MALLORY.entry], root=replace(OWNER.root, keys=[MALLORY.entry.key_id]))
    site.secure.files["owner-root.json"] = signed(ROOT_TYPE, replace(mallorys, version=2), MALLORY)
    answer, notes = begun(site)
    assert answer.roots[1].version == 1
    assert notes == [
        "cannot accept owner root by its predecessor's role: 0 of 1 persons signed (none); mallory does not count for it"
    ]


def test_the_owners_next_root_comes_in_and_stays() -> None:
    site = Site()
    site.begin()
    site.secure.files["owner-root.json"] = signed(ROOT_TYPE, NEXT_OWNER, OLIVIA)
    answer, notes = begun(site)
    assert (answer.roots[1].version, notes) == (2, [])
    site.secure.files["owner-root.json"] = OWNER_ROOT
    answer, notes = begun(site)
    assert answer.roots[1].version == 2, "the older root is a rollback"
    assert notes == ["cannot accept owner root: version 1, expected 3"]


def test_the_same_root_in_another_envelope_is_no_news() -> None:
    site = Site()
    site.begin()
    site.secure.files["owner-root.json"] = signed(ROOT_TYPE, OWNER, OLIVIA)
    assert begun(site)[1] == []


@pytest.mark.parametrize("envelope", [b"", b"{}", signed(ROOT_TYPE, VENDOR, MALLORY)])
def test_without_the_vendors_root_there_is_nothing_to_stand_on(envelope: bytes) -> None:
    site = Site()
    site.vendor_root = envelope
    answer, notes = begun(site)
    assert answer.quarantined.startswith("there are no roots of trust to stand on: cannot")
    assert len(notes) == 1
    [refused] = to_pid1(site.apply(site.desired()), Refused)
    assert refused.check == "quarantine"


def test_an_owner_in_the_vendors_place_is_refused() -> None:
    site = Site()
    site.vendor_root = OWNER_ROOT
    assert "cannot use vendor root: it is the owner's" in begun(site)[0].quarantined


def test_no_owner_is_said_and_may_come_later() -> None:
    site = Site()
    root = site.secure.files.pop("owner-root.json")
    answer, _ = begun(site)
    assert "the secure configuration holds none" in answer.quarantined
    site.secure.files["owner-root.json"] = root
    assert begun(site)[0].quarantined == ""


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("envelope", "why"),
    [
        (None, "cannot read the machine's configuration: the secure configuration holds none"),
        (signed(MACHINE_TYPE, CONFIGURATION, ALICE), "0 of 1 persons signed (none); alice does not count for it"),
        (signed(MACHINE_TYPE, CONFIGURATION, MALLORY), "unknown key"),
        (signed(MACHINE_TYPE, replace(CONFIGURATION, fleet="other"), OLIVIA), f"it is of fleet other, the owner's is {FLEET}"),
        (signed(ROOT_TYPE, CONFIGURATION, OLIVIA), "its payload type is"),
    ],
)
def test_a_configuration_that_the_owner_did_not_sign_is_left_out(envelope: bytes | None, why: str) -> None:
    site = Site()
    if envelope is None:
        del site.secure.files["machine.json"]
    else:
        site.secure.files["machine.json"] = envelope
    outgoing = site.begin()
    answer = to_pid1(outgoing, Begun)[0]
    assert (answer.configuration, answer.quarantined) == (None, "")
    assert why in to_pid1(outgoing, RefusalNoted)[0].message
    assert not for_uplink(outgoing, Connect)


def test_a_token_that_is_none_is_refused_without_being_shown() -> None:
    site = Site()
    site.secure.files["machine.json"] = signed(MACHINE_TYPE, replace(CONFIGURATION, token="not-a-token"), OLIVIA)
    outgoing = site.begin()
    assert not for_uplink(outgoing, Connect)
    [note] = to_pid1(outgoing, RefusalNoted)
    assert note.message.startswith("cannot read enrolment token: ")
    assert "not-a-token" not in note.message


# --- the desired state ------------------------------------------------------------------------------------------------


def test_the_desired_state_in_force_is_sent_again_even_when_it_has_expired() -> None:
    site = Site()
    site.begin()
    site.apply(site.desired(4))
    site.now += 30 * 24 * 3600
    [again] = to_pid1(site.begin(), DesiredAdmitted)
    assert (again.request, again.desired.version) == (0, 4)


def test_a_desired_state_that_was_changed_on_the_disk_is_not_resumed() -> None:
    site = Site()
    site.begin()
    site.apply(site.desired(4))
    [name] = [name for name in site.trust.files if name.startswith("desired.")]
    other = Site(trust=type(site.trust)(site.trust.files))
    site.trust.files[name] = other.desired(5, ALICE)
    outgoing = site.begin()
    assert not to_pid1(outgoing, DesiredAdmitted)
    notes = [note.message for note in to_pid1(outgoing, RefusalNoted)]
    assert "1 of 2 persons signed (alice)" in notes[0]
    assert notes[1] == "cannot resume the desired state: its document is missing or no longer signed by enough"


def test_the_vendors_key_is_not_the_owners() -> None:
    """A root that shares a key with the other side is none."""
    site = Site()
    shared = replace(VENDOR, keys=[*VENDOR.keys, OLIVIA.entry])
    site.vendor_root = signed(ROOT_TYPE, shared, VERA)
    assert "shares a half" in begun(site)[0].quarantined
    assert key_of("vera").entry == VERA.entry
