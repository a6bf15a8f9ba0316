"""What a request does to the machine, and what the machine's failures become."""

import json
import os

import pytest

from milkyway_agent.api.access import Local
from milkyway_agent.api.requests import Answers
from milkyway_agent.ipc.messages import ApiRequest, ApiVerb
from milkyway_agent.ipc.sealed_memory import seal
from tests.fakes.api import GROUP, MEMBER, ROOT, STRANGER, Events
from tests.fakes.machine import FakeMachine


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


async def test_a_bug_behind_the_api_is_an_answer_and_a_note_not_an_end() -> None:
    events = Events()
    answers = Answers(FakeMachine(broken=KeyError("secret")), events, group=None, local=lambda: "read")
    answer = await answers.answer(ApiRequest(request=1, connection=1, verb="status"), ROOT, [])
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert events.names() == ["api_request_failed"]
    assert "KeyError" in str(events.seen)


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
