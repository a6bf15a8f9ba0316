"""Who may do what, what a log query may be, what the machine's failures become, and sealed memory."""

import json
import os
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from milkyway_agent.api.logs import open_events, open_log
from milkyway_agent.api.machine import (
    CLASS_OF_VERB,
    ForbiddenError,
    Local,
    LogQuery,
    MalformedRequestError,
    Peer,
    authorise,
    layers_of,
    plain,
    read_log_query,
    services_of,
)
from milkyway_agent.api.requests import Answers
from milkyway_agent.ipc.messages import ApiRequest, ApiVerb
from milkyway_agent.ipc.sealed_memory import NotSealedError, check_sealed, seal
from milkyway_agent.log.log import Log
from milkyway_agent.pid1.machine_api import owners_policy
from milkyway_formats.errors import RefusedError
from milkyway_formats.report import RootStatus, Status
from tests.fakes.api import Events
from tests.fakes.machine import STATUS, FakeMachine

GROUP = 4711
ROOT = Peer(pid=1, uid=0, groups=frozenset({0}))
MEMBER = Peer(pid=2, uid=1000, groups=frozenset({100, GROUP}))
STRANGER = Peer(pid=3, uid=1001, groups=frozenset({100}))
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


@pytest.mark.parametrize(
    ("parameters", "query"),
    [
        ({}, LogQuery()),
        ({"service": "web/nginx", "follow": "1", "lines": "5"}, LogQuery(service="web/nginx", follow=True, lines=5)),
        ({"deployment": "web", "follow": "0", "since": "17"}, LogQuery(deployment="web", since=17)),
        ({"names": "web,dhcp", "until": "18"}, LogQuery(names=["web", "dhcp"], until=18)),
        ({"priority": "err"}, LogQuery(priority=3)),
        ({"priority": "0"}, LogQuery(priority=0)),
    ],
)
def test_a_log_query_is_read_from_the_url(parameters: dict[str, str], query: LogQuery) -> None:
    assert read_log_query(parameters) == query


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"follow": "yes"}, "follow must be 0 or 1"),
        ({"lines": "-1"}, "lines must be a number"),
        ({"lines": "\u0661"}, "lines must be a number"),
        ({"since": "1" * 13}, "since must be a number"),
        ({"lines": "10001"}, "lines must be a number from 0 to 10000$"),
        ({"since": "253402300800"}, "since must be a number from 0 to 253402300799$"),
        ({"colour": "red"}, "unknown parameter 'colour'$"),
        ({"names": "web,,dhcp"}, "names must be like web,web/nginx,dhcp$"),
        ({"names": ""}, "names must be like"),
        ({"priority": "8"}, "priority must be 0 to 7 or one of emerg, alert, crit, err, warning, notice, info, debug$"),
        ({"priority": ""}, "priority must be 0 to 7"),
        ({"priority": "01"}, "priority must be 0 to 7"),
        ({"since": "5", "until": "5"}, "until must be later than since$"),
        ({"until": "5", "follow": "1"}, "follow goes on for ever, until does not$"),
    ],
)
def test_a_log_query_out_of_bounds_is_refused(parameters: dict[str, str], reason: str) -> None:
    with pytest.raises(MalformedRequestError, match=f"^cannot read logs: {reason}"):
        read_log_query(parameters)


def test_what_programs_get_names_every_field_and_is_still_the_document() -> None:
    empty = msgspec.structs.replace(STATUS, services=[], deployments=[], processes=[])
    shown = plain(empty)
    assert shown["deployments"] == []
    assert shown["quarantined"] == ""
    assert msgspec.convert(shown, Status) == empty


def test_services_are_addressed_and_layers_named_once() -> None:
    assert [each.name for each in services_of(STATUS)] == ["dhcp", "time", "web/nginx"]
    twin = msgspec.structs.replace(STATUS.deployments[0], name="shop", id="shop_1")
    both = msgspec.structs.replace(STATUS, deployments=[*STATUS.deployments, twin])
    assert [(each.path, each.deployments) for each in layers_of(both)] == [
        ("example/nginx", ["web", "shop"]),
        ("example/libraries", ["web", "shop"]),
    ]


async def test_apply_takes_sealed_memory_and_nothing_that_could_change_or_block() -> None:
    machine = FakeMachine()
    answers = Answers(machine, Events(), group=None, local=lambda: "read")
    request = ApiRequest(request=1, connection=1, verb="apply", has_body=True)
    reading, writing = os.pipe()
    changeable = os.memfd_create("changeable", os.MFD_ALLOW_SEALING)
    sealed = seal(b"envelope", name="test")
    try:
        for descriptor in (reading, changeable):
            answer = await answers.answer(request, STRANGER, [descriptor])
            assert answer.status == 409
            assert json.loads(answer.body)["error"]["message"] == "cannot take the envelope: it is not in sealed memory"
        assert (await answers.answer(request, STRANGER, [sealed])).status == 200
        assert machine.envelopes == [b"envelope"]
        without = ApiRequest(request=1, connection=1, verb="apply")
        assert (await answers.answer(without, STRANGER, [])).status == 400
    finally:
        for descriptor in (reading, writing, changeable, sealed):
            os.close(descriptor)


