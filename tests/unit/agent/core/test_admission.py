"""Here, now, once: each check with its own refusal, and their order."""

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from milkyway_agent.core.admission import (
    MAX_STREAMS,
    AcceptedCommand,
    AcceptedDesired,
    ArgumentRefusedError,
    ExpectationRefusedError,
    ExpiredRefusedError,
    FleetRefusedError,
    GapRefusedError,
    LifeRefusedError,
    NotYetRefusedError,
    PermissionRefusedError,
    ReplayRefusedError,
    RootExpiredError,
    StreamRefusedError,
    TargetRefusedError,
    VersionRefusedError,
    admit_command,
    admit_desired,
    admit_layer,
)
from milkyway_formats.command import Command, Reboot, RestartService, StopService
from milkyway_formats.deployment import Deployment, LayerPin
from milkyway_formats.desired import Desired
from milkyway_formats.errors import RefusedError
from milkyway_formats.trust import Verified
from tests.fakes.people import CAROL, FLEET, MACHINE, NOW, OWNER, VENDOR, VICTOR

OTHER_MACHINE = "b" * 64
COREOS = "c" * 64
DIGEST = "d" * 64
COMMAND = Command(
    format="milkyway.command/1",
    fleet=FLEET,
    id="e" * 32,
    stream="alice",
    sequence=4,
    issued=NOW,
    not_before=NOW,
    expires=NOW + 600,
    command_class="restart",
    machines=[OTHER_MACHINE, MACHINE],
    action=RestartService(service="web/nginx"),
)
REBOOT = replace(COMMAND, command_class="deep", action=Reboot())
DESIRED = Desired(
    format="milkyway.desired/1",
    fleet=FLEET,
    machine=MACHINE,
    version=7,
    issued=NOW,
    not_before=NOW,
    expires=NOW + 3600,
)
IN_FORCE = AcceptedDesired(version=6, highest=6, issued=NOW - 100, digest="0" * 64)
PIN = LayerPin(path="example/nginx", version="1", sha256="1" * 64, size=4096, root_hash="2" * 64)
WEB = Deployment(id="web_1", name="web", generation=1, stack=[PIN])


def by(*persons: str) -> Verified:
    """Return the proof that ``trust`` gives for a document that *persons* signed."""
    return Verified(b"", "", frozenset(persons), frozenset(), DIGEST)


def admit(
    command: Command,
    persons: tuple[str, ...] = ("alice", "bob"),
    *,
    sequences: Mapping[str, int] | None = None,
    now: int = NOW,
) -> AcceptedCommand:
    return admit_command(
        command,
        by(*persons),
        owner=OWNER,
        machine=MACHINE,
        sequences={"alice": 3} if sequences is None else sequences,
        now=now,
        coreos_root_hash=COREOS,
    )


def settle(
    desired: Desired,
    persons: tuple[str, ...] = ("alice", "bob"),
    *,
    accepted: AcceptedDesired = IN_FORCE,
    now: int = NOW,
) -> AcceptedDesired:
    return admit_desired(desired, by(*persons), owner=OWNER, machine=MACHINE, accepted=accepted, now=now)


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        COMMAND,
        REBOOT,
        replace(COMMAND, expect=COREOS),
        replace(COMMAND, expires=NOW + 24 * 3600),
        replace(COMMAND, expires=NOW + 1),
    ],
)
def test_an_admitted_command_says_what_to_persist(command: Command) -> None:
    assert admit(command) == AcceptedCommand("alice", 4, DIGEST)


def test_a_stream_begins_at_one() -> None:
    assert admit(replace(COMMAND, stream="bob", sequence=1)) == AcceptedCommand("bob", 1, DIGEST)


