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


async def started(one: Supervised, *names: str) -> None:
    with trio.fail_after(10):
        for name in names:
            await one.supervisor.wait_state(name, "started")


async def test_a_bundle_that_is_restarted_is_back_at_once() -> None:
    async with supervised() as one:
        one.add_direct(sleeper("a"), bundle("all", requires=["a"]))
        one.supervisor.start("all")
        await one.supervisor.wait_state("all", "started")
        with trio.fail_after(10):
            await one.supervisor.restart_and_wait("all")
            await one.supervisor.restart_and_wait("a")
        assert one.supervisor.status_of("a").state == "started"


DEAF = "trap '' TERM; echo deaf; while :; do sleep 1000; done"


async def test_a_deaf_service_delays_what_it_needs_when_all_stop_and_nothing_else() -> None:
    async with supervised() as one, trio.open_nursery() as nursery:
        one.add_direct(
            sleeper("below"),
            shell("deaf", DEAF, requires=["below"], stop=Stop(timeout_ms=60_000)),
            sleeper("base"),
            sleeper("middle", requires=["base"]),
            sleeper("top", requires=["middle"]),
        )
        one.supervisor.start("deaf", "top")
        await started(one, "deaf", "top")
        await one.line("deaf", "deaf")
        nursery.start_soon(one.supervisor.stop_all)
        with trio.fail_after(10):
            await one.supervisor.wait_state("base", "stopped")
        stopped = [change.name for change in one.supervisor.history if change.now is Row.IDLE]
        assert stopped == ["top", "middle", "base"]
        assert one.supervisor.row("below") is Row.STARTED, "it is needed still"
        os.kill(one.supervisor.status_of("deaf").pid, signal.SIGKILL)
        with trio.fail_after(10):
            await one.supervisor.wait_state("below", "stopped")


async def test_who_is_between_two_keeps_their_order_when_these_alone_stop() -> None:
    async with supervised() as one, trio.open_nursery() as nursery:
        one.add_direct(sleeper("base"), sleeper("between", after=["base"]), shell("deaf", DEAF, after=["between"]))
        one.supervisor.start("base", "between", "deaf")
        await started(one, "base", "between", "deaf")
        await one.line("deaf", "deaf")
        nursery.start_soon(one.supervisor.stop_all, {"base", "deaf"})
        with trio.fail_after(10):
            await one.supervisor.wait_state("deaf", "stopping")
        assert one.supervisor.row("base") is Row.STARTED
        os.kill(one.supervisor.status_of("deaf").pid, signal.SIGKILL)
        with trio.fail_after(10):
            await one.supervisor.wait_state("base", "stopped")
        assert one.supervisor.row("between") is Row.STARTED


async def test_a_bundle_is_started_with_all_its_parts_and_dissolves_when_one_is_lost() -> None:
    async with supervised() as one:
        # "b" is required and wanted: its loss is told twice, and counts once.
        one.add_direct(sleeper("a", restart=ONCE), sleeper("b", restart=ONCE), bundle("all", requires=["a", "b"], wants=["b"]))
        one.supervisor.start("all")
        await started(one, "all")
        assert one.path("all") == ["waiting", "starting", "completed"]
        os.kill(one.supervisor.status_of("b").pid, signal.SIGKILL)
        await one.supervisor.wait_state("b", "failed")
        assert one.path("all") == ["waiting", "starting", "completed", "waiting"]
        assert one.supervisor.status_of("all").reason == "requires b, which is failed"
        one.supervisor.start("all")
        await started(one, "all")
        assert one.path("b") == [*UP, "failed", *UP]
        assert one.path("a") == UP
        await one.supervisor.stop("all")
        assert (one.path("all")[-1], one.path("a")) == ("idle", UP), "its parts go on"
        assert "event_without_meaning" not in one.log.ring.events()


async def test_who_conflicts_is_stopped_before_the_other_starts() -> None:
    async with supervised() as one:
        one.add_direct(sleeper("day"), sleeper("night", conflicts=["day"]))
        for now, then in (("day", "night"), ("night", "day"), ("day", "night")):
            one.supervisor.start(now)
            await started(one, now)
            assert one.supervisor.status_of(then).pid == 0
            assert one.path(then)[-2:] in ([], STOPPED)
        rows = [(change.name, change.now.label) for change in one.supervisor.history]
        assert rows.index(("day", "idle")) < rows.index(("night", "starting"))


