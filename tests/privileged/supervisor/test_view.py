"""What is shown of a real supervisor: reasons, times and figures of real processes, also while these change."""

import json
from typing import Any

import pytest
import trio

from milkyway_agent.core.dependencies import Needs
from milkyway_agent.core.service_state import Row
from milkyway_agent.system import cgroups
from milkyway_formats.service import ReadyByExit, ReadyByNotify, Restart, Service
from tests.privileged.supervisor.observed import Observed, observed

pytestmark = pytest.mark.privileged


def shell(name: str, script: str = "exec sleep 1000", **more: Any) -> Service:
    return Service(name=name, command=["/bin/sh", "-c", script], **more)


async def asked(here: Observed, *arguments: str) -> Any:
    """Return what mwctl prints as JSON."""
    code, out, err = await here.api.mwctl(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


async def test_why_follows_a_service_through_its_life() -> None:
    async with observed() as here:
        supervisor = here.harness.supervisor
        here.harness.add(shell("db", "exit 1", restart=Restart(when="never")))
        here.harness.add(shell("web"), needs=Needs(requires=("db",)))
        assert (await asked(here, "why", "web"))["why"] == "nobody has asked for it"
        supervisor.start("web", by="ada")
        await supervisor.wait_state("db", "failed")
        found = await asked(here, "why", "web")
        assert [(obstacle["service"], obstacle["row"], obstacle["why"]) for obstacle in found["because"]] == [
            ("db", "failed", "ended with status 1")
        ]
        assert (await asked(here, "why", "db"))["wanted_by"] == [
            {"service": "db", "kind": "pulled-in", "who": "web"},
            {"service": "web", "kind": "asked", "who": "ada"},
        ]
        await supervisor.stop("web", by="grace")
        assert (await asked(here, "why", "web"))["why"] == "stopped by grace"
        supervisor.start("db", by="eve")
        await supervisor.wait_state("db", "failed")
        assert (await asked(here, "why", "db"))["wanted_by"] == [{"service": "db", "kind": "asked", "who": "eve"}]


async def test_a_service_that_was_asked_for_stays_so_when_another_needs_it_too() -> None:
    async with observed() as here:
        supervisor = here.harness.supervisor
        here.harness.add(shell("db"))
        here.harness.add(shell("web"), needs=Needs(requires=("db",)))
        supervisor.start("db", by="ada")
        supervisor.start("web", by="grace")
        await supervisor.wait_state("web", "started")
        assert (await asked(here, "why", "db"))["wanted_by"] == [{"service": "db", "kind": "asked", "who": "ada"}]


async def test_one_that_was_displaced_says_by_whom() -> None:
    async with observed() as here:
        supervisor = here.harness.supervisor
        here.harness.add(shell("old"))
        here.harness.add(shell("new"), needs=Needs(conflicts=("old",)))
        supervisor.start("old")
        await supervisor.wait_state("old", "started")
        supervisor.start("new")
        await supervisor.wait_state("new", "started")
        assert (await asked(here, "why", "old"))["why"] == "conflicts with new, which was started"


async def test_the_times_of_a_first_start_are_those_of_its_history() -> None:
    async with observed() as here:
        supervisor = here.harness.supervisor
        here.harness.add(shell("disk", "read line < /dev/null; exit 0", type="oneshot", readiness=ReadyByExit()))
        here.harness.add(shell("web"), needs=Needs(requires=("disk",)))
        supervisor.start("web")
        await supervisor.wait_state("web", "started")
        at = {(change.name, change.now): change.at_ms for change in here.harness.changes}
        times = supervisor.seen()["web"].times
        assert times.wanted_ms == at["web", Row.WAITING] > 0
        assert times.permitted_ms == at["web", Row.STARTING] >= at["disk", Row.COMPLETED]
        assert times.ready_ms == times.settled_ms == at["web", Row.STARTED] >= times.started_ms >= times.permitted_ms
        path = await asked(here, "critical-path")
        assert [(step["service"], step["after"]) for step in path["steps"]] in (
            [("disk", ""), ("web", "disk")],
            [("web", "")],  # disk was done within the millisecond in which web was wanted
        )
        supervisor.restart("web")
        await supervisor.wait_state("web", "stopping")
        await supervisor.wait_state("web", "started")
        assert supervisor.seen()["web"].times == times


async def test_blame_tells_one_that_is_underway_from_one_that_is_ready() -> None:
    async with observed() as here:
        supervisor = here.harness.supervisor
        here.harness.add(shell("mute", readiness=ReadyByNotify(), ready_timeout_ms=0))
        here.harness.add(shell("web"))
        supervisor.start("mute", "web")
        await supervisor.wait_state("web", "started")
        outcomes = {entry["service"]: entry["outcome"] for entry in (await asked(here, "blame"))["services"]}
        assert outcomes == {"mute": "underway", "web": "ready"}
        assert (await asked(here, "why", "mute"))["why"] == "waits until it says READY=1"


async def test_top_has_the_figures_of_what_runs_and_none_of_what_does_not() -> None:
    async with observed() as here:
        supervisor = here.harness.supervisor
        group = here.harness.add(shell("web"))
        here.harness.add(shell("idle"))
        supervisor.start("web")
        await supervisor.wait_state("web", "started")
        found = {figures["service"]: figures for figures in (await asked(here, "top"))["services"]}
        assert 0 < found["web"]["figures"]["cpu_usec"] <= (cgroups.cpu_usage_usec(group) or 0)
        assert (found["web"]["figures"]["memory_bytes"] is None) == ("memory" not in cgroups.controllers(group))
        assert set(found["idle"]["figures"].values()) == {None}
        _, out, _ = await here.api.mwctl("metrics")
        assert 'milkyway_service_cpu_seconds_total{service="web"}' in out
        assert 'milkyway_service_state{service="idle",state="stopped"} 1' in out


async def test_views_are_right_while_services_come_and_go() -> None:
    async with observed() as here:
        supervisor, view = here.harness.supervisor, here.api.machine.view
        here.harness.add(shell("disk"))
        for number in range(8):
            here.harness.add(shell(f"s{number}", "exit 1", restart=Restart(delay_ms=1)), needs=Needs(requires=("disk",)))
        supervisor.start(*supervisor.names())
        with trio.fail_after(20):
            for number in range(4):
                tree, top, text = await view.tree(), await view.top(), await view.metrics()
                names = supervisor.names()
                assert [entry.name for entry in tree.services] == [entry.service for entry in top.services] == names
                assert all(f'milkyway_service_wanted{{service="{name}"}}' in text for name in names)
                await supervisor.remove(f"s{number}")
        assert len((await view.tree()).services) == 5


async def test_the_event_stream_shows_a_restart_as_it_happens() -> None:
    async with observed() as here:
        supervisor = here.harness.supervisor
        here.harness.add(shell("web", "echo said; exec sleep 1000"))
        supervisor.start("web")
        await supervisor.wait_state("web", "started")
        stream = await trio.open_unix_socket(here.api.path)
        async with stream:
            await stream.send_all(b"GET /v1/events?names=web&lines=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            seen = b""
            while b"service_state_changed" not in seen:  # the backlog: from now on we follow
                seen += await stream.receive_some()
            supervisor.restart("web")
            while b'"now":"restarting"' not in seen:
                seen += await stream.receive_some()
        assert b'"stream":"output"' not in seen


async def test_a_reload_reaches_the_process() -> None:
    async with observed() as here:
        supervisor = here.harness.supervisor
        here.harness.add(shell("web", 'trap "echo again" HUP; echo here; while :; do sleep 0.01; done'))
        supervisor.start("web")
        await here.harness.line("web", "here")
        code, out, _ = await here.api.mwctl("reload", "web")
        assert (code, out.partition(",")[0]) == (0, "web is started")
        await here.harness.line("web", "again")
        await supervisor.stop("web")
        code, _, err = await here.api.mwctl("reload", "web")
        assert (code, err) == (3, "cannot reload web: it is idle\nhint: only a started service can be reloaded\n")
