"""Who may do what."""

import pytest

from milkyway_agent.api.access import CLASS_OF_VERB, ForbiddenError, Peer, authorise
from milkyway_agent.ipc.messages import ApiVerb
from tests.fakes.api import GROUP, MEMBER, ROOT, STRANGER

FOR_MEMBERS = {
    *("status", "services", "layers", "deployments", "trust", "logs"),
    *("tree", "why", "blame", "critical-path", "top", "metrics", "events"),
    *("start", "stop", "restart", "reload", "apply"),
}


def allowed(peer: Peer, *, group: int | None = GROUP) -> set[str]:
    verbs: set[str] = set()
    for verb in CLASS_OF_VERB:
        try:
            authorise(verb, peer, group=group, local="read")
        except ForbiddenError:
            continue
        verbs.add(verb)
    return verbs


def test_where_there_is_no_group_nobody_is_told_to_be_in_it() -> None:
    with pytest.raises(ForbiddenError, match="user 1001 may not, and there is no group whose members may"):
        authorise("status", STRANGER, group=None, local="read")


def test_root_does_everything_members_do_not_reboot_strangers_hand_in_envelopes() -> None:
    assert allowed(ROOT) == set(CLASS_OF_VERB)
    assert allowed(MEMBER) == FOR_MEMBERS
    assert allowed(STRANGER) == {"apply"}


def test_without_the_group_nobody_is_in_it() -> None:
    assert allowed(MEMBER, group=None) == {"apply"}


def test_every_verb_that_the_front_can_send_has_a_class() -> None:
    assert set(CLASS_OF_VERB) == set(ApiVerb.__args__)  # type: ignore[attr-defined]  # a Literal's members