@pytest.mark.parametrize(
    ("command", "refusal", "check", "reason"),
    [
        (replace(COMMAND, fleet="other"), FleetRefusedError, "fleet", "it is for fleet other, this is demo"),
        (
            replace(COMMAND, machines=[OTHER_MACHINE]),
            TargetRefusedError,
            "target",
            "it is not for this machine, aaaaaaaaaaaaaaaa",
        ),
        (
            replace(COMMAND, expires=NOW + 24 * 3600 + 1),
            LifeRefusedError,
            "life",
            "it lives 86401 s, class restart may live 86400 s",
        ),
        (replace(REBOOT, expires=NOW + 3601), LifeRefusedError, "life", "it lives 3601 s, class deep may live 3600 s"),
        (replace(COMMAND, expires=NOW), LifeRefusedError, "life", "it is never valid"),
        (replace(COMMAND, issued=NOW + 1), LifeRefusedError, "life", "it is never valid"),
        (replace(COMMAND, not_before=NOW + 5), NotYetRefusedError, "not-before", "not valid for another 5 s"),
        (replace(COMMAND, issued=NOW - 9, not_before=NOW - 9, expires=NOW), ExpiredRefusedError, "expiry", "expired 0 s ago"),
        (
            replace(COMMAND, issued=NOW - 9, not_before=NOW - 9, expires=NOW - 1),
            ExpiredRefusedError,
            "expiry",
            "expired 1 s ago",
        ),
        (replace(COMMAND, sequence=3), ReplayRefusedError, "replay", "number 3 of stream alice was used, the last is 3"),
        (replace(COMMAND, sequence=1), ReplayRefusedError, "replay", "number 1 of stream alice was used, the last is 3"),
        (replace(COMMAND, sequence=5), GapRefusedError, "gap", "number 5 of stream alice came before number 4"),
        (replace(COMMAND, stream="bob", sequence=2), GapRefusedError, "gap", "number 2 of stream bob came before number 1"),
        (
            replace(COMMAND, expect="0" * 64),
            ExpectationRefusedError,
            "expected-state",
            "it expects CoreOS 0000000000000000, running is c",
        ),
        (replace(COMMAND, machines=[MACHINE, MACHINE]), ArgumentRefusedError, "arguments", "it names a machine twice"),
        (
            replace(COMMAND, command_class="read"),
            PermissionRefusedError,
            "permission",
            "of class restart, it is signed as read",
        ),
        (replace(COMMAND, action=Reboot()), PermissionRefusedError, "permission", "of class deep, it is signed as restart"),
        (
            replace(REBOOT, action=COMMAND.action),
            PermissionRefusedError,
            "permission",
            "of class restart, it is signed as deep",
        ),
    ],
)
def test_a_command_is_refused(command: Command, refusal: type[RefusedError], check: str, reason: str) -> None:
    with pytest.raises(refusal, match=f"^cannot accept command eeeeeeeeeeeeeeee: .*{reason}") as raised:
        admit(command)
    assert raised.value.check == check


def test_a_command_is_admitted_once() -> None:
    sequences = {"alice": 3}
    accepted = admit(COMMAND, sequences=sequences)
    with pytest.raises(ReplayRefusedError):
        admit(COMMAND, sequences={**sequences, accepted.stream: accepted.sequence})


def test_the_owners_expired_root_admits_nothing() -> None:
    with pytest.raises(RootExpiredError, match="the owner's root expired 0 s ago") as refusal:
        admit(COMMAND, now=OWNER.expires)
    assert refusal.value.check == "root"
    with pytest.raises(RootExpiredError, match="expired 5 s ago"):
        settle(DESIRED, now=OWNER.expires + 5)


def test_the_machine_keeps_so_many_streams_and_no_more() -> None:
    full = {f"s{number}": 1 for number in range(MAX_STREAMS)}
    with pytest.raises(StreamRefusedError, match="stream alice would be one more than 1024"):
        admit(replace(COMMAND, sequence=1), sequences=full)
    assert admit(replace(COMMAND, stream="s7", sequence=2), sequences=full).sequence == 2


@pytest.mark.parametrize(
    ("command", "persons", "reason"),
    [
        (
            replace(COMMAND, command_class="stop", action=StopService(service="a")),
            ("dora",),
            r"0 of 1 persons .* \(dora may not\)",
        ),
        (REBOOT, ("alice", "dora"), r"1 of 2 persons may sign class deep \(dora may not\)"),
        (REBOOT, ("alice",), r"1 of 2 persons may sign class deep \(nobody may not\)"),
        (COMMAND, (), "0 of 1 persons may sign class restart"),
    ],
)
def test_a_service_that_may_not_does_not_count(command: Command, persons: tuple[str, ...], reason: str) -> None:
    with pytest.raises(PermissionRefusedError, match=reason):
        admit(command, persons)


def test_a_narrowed_operator_may_what_is_left() -> None:
    assert admit(COMMAND, ("dora",)).sequence == 4


def test_stopping_on_many_machines_wants_two() -> None:
    stop = replace(
        COMMAND,
        command_class="stop",
        action=StopService(service="a"),
        machines=[MACHINE, *(f"{number:064x}" for number in range(10))],
    )
    assert admit(stop, ("alice", "bob")).sequence == 4
    with pytest.raises(PermissionRefusedError, match="1 of 2 persons"):
        admit(stop, ("alice",))


