"""Why a service is in its state: who wants it, and what it waits for, down to the last reason."""

import pytest

from milkyway_agent.core.dependencies import Graph, Needs
from milkyway_agent.core.explanation import LONGEST_CHAIN, Origin, Seen, Why, brief, origins, tree, why
from milkyway_agent.core.service_state import Event, Row

ASKED = Origin("asked", "the boot")
NEEDS = {
    "shop": Needs(wants=("web", "report")),
    "web": Needs(requires=("php",), wants=("cache",)),
    "php": Needs(requires=("db",)),
    "db": Needs(requires=("disk",)),
    "report": Needs(requires=("db",), conflicts=("cache",)),
    "disk": Needs(),
    "cache": Needs(),
}


def seen(**given: Seen) -> dict[str, Seen]:
    """Return what is known of every service in NEEDS: *given*, and nothing of the others."""
    found = {}
    for name, needs in NEEDS.items():
        found[name] = given.get(name, Seen())._replace(requires=needs.requires, wants=needs.wants)
    return found


def explained(name: str, **given: Seen) -> Why:
    all_of_them = seen(**given)
    return why(name, all_of_them, Graph(NEEDS), {other: seen.row for other, seen in all_of_them.items()}, 10_000)


def waiting(origin: Origin = ASKED) -> Seen:
    return Seen(row=Row.WAITING, awaits_permission=True, origin=origin)


STARTING = Seen(row=Row.STARTING, cause=Event.PERMITTED, since_ms=7000)
FAILED = Seen(row=Row.FAILED, reason="ended with status 1", cause=Event.GAVE_UP, since_ms=7000)


def test_what_is_asked_for_has_that_origin_and_the_rest_is_pulled_in_by_the_nearest() -> None:
    graph = Graph(NEEDS)
    assert origins(["web"], graph.pulled_in("web"), graph.parts, "ada") == {
        "web": Origin("asked", "ada"),
        "php": Origin("pulled-in", "web"),
        "cache": Origin("pulled-in", "web"),
        "db": Origin("pulled-in", "php"),
        "disk": Origin("pulled-in", "db"),
    }
    both = origins(["web", "disk"], graph.pulled_in("web", "disk"), graph.parts, "")
    assert both["disk"] == Origin("asked", "")


def test_the_chain_of_reasons_goes_down_to_the_last() -> None:
    found = explained("web", web=waiting(), php=waiting(Origin("pulled-in", "web")), db=FAILED, cache=Seen(row=Row.STARTED))
    assert [(reason.depth, reason.relation, reason.service, reason.row, reason.why) for reason in found.because] == [
        (1, "requires", "php", "waiting", "requires db, which has failed"),
        (2, "requires", "db", "failed", "ended with status 1"),
    ]
    assert found.why == "requires php, which is waiting"


def test_what_is_met_again_is_not_told_again() -> None:
    found = explained("shop", shop=waiting(), web=waiting(), report=waiting(), php=waiting(), db=waiting(), disk=STARTING)
    assert [(reason.depth, reason.service, reason.why) for reason in found.because] == [
        (1, "web", "requires php, which is waiting"),
        (2, "php", "requires db, which is waiting"),
        (3, "db", "requires disk, which is starting"),
        (4, "disk", "waits until it is ready"),
        (1, "report", "requires db, which is waiting"),
        (2, "db", "as above"),
    ]


def test_a_service_in_its_backoff_waits_for_no_other() -> None:
    found = explained("php", php=Seen(row=Row.WAITING, reason="was killed by SIGKILL", delay_ms=400), db=FAILED)
    assert (found.because, found.why) == ([], "was killed by SIGKILL; tries again after 0.4 s")
    assert explained("db", php=Seen(row=Row.WAITING), db=FAILED).holds_back == []


def test_two_that_wait_for_each_other_are_an_end() -> None:
    needs = {"a": Needs(conflicts=("b",)), "b": Needs(conflicts=("a",))}
    stopping = Seen(row=Row.RESTARTING, cause=Event.DEPENDENCY_LOST)
    found = why("a", {"a": waiting(), "b": stopping}, Graph(needs), {"a": Row.WAITING, "b": Row.RESTARTING}, 0)
    assert [(reason.relation, reason.service) for reason in found.because] == [("conflicts with", "b")]
    assert found.holds_back == []


def test_what_is_required_and_not_there_is_named() -> None:
    found = why("web", {"web": waiting()}, Graph({"web": Needs(requires=("nowhere",))}), {"web": Row.WAITING}, 0)
    assert found.why == "requires nowhere, which is not there"
    assert [(reason.service, reason.row, reason.why) for reason in found.because] == [
        ("nowhere", "", "there is no such service")
    ]