async def test_dependents_stop_before_what_they_need_and_wait_for_it() -> None:
    async with supervised() as one:
        one.add_direct(sleeper("a"), sleeper("b", requires=["a"]), sleeper("c", requires=["b"]))
        one.supervisor.start("c")
        await started(one, "c")
        await one.supervisor.stop("a")
        ended = [change.name for change in one.supervisor.history if change.now.label in ("waiting", "idle")]
        assert ended[-3:] == ["c", "b", "a"]
        assert one.path("c") == [*UP, "restarting", "waiting"], "once: it was not started again in between"
        one.supervisor.start("a")
        await started(one, "c")


async def test_conditions_decide_whether_it_is_started_at_all(tmp_path: Path) -> None:
    async with supervised() as one:
        there = PathExists(path=str(tmp_path / "there"))
        one.add_direct(
            sleeper("if", conditions=[there]),
            sleeper("unless", conditions=[PathExists(path=str(tmp_path / "there"), negated=True)]),
            sleeper("word", conditions=[KernelParameter(parameter="milkyway.no-such-word")]),
            sleeper("below", conditions=[PathExists(path="/dev/null/below", negated=True)]),
            sleeper("unseen", conditions=[PathExists(path=f"/{'x' * 300}", negated=True)]),
        )
        one.supervisor.start("if", "unless", "word", "unseen", "below")
        await started(one, "unless", "below")
        assert one.path("if") == one.path("word") == one.path("unseen") == ["waiting", "idle"]
        assert one.supervisor.status_of("unseen").reason.endswith("x: File name too long")
        assert one.supervisor.status_of("if").reason == f"not started: {tmp_path}/there is not there"
        (tmp_path / "there").touch()
        one.supervisor.start("if")
        await started(one, "if")


async def test_a_failure_isolates_or_asks_for_a_reboot() -> None:
    asked: list[str] = []
    async with supervised(on_reboot=asked.append) as one:
        fails = Restart(when="never", on_failure="isolate")
        one.add_direct(
            sleeper("needed"),
            sleeper("other"),
            bundle("both", requires=["other"], wants=["other"]),
            sleeper("rescue", requires=["needed"], restart=fails),
            sleeper("vital", restart=Restart(when="never", on_failure="reboot")),
        )
        one.supervisor.start("rescue", "both", "vital")
        await started(one, "rescue", "both", "vital")
        os.kill(one.supervisor.status_of("vital").pid, signal.SIGKILL)
        await one.supervisor.wait_state("vital", "failed")
        assert asked == ["vital"]
        os.kill(one.supervisor.status_of("rescue").pid, signal.SIGKILL)
        await one.supervisor.wait_state("other", "stopped")
        assert (one.path("needed"), one.path("rescue")) == (UP, [*UP, "failed"])
        assert (one.path("both")[-1], one.path("other")) == ("idle", [*UP, *STOPPED])
        assert "service_task_failed" not in one.log.ring.events()


async def test_of_definitions_all_are_added_or_none() -> None:
    async with supervised() as one:
        for wrong in (
            [sleeper("a"), sleeper("a")],
            [sleeper("a"), sleeper("b", requires=["c"]), sleeper("c", requires=["b"])],
            [sleeper("a"), sleeper("b", timers=[Timer(calendar=["never at all"])])],
        ):
            with pytest.raises(RefusedError):
                one.add_direct(*wrong)
            assert one.supervisor.names() == []


# --- replaced ------------------------------------------------------------------------------------------------------------


def definitions(one: Supervised, *services: Service) -> dict[str, Definition]:
    return {service.name: one.definition(service, needs=needs_of(service)) for service in services}