@pytest.mark.parametrize("local", ["read", "change"])
async def test_only_root_changes_without_signatures_and_only_under_the_owners_policy(local: Local) -> None:
    machine = FakeMachine()
    answers = Answers(machine, Events(), group=GROUP, local=lambda: local)
    request = ApiRequest(request=1, connection=1, verb="apply", has_body=True)
    sealed = seal(b"envelope", name="test")
    try:
        for peer in (ROOT, MEMBER, STRANGER):
            assert (await answers.answer(request, peer, [sealed])).status == 200
    finally:
        os.close(sealed)
    assert machine.changes == [local == "change", False, False]


async def test_a_policy_that_changes_counts_from_the_next_request_on() -> None:
    policies: list[Local] = ["read"]
    machine = FakeMachine()
    answers = Answers(machine, Events(), group=None, local=lambda: policies[-1])
    request = ApiRequest(request=1, connection=1, verb="apply", has_body=True)
    sealed = seal(b"envelope", name="test")
    try:
        await answers.answer(request, ROOT, [sealed])
        policies.append("change")
        await answers.answer(request, ROOT, [sealed])
    finally:
        os.close(sealed)
    assert machine.changes == [False, True]


def test_the_policy_is_the_owners_and_read_where_no_owner_is_known() -> None:
    vendor = RootStatus(side="vendor", version=1, expires=0, sha256="6" * 64)
    owner = RootStatus(side="owner", version=1, expires=0, sha256="6" * 64, local="change")
    assert owners_policy([vendor, owner]) == "change"
    assert owners_policy([vendor]) == owners_policy([]) == "read"


def test_sealed_memory_can_be_read_but_not_written_and_has_a_limit() -> None:
    sealed = seal(b"x" * 100, name="test")
    try:
        assert check_sealed(sealed, what="it", limit=100) == 100
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(sealed, b"y")
        with Path(f"/proc/self/fd/{sealed}").open("r+b", buffering=0) as again:
            with pytest.raises(PermissionError):
                again.write(b"y")
            with pytest.raises(PermissionError):
                again.truncate(0)
        with pytest.raises(NotSealedError, match=r"^cannot take it: 100 bytes, at most 99 are allowed$"):
            check_sealed(sealed, what="it", limit=99)
    finally:
        os.close(sealed)


async def test_a_bug_behind_the_api_is_an_answer_and_a_note_not_an_end() -> None:
    events = Events()
    answers = Answers(FakeMachine(broken=KeyError("secret")), events, group=None, local=lambda: "read")
    answer = await answers.answer(ApiRequest(request=1, connection=1, verb="status"), ROOT, [])
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert events.names() == ["api_request_failed"]
    assert "KeyError" in str(events.seen)


class Clock:
    """Milliseconds that rise by one with each look."""

    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        self.now += 1
        return self.now


def a_log() -> Log:
    log = Log(Clock())
    log.note("boot_began", slot="a")
    log.note("output", service="web/nginx", line="one")
    log.note("output", service="dhcp", line="lease")
    log.note("service_failed", service="web/nginx", status=1)
    return log


async def test_the_log_is_merged_by_time_and_events_are_sentences() -> None:
    lines = [line async for line in open_log(a_log(), LogQuery(), ["dhcp", "web/nginx"])]
    assert [(line.service, line.text, line.stream) for line in lines] == [
        ("agent", "boot began: slot=a", "event"),
        ("web/nginx", "one", "output"),
        ("dhcp", "lease", "output"),
        ("web/nginx", "service failed: status=1", "event"),
    ]
    assert [line.text async for line in open_log(a_log(), LogQuery(lines=1), ["dhcp", "web/nginx"])] == [
        "service failed: status=1"
    ]
    assert [line.text async for line in open_log(a_log(), LogQuery(deployment="web", lines=1), ["web/nginx"])] == [
        "service failed: status=1"
    ]
    assert [line.text async for line in open_log(a_log(), LogQuery(service="agent"), ["dhcp"])] == ["boot began: slot=a"]


