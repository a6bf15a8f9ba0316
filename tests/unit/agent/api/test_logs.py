"""The log as it is read through the API: chosen, merged, followed."""

import pytest
import trio
import trio.testing

from milkyway_agent.api.log_query import LogQuery
from milkyway_agent.api.logs import open_events, open_log
from milkyway_agent.log.log import Log
from milkyway_formats.errors import RefusedError


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
