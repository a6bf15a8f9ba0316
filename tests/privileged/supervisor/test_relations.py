"""Bundles, conflicts, conditions, what a failure does to others, and a whole new set of definitions."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from milkyway_agent.core.dependencies import Changes, needs_of
from milkyway_agent.core.service_state import Row
from milkyway_agent.supervisor.definition import Definition
from milkyway_formats.errors import RefusedError
from milkyway_formats.listener import Listener, UnixStream
from milkyway_formats.service import (
    ExecProbe,
    Health,
    KernelParameter,
    PathExists,
    ReadyByExit,
    Restart,
    Service,
    Stop,
)
from milkyway_formats.timer import Timer
from tests.privileged.misbehaviour.programs import ONCE, STOPPED, UP, misbehaving, shell
from tests.privileged.supervisor.supervised import Supervised, supervised

pytestmark = pytest.mark.privileged


def sleeper(name: str, **fields: Any) -> Service:
    return shell(name, "exec sleep 1000", **fields)


def bundle(name: str, **fields: Any) -> Service:
    return Service(name=name, type="bundle", **fields)


async def started(harness: Supervised, *names: str) -> None:
    with trio.fail_after(10):
        for name in names:
            await harness.supervisor.wait_state(name, "started")


async def test_a_bundle_that_is_restarted_is_back_at_once() -> None:
    async with supervised() as harness:
        harness.add_direct(sleeper("a"), bundle("all", requires=["a"]))
        harness.supervisor.start("all")
        await harness.supervisor.wait_state("all", "started")
        with trio.fail_after(10):
            await harness.supervisor.restart_and_wait("all")
            await harness.supervisor.restart_and_wait("a")
        assert harness.supervisor.status_of("a").state == "started"


DEAF = "trap '' TERM; echo deaf; while :; do sleep 1000; done"


async def test_a_deaf_service_delays_what_it_needs_when_all_stop_and_nothing_else() -> None:
    async with supervised() as harness, trio.open_nursery() as nursery:
        harness.add_direct(
            sleeper("below"),
            shell("deaf", DEAF, requires=["below"], stop=Stop(timeout_ms=60_000)),
            sleeper("base"),
            sleeper("middle", requires=["base"]),
            sleeper("top", requires=["middle"]),
        )
        harness.supervisor.start("deaf", "top")
        await started(harness, "deaf", "top")
        await harness.line("deaf", "deaf")
        nursery.start_soon(harness.supervisor.stop_all)
        with trio.fail_after(10):
            await harness.supervisor.wait_state("base", "stopped")
        stopped = [change.name for change in harness.changes if change.now is Row.IDLE]
        assert stopped == ["top", "middle", "base"]
        assert harness.supervisor.row("below") is Row.STARTED, "it is still needed"
        os.kill(harness.supervisor.status_of("deaf").pid, signal.SIGKILL)
        with trio.fail_after(10):
            await harness.supervisor.wait_state("below", "stopped")


async def test_a_service_that_is_between_two_keeps_their_order_when_these_alone_stop() -> None:
    async with supervised() as harness, trio.open_nursery() as nursery:
        harness.add_direct(sleeper("base"), sleeper("between", after=["base"]), shell("deaf", DEAF, after=["between"]))
        harness.supervisor.start("base", "between", "deaf")
        await started(harness, "base", "between", "deaf")
        await harness.line("deaf", "deaf")
        nursery.start_soon(harness.supervisor.stop_all, {"base", "deaf"})
        with trio.fail_after(10):
            await harness.supervisor.wait_state("deaf", "stopping")
        assert harness.supervisor.row("base") is Row.STARTED
        os.kill(harness.supervisor.status_of("deaf").pid, signal.SIGKILL)
        with trio.fail_after(10):
            await harness.supervisor.wait_state("base", "stopped")
        assert harness.supervisor.row("between") is Row.STARTED


async def test_a_bundle_is_started_with_all_its_parts_and_waits_when_one_is_lost() -> None:
    async with supervised() as harness:
        # "b" is required and wanted: its loss is reported twice, and counts once.
        harness.add_direct(
            sleeper("a", restart=ONCE), sleeper("b", restart=ONCE), bundle("all", requires=["a", "b"], wants=["b"])
        )
        harness.supervisor.start("all")
        await started(harness, "all")
        assert harness.path("all") == ["waiting", "starting", "completed"]
        os.kill(harness.supervisor.status_of("b").pid, signal.SIGKILL)
        await harness.supervisor.wait_state("b", "failed")
        assert harness.path("all") == ["waiting", "starting", "completed", "waiting"]
        assert harness.supervisor.status_of("all").reason == "requires b, which is failed"
        harness.supervisor.start("all")
        await started(harness, "all")
        assert harness.path("b") == [*UP, "failed", *UP]
        assert harness.path("a") == UP
        await harness.supervisor.stop("all")
        assert (harness.path("all")[-1], harness.path("a")) == ("idle", UP), "its parts go on"
        assert "event_without_meaning" not in harness.log.ring.events()


async def test_a_service_that_conflicts_is_stopped_before_the_other_starts() -> None:
    async with supervised() as harness:
        harness.add_direct(sleeper("day"), sleeper("night", conflicts=["day"]))
        for now, then in (("day", "night"), ("night", "day"), ("day", "night")):
            harness.supervisor.start(now)
            await started(harness, now)
            assert harness.supervisor.status_of(then).pid == 0
            assert harness.path(then)[-2:] in ([], STOPPED)
        rows = [(change.name, change.now.label) for change in harness.changes]
        assert rows.index(("day", "idle")) < rows.index(("night", "starting"))


async def test_dependents_stop_before_what_they_need_and_wait_for_it() -> None:
    async with supervised() as harness:
        harness.add_direct(sleeper("a"), sleeper("b", requires=["a"]), sleeper("c", requires=["b"]))
        harness.supervisor.start("c")
        await started(harness, "c")
        await harness.supervisor.stop("a")
        ended = [change.name for change in harness.changes if change.now.label in ("waiting", "idle")]
        assert ended[-3:] == ["c", "b", "a"]
        assert harness.path("c") == [*UP, "restarting", "waiting"], "once: it was not started again in between"
        harness.supervisor.start("a")
        await started(harness, "c")


async def test_conditions_decide_whether_it_is_started_at_all(tmp_path: Path) -> None:
    async with supervised() as harness:
        there = PathExists(path=str(tmp_path / "there"))
        harness.add_direct(
            sleeper("if", conditions=[there]),
            sleeper("unless", conditions=[PathExists(path=str(tmp_path / "there"), negated=True)]),
            sleeper("word", conditions=[KernelParameter(parameter="milkyway.no-such-word")]),
            sleeper("below", conditions=[PathExists(path="/dev/null/below", negated=True)]),
            sleeper("unseen", conditions=[PathExists(path=f"/{'x' * 300}", negated=True)]),
        )
        harness.supervisor.start("if", "unless", "word", "unseen", "below")
        await started(harness, "unless", "below")
        assert harness.path("if") == harness.path("word") == harness.path("unseen") == ["waiting", "idle"]
        assert harness.supervisor.status_of("unseen").reason.endswith("x: File name too long")
        assert harness.supervisor.status_of("if").reason == f"not started: {tmp_path}/there does not exist"
        (tmp_path / "there").touch()
        harness.supervisor.start("if")
        await started(harness, "if")


async def test_a_failure_isolates_or_asks_for_a_reboot() -> None:
    asked: list[str] = []
    async with supervised(on_reboot=asked.append) as harness:
        fails = Restart(when="never", on_failure="isolate")
        harness.add_direct(
            sleeper("needed"),
            sleeper("other"),
            bundle("both", requires=["other"], wants=["other"]),
            sleeper("rescue", requires=["needed"], restart=fails),
            sleeper("vital", restart=Restart(when="never", on_failure="reboot")),
        )
        harness.supervisor.start("rescue", "both", "vital")
        await started(harness, "rescue", "both", "vital")
        os.kill(harness.supervisor.status_of("vital").pid, signal.SIGKILL)
        await harness.supervisor.wait_state("vital", "failed")
        assert asked == ["vital"]
        os.kill(harness.supervisor.status_of("rescue").pid, signal.SIGKILL)
        await harness.supervisor.wait_state("other", "stopped")
        assert (harness.path("needed"), harness.path("rescue")) == (UP, [*UP, "failed"])
        assert (harness.path("both")[-1], harness.path("other")) == ("idle", [*UP, *STOPPED])
        assert "service_task_failed" not in harness.log.ring.events()


async def test_of_definitions_all_are_added_or_none() -> None:
    async with supervised() as harness:
        for wrong in (
            [sleeper("a"), sleeper("a")],
            [sleeper("a"), sleeper("b", requires=["c"]), sleeper("c", requires=["b"])],
            [sleeper("a"), sleeper("b", timers=[Timer(calendar=["never at all"])])],
        ):
            with pytest.raises(RefusedError):
                harness.add_direct(*wrong)
            assert harness.supervisor.names() == []


# --- replaced ------------------------------------------------------------------------------------------------------------


def definitions(harness: Supervised, *services: Service) -> dict[str, Definition]:
    return {service.name: harness.definition(service, needs=needs_of(service)) for service in services}


async def test_of_a_new_set_only_what_changed_restarts() -> None:
    async with supervised() as harness:
        health = Health(probe=ExecProbe(command=["/bin/false"]), interval_ms=1, failures=1)
        old = [
            sleeper("same"),
            sleeper("gone"),
            sleeper("other"),
            sleeper("adopted"),
            sleeper("idle"),
            sleeper("needs-other", requires=["other"]),
        ]
        harness.add_direct(*old)
        harness.supervisor.start("same", "gone", "adopted", "needs-other")
        await started(harness, "same", "gone", "adopted", "needs-other")
        pids = {name: harness.supervisor.status_of(name).pid for name in harness.supervisor.names()}
        new = [
            sleeper("new"),
            sleeper("same"),
            sleeper("other", environment={"NEW": "yes"}),
            sleeper("adopted", health=health, restart=ONCE),
            sleeper("idle", environment={"NEW": "yes"}),
            sleeper("needs-other", requires=["other"]),
        ]
        changes = await harness.supervisor.replace(definitions(harness, *new))
        assert changes == Changes(added=("new",), removed=("gone",), restarted=("other", "idle"))
        assert harness.supervisor.names() == [service.name for service in new]
        await started(harness, "other", "needs-other")
        assert harness.path("same") == UP
        assert harness.path("gone") == [*UP, "restarting", "waiting", "idle"]
        assert harness.path("idle") == harness.path("new") == []
        assert harness.path("other") == [*UP, "restarting", *UP]
        assert harness.path("needs-other") == [*UP, "restarting", *UP]
        assert harness.supervisor.status_of("same").pid == pids["same"]
        assert b"NEW=yes" in Path(f"/proc/{harness.supervisor.status_of('other').pid}/environ").read_bytes()
        await harness.supervisor.wait_state("adopted", "failed")
        assert harness.path("adopted") == [*UP, "faltering", "failed"], "by its new health check, not by the change"
        with pytest.raises(RefusedError):
            harness.supervisor.row("gone")


async def test_a_set_that_is_refused_changes_nothing() -> None:
    async with supervised() as harness:
        harness.add_direct(sleeper("a"), sleeper("b"))
        harness.supervisor.start("a", "b")
        await started(harness, "a", "b")
        for wrong in (
            [sleeper("a", requires=["c"]), sleeper("c", requires=["a"])],
            [Service(name="a", command=["not/absolute"])],
        ):
            with pytest.raises(RefusedError):
                await harness.supervisor.replace(definitions(harness, *wrong))
        assert (harness.path("a"), harness.path("b")) == (UP, UP)
        assert harness.supervisor.names() == ["a", "b"]


async def test_a_service_that_requires_something_more_now_waits_for_it(tmp_path: Path) -> None:
    async with supervised() as harness:
        harness.add_direct(sleeper("a"), bundle("all", requires=["a"]))
        harness.supervisor.start("all")
        await started(harness, "all")
        gate = shell(
            "gate",
            f"test -e {tmp_path}/open",
            type="oneshot",
            readiness=ReadyByExit(),
            restart=Restart(delay_ms=5, delay_limit_ms=5, start_limit=1000),
        )
        await harness.supervisor.replace(
            definitions(harness, sleeper("a", requires=["gate"]), gate, bundle("all", requires=["a", "gate"]))
        )
        await harness.supervisor.wait_state("a", "stopped")
        assert harness.path("a") == [*UP, "restarting", "waiting"]
        (tmp_path / "open").touch()
        await started(harness, "all", "a")
        assert harness.path("a") == [*UP, "restarting", *UP]
        assert harness.path("all") == ["waiting", "starting", "completed", "waiting", "starting", "completed"]


async def test_a_listener_that_is_the_same_stays_open_over_a_change(tmp_path: Path) -> None:
    async with supervised() as harness:
        where = str(tmp_path / "socket")
        listener = Listener(name="front", address=UnixStream(path=where), start="at-once")
        service = misbehaving(harness, "engine/takes_clients", name="web", listeners=[listener], stop=Stop(timeout_ms=50))
        harness.add_direct(service)
        harness.supervisor.start("web")
        first = await harness.up("web", "taking")
        os.kill(first, signal.SIGSTOP)
        async with await trio.open_unix_socket(where) as client:
            changed = misbehaving(harness, "engine/takes_clients", name="web", listeners=[listener], environment={"NEW": "yes"})
            await harness.supervisor.replace(definitions(harness, changed))
            assert int(await client.receive_some(64)) == await harness.up("web", "taking", times=2) != first


async def test_a_replacement_that_is_given_up_leaves_the_old_set() -> None:
    async with supervised() as harness:
        harness.add_direct(
            shell("deaf", "trap '' TERM; echo armed; while :; do sleep 1000; done", stop=Stop(timeout_ms=60_000))
        )
        harness.supervisor.start("deaf")
        await harness.line("deaf", "armed")
        await started(harness, "deaf")
        with trio.move_on_after(0.05) as scope:
            await harness.supervisor.replace(definitions(harness, sleeper("deaf")))
        assert scope.cancelled_caught
        os.kill(harness.supervisor.status_of("deaf").pid, signal.SIGKILL)
        with trio.fail_after(10):
            while harness.path("deaf") != [*UP, "restarting", *UP]:
                await trio.lowlevel.checkpoint()
        (deaf,) = harness.supervisor.definitions()
        assert deaf.command[-1].startswith("trap")
        os.kill(harness.supervisor.status_of("deaf").pid, signal.SIGKILL)