async def test_a_follower_gets_what_is_wanted_and_leaves_no_trace() -> None:
    log = a_log()
    lines = open_log(log, LogQuery(service="dhcp", lines=0, follow=True), ["dhcp", "web/nginx"])

    async def first() -> str:
        return (await anext(lines)).text

    async with trio.open_nursery() as nursery:
        seen: list[str] = []

        async def read() -> None:
            seen.append(await first())

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        log.note("output", service="web/nginx", line="not this")
        log.note("output", service="dhcp", line="this")
    assert seen == ["this"]
    await lines.aclose()


async def test_a_follower_sees_what_is_grave_enough_and_nothing_else() -> None:
    log = a_log()
    lines = open_log(log, LogQuery(names=["web"], lines=10, priority=3, follow=True), ["dhcp", "web/nginx"])
    first = await anext(lines)
    assert (first.text, first.event, first.facts, first.priority) == (
        "service failed: status=1",
        "service_failed",
        {"status": 1},
        3,
    )
    log.note_lines("web/nginx", [(6, "ordinary"), (2, "grave")])
    log.note_lines("dhcp", [(2, "of another")])
    log.note_lines("web/nginx", [(3, "bad")])
    assert [(await anext(lines)).text for _ in range(2)] == ["grave", "bad"]
    await lines.aclose()


async def test_events_are_all_but_what_services_wrote_in_the_past_and_in_what_follows() -> None:
    log = a_log()
    events = open_events(log, LogQuery(names=["web", "agent"], lines=2, follow=True), ["dhcp", "web/nginx"])
    assert [(await anext(events)).event for _ in range(2)] == ["boot_began", "service_failed"]
    log.note_lines("web/nginx", [(6, "output")])
    log.note("service_state_changed", service="dhcp", was="idle", now="waiting")
    log.note("service_state_changed", service="web/nginx", was="failed", now="waiting")
    event = await anext(events)
    assert (event.service, event.facts) == ("web/nginx", {"was": "failed", "now": "waiting"})
    await events.aclose()


async def test_each_view_is_asked_for_by_its_verb() -> None:
    answers = Answers(FakeMachine(), Events(), group=None, local=lambda: "read")

    async def ask(verb: ApiVerb, argument: str = "", **parameters: str) -> bytes:
        request = ApiRequest(request=1, connection=1, verb=verb, argument=argument, parameters=parameters)
        answer = await answers.answer(request, ROOT, [])
        assert answer.status == 200
        return answer.body

    assert json.loads(await ask("tree"))["roots"] == ["shop/nginx", "time"]
    assert json.loads(await ask("why", "shop/db"))["holds_back"] == ["shop/php"]
    assert json.loads(await ask("blame"))["services"][0]["service"] == "shop/db"
    assert json.loads(await ask("critical-path"))["target"] == "dhcp"
    assert json.loads(await ask("critical-path", service="disk"))["target"] == "disk"
    assert json.loads(await ask("top"))["services"][1]["figures"]["tasks"] == 2
    assert (await ask("metrics")).startswith(b"# HELP milkyway_info ")
    assert json.loads(await ask("reload", "dhcp"))["state"] == "started"


async def test_why_of_what_is_no_name_is_refused_before_the_machine_is_asked() -> None:
    answers = Answers(FakeMachine(), Events(), group=None, local=lambda: "read")
    answer = await answers.answer(ApiRequest(request=1, connection=1, verb="why", argument="../x"), ROOT, [])
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["message"] == "cannot explain '../x': not the name of a service"


async def test_several_names_are_any_of_them_and_a_deployment_is_all_its_services() -> None:
    async def services(*names: str) -> list[str]:
        known = ["dhcp", "web/nginx", "webmail/imap"]
        log = a_log()
        log.note_lines("webmail/imap", [(6, "mail")])
        return [line.service async for line in open_log(log, LogQuery(names=list(names)), known)]

    assert await services("web") == ["web/nginx", "web/nginx"]
    assert await services("web/nginx", "dhcp") == ["web/nginx", "dhcp", "web/nginx"]
    assert await services("agent", "webmail") == ["agent", "webmail/imap"]
    with pytest.raises(RefusedError, match=r"^cannot read logs of shop: there is no such service or deployment$"):
        await services("web", "shop")


async def test_what_a_service_that_no_longer_exists_wrote_can_still_be_read() -> None:
    assert [line.service async for line in open_log(a_log(), LogQuery(names=["web"]), ["dhcp"])] == ["web/nginx", "web/nginx"]


def test_logs_of_what_is_not_there_are_refused_at_once() -> None:
    with pytest.raises(RefusedError, match=r"^cannot read logs of web/apache: there is no such service$"):
        open_log(a_log(), LogQuery(service="web/apache"), ["web/nginx"])
    with pytest.raises(RefusedError, match=r"^cannot read logs of shop: there is no such deployment$"):
        open_log(a_log(), LogQuery(deployment="shop"), ["web/nginx"])