def test_a_chain_however_long_has_an_end() -> None:
    names = [f"s{number}" for number in range(5000)]
    needs = {name: Needs(requires=(names[number + 1],) if number + 1 < len(names) else ()) for number, name in enumerate(names)}
    everyone = {name: waiting() for name in names}
    found = why("s0", everyone, Graph(needs), dict.fromkeys(names, Row.WAITING), 0)
    assert len(found.because) == LONGEST_CHAIN


def test_the_chain_of_origins_goes_up_to_the_person_who_asked() -> None:
    given = {
        "db": Seen(row=Row.STARTED, origin=Origin("pulled-in", "php")),
        "php": Seen(row=Row.STARTED, origin=Origin("pulled-in", "web")),
        "web": Seen(row=Row.STARTED, origin=ASKED),
    }
    found = explained("db", **given)
    assert [(wish.service, wish.kind, wish.who) for wish in found.wanted_by] == [
        ("db", "pulled-in", "php"),
        ("php", "pulled-in", "web"),
        ("web", "asked", "the boot"),
    ]
    assert (found.needed_by, found.holds_back) == (["php", "report"], [])


def test_services_that_wait_for_it_are_named_and_those_that_wait_for_another_are_not() -> None:
    found = explained("php", web=waiting(), php=Seen(row=Row.STARTING), db=Seen(row=Row.STARTED))
    assert found.holds_back == ["web"]
    assert explained("disk", php=waiting(), disk=Seen(row=Row.STARTED), db=Seen(row=Row.STARTING)).holds_back == []


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        (Seen(), "nobody has asked for it"),
        (Seen(origin=Origin("stopped", "mwctl")), "stopped by mwctl"),
        (Seen(origin=Origin("stopped")), "it was stopped"),
        (Seen(origin=Origin("displaced", "web")), "conflicts with web, which was started"),
        (Seen(origin=Origin("isolated", "db")), "db failed, and only what it needs was to go on"),
        (Seen(origin=ASKED, cause=Event.FINISHED), "it ended, and is not to run again"),
        (Seen(origin=ASKED, cause=Event.UNWANTED), "it was stopped"),
        (Seen(origin=ASKED, cause=Event.SKIPPED, reason="not started: /x is not there"), "not started: /x is not there"),
        (Seen(row=Row.WAITING, reason="was killed by SIGKILL", delay_ms=400), "was killed by SIGKILL; tries again after 0.4 s"),
        (Seen(row=Row.WAITING, awaits_permission=True), "is about to start"),
        (Seen(row=Row.ARMED, trigger="a client"), "waits for a client"),
        (Seen(row=Row.STARTING, readiness="says READY=1"), "waits until it says READY=1"),
        (Seen(row=Row.STARTED, origin=ASKED), "asked for by the boot"),
        (Seen(row=Row.STARTED, origin=Origin("asked")), "asked for"),
        (Seen(row=Row.STARTED, origin=Origin("pulled-in", "web")), "pulled in by web"),
        (Seen(row=Row.COMPLETED, kind="oneshot", origin=ASKED), "it did its work; asked for by the boot"),
        (Seen(row=Row.COMPLETED, kind="bundle", origin=ASKED), "its parts are up; asked for by the boot"),
        (Seen(row=Row.STOPPING, origin=Origin("stopped", "mwctl")), "stopped by mwctl"),
        (Seen(row=Row.RESTARTING, cause=Event.RESTART_ASKED), "a restart was asked for"),
        (Seen(row=Row.RESTARTING, cause=Event.WANTED), "it is started again once it has stopped"),
        (Seen(row=Row.FALTERING, reason="not ready within 5 s"), "not ready within 5 s"),
        (FAILED, "ended with status 1"),
    ],
)
def test_each_state_has_its_sentence(seen: Seen, sentence: str) -> None:
    assert brief(seen, []) == sentence


def test_every_row_has_a_sentence() -> None:
    for row in Row:
        assert brief(Seen(row=row), [])


def test_the_tree_has_every_service_and_begins_with_those_that_no_other_needs() -> None:
    all_of_them = seen(shop=waiting(), db=STARTING, report=waiting(), php=waiting(), web=waiting())
    found = tree(all_of_them, Graph(NEEDS), {name: seen.row for name, seen in all_of_them.items()}, 10_000)
    assert found.roots == ["shop"]
    assert [entry.name for entry in found.services] == list(NEEDS)
    shop = found.services[0]
    assert (shop.state, shop.row, shop.wanted_by) == ("stopped", "waiting", "asked for by the boot")
    assert shop.why == "comes after web, which is waiting; comes after report, which is waiting"


def test_many_obstacles_are_two_and_a_number() -> None:
    needs = {"all": Needs(requires=("a", "b", "c", "d")), "a": Needs(), "b": Needs(), "c": Needs(), "d": Needs()}
    everyone = {name: waiting() if name == "all" else Seen() for name in needs}
    found = why("all", everyone, Graph(needs), {name: seen.row for name, seen in everyone.items()}, 0)
    assert found.why == "requires a, which is stopped; requires b, which is stopped; and 2 more"
    assert len(found.because) == 4