async def test_of_a_new_set_only_what_changed_restarts() -> None:
    async with supervised() as one:
        health = Health(probe=ExecProbe(command=["/bin/false"]), interval_ms=1, failures=1)
        old = [
            sleeper("same"),
            sleeper("gone"),
            sleeper("other"),
            sleeper("adopted"),
            sleeper("idle"),
            sleeper("needs-other", requires=["other"]),
        ]
        one.add_direct(*old)
        one.supervisor.start("same", "gone", "adopted", "needs-other")
        await started(one, "same", "gone", "adopted", "needs-other")
        pids = {name: one.supervisor.status_of(name).pid for name in one.supervisor.names()}
        new = [
            sleeper("new"),
            sleeper("same"),
            sleeper("other", environment={"NEW": "yes"}),
            sleeper("adopted", health=health, restart=ONCE),
            sleeper("idle", environment={"NEW": "yes"}),
            sleeper("needs-other", requires=["other"]),
        ]
        changes = await one.supervisor.replace(definitions(one, *new))
        assert changes == Changes(added=("new",), removed=("gone",), restarted=("other", "idle"), adopted=("adopted",))
        assert one.supervisor.names() == [service.name for service in new]
        await started(one, "other", "needs-other")
        assert one.path("same") == UP
        assert one.path("gone") == [*UP, "restarting", "waiting", "idle"]
        assert one.path("idle") == one.path("new") == []
        assert one.path("other") == [*UP, "restarting", *UP]
        assert one.path("needs-other") == [*UP, "restarting", *UP]
        assert one.supervisor.status_of("same").pid == pids["same"]
        assert b"NEW=yes" in Path(f"/proc/{one.supervisor.status_of('other').pid}/environ").read_bytes()
        await one.supervisor.wait_state("adopted", "failed")
        assert one.path("adopted") == [*UP, "faltering", "failed"], "by its new health check, not by the change"
        with pytest.raises(RefusedError):
            one.supervisor.row("gone")


async def test_a_set_that_is_refused_changes_nothing() -> None:
    async with supervised() as one:
        one.add_direct(sleeper("a"), sleeper("b"))
        one.supervisor.start("a", "b")
        await started(one, "a", "b")
        for wrong in (
            [sleeper("a", requires=["c"]), sleeper("c", requires=["a"])],
            [Service(name="a", command=["not/absolute"])],
        ):
            with pytest.raises(RefusedError):
                await one.supervisor.replace(definitions(one, *wrong))
        assert (one.path("a"), one.path("b")) == (UP, UP)
        assert one.supervisor.names() == ["a", "b"]


async def test_who_requires_something_more_now_waits_for_it(tmp_path: Path) -> None:
    async with supervised() as one:
        one.add_direct(sleeper("a"), bundle("all", requires=["a"]))
        one.supervisor.start("all")
        await started(one, "all")
        gate = shell(
            "gate",
            f"test -e {tmp_path}/open",
            type="oneshot",
            readiness=ReadyByExit(),
            restart=Restart(delay_ms=5, delay_limit_ms=5, start_limit=1000),
        )
        await one.supervisor.replace(
            definitions(one, sleeper("a", requires=["gate"]), gate, bundle("all", requires=["a", "gate"]))
        )
        await one.supervisor.wait_state("a", "stopped")
        assert one.path("a") == [*UP, "restarting", "waiting"]
        (tmp_path / "open").touch()
        await started(one, "all", "a")
        assert one.path("a") == [*UP, "restarting", *UP]
        assert one.path("all") == ["waiting", "starting", "completed", "waiting", "starting", "completed"]


async def test_a_listener_that_is_the_same_stays_open_over_a_change(tmp_path: Path) -> None:
    async with supervised() as one:
        where = str(tmp_path / "socket")
        listener = Listener(name="front", address=UnixStream(path=where), start="at-once")
        service = misbehaving(one, "engine/takes_clients", name="web", listeners=[listener], stop=Stop(timeout_ms=50))
        one.add_direct(service)
        one.supervisor.start("web")
        first = await one.up("web", "taking")
        os.kill(first, signal.SIGSTOP)
        async with await trio.open_unix_socket(where) as client:
            changed = misbehaving(one, "engine/takes_clients", name="web", listeners=[listener], environment={"NEW": "yes"})
            await one.supervisor.replace(definitions(one, changed))
            assert int(await client.receive_some(64)) == await one.up("web", "taking", times=2) != first


async def test_a_replacement_that_is_given_up_leaves_the_old_set() -> None:
    async with supervised() as one:
        one.add_direct(shell("deaf", "trap '' TERM; echo armed; while :; do sleep 1000; done", stop=Stop(timeout_ms=60_000)))
        one.supervisor.start("deaf")
        await one.line("deaf", "armed")
        await started(one, "deaf")
        with trio.move_on_after(0.05) as scope:
            await one.supervisor.replace(definitions(one, sleeper("deaf")))
        assert scope.cancelled_caught
        os.kill(one.supervisor.status_of("deaf").pid, signal.SIGKILL)
        with trio.fail_after(10):
            while one.path("deaf") != [*UP, "restarting", *UP]:
                await trio.lowlevel.checkpoint()
        (deaf,) = one.supervisor.definitions()
        assert deaf.command[-1].startswith("trap")
        os.kill(one.supervisor.status_of("deaf").pid, signal.SIGKILL)