def test_the_checks_come_in_the_order_of_the_design() -> None:
    """A command that is wrong in every way is refused for the first; mended one by one, for the next."""
    wrong = replace(
        COMMAND,
        fleet="other",
        machines=[OTHER_MACHINE],
        issued=NOW - 90_000,
        not_before=NOW + 5,
        expires=NOW + 10,
        sequence=9,
        expect="0" * 64,
        command_class="read",
    )
    seen: list[str] = []
    for mended in (
        {},
        {"fleet": FLEET},
        {"machines": [MACHINE, MACHINE]},
        {"issued": NOW},
        {"not_before": NOW},
        {"sequence": 4},
        {"expect": None},
        {"machines": [MACHINE]},
        {"command_class": "restart"},
    ):
        wrong = replace(wrong, **mended)
        try:
            admit(wrong)
        except RefusedError as refusal:
            seen.append(refusal.check)
    assert seen == ["fleet", "target", "life", "not-before", "gap", "expected-state", "arguments", "permission"]


# --- desired states ---------------------------------------------------------------------------------------------------


def test_a_higher_version_replaces_a_lower() -> None:
    assert settle(DESIRED) == AcceptedDesired(version=7, highest=7, issued=NOW, digest=DIGEST)
    assert settle(replace(DESIRED, version=900)).highest == 900
    assert settle(replace(DESIRED, version=1), accepted=AcceptedDesired()).version == 1


@pytest.mark.parametrize(
    ("desired", "refusal", "check", "reason"),
    [
        (replace(DESIRED, fleet="other"), FleetRefusedError, "fleet", "it is for fleet other"),
        (
            replace(DESIRED, machine=OTHER_MACHINE),
            TargetRefusedError,
            "target",
            "it is for machine bbbbbbbbbbbbbbbb, this is aaaa",
        ),
        (replace(DESIRED, expires=NOW + 24 * 3600 + 1), LifeRefusedError, "life", "class change may live 86400 s"),
        (replace(DESIRED, not_before=NOW + 1), NotYetRefusedError, "not-before", "not valid for another 1 s"),
        (replace(DESIRED, issued=NOW - 2, not_before=NOW - 2, expires=NOW), ExpiredRefusedError, "expiry", "expired 0 s ago"),
        (
            replace(DESIRED, deployments=[WEB, replace(WEB, name="other")]),
            ArgumentRefusedError,
            "arguments",
            "two deployments have the same id",
        ),
        (
            replace(DESIRED, deployments=[WEB, replace(WEB, id="web_2")]),
            ArgumentRefusedError,
            "arguments",
            "two deployments have the same name",
        ),
    ],
)
def test_a_desired_state_is_refused(desired: Desired, refusal: type[RefusedError], check: str, reason: str) -> None:
    with pytest.raises(refusal, match=f"^cannot accept desired state 7: .*{reason}") as raised:
        settle(desired)
    assert raised.value.check == check


@pytest.mark.parametrize("version", [1, 5, 6])
def test_a_version_that_is_not_higher_is_refused(version: int) -> None:
    with pytest.raises(VersionRefusedError, match="version 6 was accepted, and this is not signed as a rollback") as refusal:
        settle(replace(DESIRED, version=version))
    assert refusal.value.check == "version"


def test_a_rollback_is_signed_as_one_and_can_not_be_sent_again() -> None:
    rollback = replace(DESIRED, version=3, rollback=True)
    after = settle(rollback)
    assert after == AcceptedDesired(version=3, highest=6, issued=NOW, digest=DIGEST)
    with pytest.raises(VersionRefusedError, match="this rollback was not issued after version 3, which is in force"):
        settle(rollback, accepted=after)
    newer = settle(DESIRED, accepted=after)
    with pytest.raises(VersionRefusedError, match="not issued after version 7"):
        settle(rollback, accepted=newer)


def test_after_a_rollback_what_it_took_back_does_not_return() -> None:
    after = settle(replace(DESIRED, version=3, rollback=True))
    with pytest.raises(VersionRefusedError, match="version 6 was accepted"):
        settle(replace(DESIRED, version=5), accepted=after)


def test_a_desired_state_needs_two_persons_who_may_change() -> None:
    with pytest.raises(PermissionRefusedError, match=r"1 of 2 persons may sign class change \(dora may not\)"):
        settle(DESIRED, ("alice", "dora"))
    assert settle(DESIRED, ("alice", "bob", "dora")).version == 7


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_layer_comes_in_under_a_root_that_is_in_date() -> None:
    late = replace(VENDOR, expires=NOW)
    by_victor = Verified(b"", "", frozenset({"victor"}), frozenset({VICTOR.entry.key_id}), DIGEST)
    by_carol = Verified(b"", "", frozenset({"carol"}), frozenset({CAROL.entry.key_id}), DIGEST)
    admit_layer("vendor/base", by_victor, roots=[OWNER, VENDOR], now=NOW)
    admit_layer("example/nginx", by_carol, roots=[OWNER, late], now=NOW)
    with pytest.raises(RootExpiredError, match="cannot accept layer vendor/base: the vendor's root expired 0 s ago"):
        admit_layer("vendor/base", by_victor, roots=[OWNER, late], now=NOW)
