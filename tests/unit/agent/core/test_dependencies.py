"""The order in which services start and stop, and what holds them back."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from milkyway_agent.core.dependencies import (
    Changes,
    CycleError,
    Graph,
    Needs,
    changed,
)
from milkyway_agent.core.service_state import Row
from milkyway_formats.errors import RefusedError
from milkyway_formats.execution import Execution
from milkyway_formats.listener import Listener, Tcp
from milkyway_formats.service import (
    ExecProbe,
    Health,
    Limits,
    PathExists,
    Pressure,
    ReadyByNotify,
    Reload,
    Restart,
    Scratch,
    Service,
    Stop,
)
from milkyway_formats.timer import Timer

NEEDS = {
    "web": Needs(requires=("database", "config"), wants=("cache",)),
    "database": Needs(after=("config",)),
    "config": Needs(),
    "cache": Needs(before=("database",)),
    "metrics": Needs(requires=("web",)),
}
GRAPH = Graph(NEEDS)


def test_a_service_that_is_needed_comes_first() -> None:
    assert GRAPH.waves() == [("config", "cache"), ("database",), ("web",), ("metrics",)]


def test_stopping_is_the_reverse_of_starting_and_a_service_waits_only_for_its_dependents() -> None:
    order = Graph(NEEDS | {"alone": Needs()}).stopping()
    stopped = []
    while order.is_active():
        ready = order.get_ready()
        stopped.append(set(ready))
        order.done(*(name for name in ready if name != "alone"))  # which hangs
        if not ready:
            break
    assert stopped == [{"metrics", "alone"}, {"web"}, {"database"}, {"config", "cache"}, set()]


def test_a_ring_is_named_in_full() -> None:
    ring = {"a": Needs(requires=("b",)), "b": Needs(after=("c",)), "c": Needs(), "d": Needs(wants=("a",)), "a2": Needs()}
    ring["c"] = Needs(wants=("a",))
    with pytest.raises(CycleError, match=r"cannot order services: they wait for one another: a → b → c → a$"):
        Graph(ring).waves()


def test_a_service_that_requires_itself_is_a_ring() -> None:
    with pytest.raises(CycleError, match="a → a"):
        Graph({"a": Needs(requires=("a",))}).waves()


def test_starting_pulls_in_what_is_required_and_wanted_and_no_more() -> None:
    assert set(GRAPH.pulled_in("web")) == {"web", "database", "config", "cache"}
    assert GRAPH.pulled_in("web")[-1] == "web"
    assert GRAPH.pulled_in("database") == ("database",), "order alone pulls nothing in"


def test_dependents_are_those_that_require_it_even_through_others() -> None:
    assert GRAPH.dependents("database") == ("web", "metrics")
    assert GRAPH.dependents("cache") == (), "services that only want it go on without it"


def rows(**now: Row) -> dict[str, Row]:
    return dict.fromkeys(NEEDS, Row.IDLE) | now


def test_a_requirement_must_be_started() -> None:
    up = rows(database=Row.STARTED, config=Row.COMPLETED, cache=Row.STARTED)
    assert GRAPH.holding_back("web", up) == []
    assert GRAPH.holding_back("web", up | {"database": Row.ARMED}) == [], "its socket is open"
    assert GRAPH.holding_back("web", up | {"database": Row.FAILED}) == ["requires database, which is failed"]
    assert GRAPH.holding_back("web", up | {"config": Row.IDLE}) == ["requires config, which is idle"]


def test_a_requirement_that_is_not_there_holds_back_and_is_named() -> None:
    assert Graph({"a": Needs(requires=("b",))}).holding_back("a", {"a": Row.WAITING}) == ["requires b, which is not there"]


@pytest.mark.parametrize("row", [Row.IDLE, Row.ARMED, Row.STARTED, Row.COMPLETED, Row.FAILED, Row.STOPPING])
def test_a_wanted_one_holds_back_only_until_it_is_settled(row: Row) -> None:
    up = rows(database=Row.STARTED, config=Row.STARTED, cache=row)
    assert GRAPH.holding_back("web", up) == []


@pytest.mark.parametrize("row", [Row.WAITING, Row.STARTING, Row.RESTARTING, Row.FALTERING])
def test_a_wanted_one_that_is_on_its_way_is_waited_for(row: Row) -> None:
    up = rows(database=Row.STARTED, config=Row.STARTED, cache=row)
    assert GRAPH.holding_back("web", up) == [f"comes after cache, which is {row.label}"]
    assert GRAPH.holding_back("database", up) == [f"comes after cache, which is {row.label}"], "before is the reverse of after"


def test_a_ring_through_before_is_named_in_full() -> None:
    ring = {"x": Needs(), "a": Needs(before=("b",)), "b": Needs(before=("c",)), "c": Needs(wants=("x",), before=("a",))}
    with pytest.raises(CycleError, match=r"wait for one another: a → c → b → a$"):
        Graph(ring).waves()


def test_a_ring_is_named_without_the_services_that_merely_wait_for_it() -> None:
    ring = {"z": Needs(after=("b",)), "a": Needs(after=("b",)), "b": Needs(after=("a",))}
    with pytest.raises(CycleError, match=r"wait for one another: b → a → b$"):
        Graph(ring).waves()


RIVALS = {"a": Needs(conflicts=("b", "gone")), "b": Needs(), "c": Needs(conflicts=("b",))}


def test_a_conflict_holds_whichever_side_says_so() -> None:
    assert Graph(RIVALS).conflicting("a") == ("b",)
    assert Graph(RIVALS).conflicting("b") == ("a", "c")
    assert Graph(RIVALS).conflicting("c") == ("b",)


@pytest.mark.parametrize("row", set(Row) - {Row.IDLE, Row.WAITING, Row.FAILED})
def test_a_conflicting_one_holds_back_until_it_is_idle(row: Row) -> None:
    rows = {"a": row, "b": Row.WAITING, "c": Row.IDLE}
    assert Graph(RIVALS).holding_back("b", rows) == [f"conflicts with a, which is {row.label}"]


@pytest.mark.parametrize("row", [Row.IDLE, Row.WAITING, Row.FAILED])
def test_two_that_conflict_do_not_wait_for_each_other(row: Row) -> None:
    assert Graph(RIVALS).holding_back("b", {"a": row, "b": Row.WAITING, "c": Row.IDLE}) == []


def test_a_service_that_could_never_start_is_refused() -> None:
    with pytest.raises(RefusedError, match="cannot start a: it conflicts with itself"):
        Graph({"a": Needs(conflicts=("a",))}).check()
    with pytest.raises(RefusedError, match="cannot start a: it requires c, with which it conflicts"):
        Graph({"a": Needs(requires=("b",), conflicts=("c",)), "b": Needs(requires=("c",)), "c": Needs()}).check()
    with pytest.raises(CycleError):
        Graph({"a": Needs(after=("a",))}).check()
    GRAPH.check()
    Graph(RIVALS).check()


def test_isolating_stops_all_that_it_does_not_need_dependents_first() -> None:
    assert GRAPH.isolated("database") == ("metrics", "web", "cache", "config"), "order alone keeps nothing"
    assert GRAPH.isolated("web") == ("metrics",)
    assert GRAPH.isolated("metrics") == ()


def test_a_bundle_consists_of_what_it_requires_and_wants() -> None:
    graph = Graph({"all": Needs(requires=("a",), wants=("b", "a", "gone"), after=("c",)), **dict.fromkeys("abc", Needs())})
    assert graph.parts("all") == ("a", "b")
    assert (graph.required_by("a"), graph.wanted_by("b"), graph.wanted_by("c")) == (("all",), ("all",), ())


def test_only_those_whom_a_row_concerns_need_look_again() -> None:
    graph = Graph({**NEEDS, "rival": Needs(conflicts=("cache",))})
    assert set(graph.concerned("cache")) == {"web", "database", "rival"}
    rows = dict.fromkeys([*NEEDS, "rival"], Row.IDLE)
    for name in rows:
        for other in rows:
            reasons = {tuple(graph.holding_back(other, rows | {name: row})) for row in Row}
            assert (len(reasons) > 1) == (other in graph.concerned(name)), f"{name} → {other}"


def test_several_are_pulled_in_each_after_its_needs_and_once() -> None:
    pulled = GRAPH.pulled_in("metrics", "database", "web")
    assert pulled == ("database", "config", "cache", "web", "metrics")


def test_a_long_chain_is_no_deeper_than_a_short_one() -> None:
    chain = {f"s{i}": Needs(requires=(f"s{i + 1}",)) for i in range(5000)} | {"s5000": Needs()}
    graph = Graph(chain)
    assert graph.pulled_in("s0") == tuple(reversed(chain))
    assert len(graph.waves()) == 5001
    assert len(graph.dependents("s5000")) == 5000


class Counted(Mapping[str, Any]):
    """A mapping that counts its lookups; once ``closed`` it refuses iteration."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.closed = False
        self.lookups: Counter[str] = Counter()

    def __getitem__(self, name: str) -> Any:
        self.lookups[name] += 1
        return self.content[name]

    def __iter__(self) -> Iterator[str]:
        assert not self.closed, "no question may look at all services"
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)


def test_starting_500_services_looks_at_each_a_few_times_only() -> None:
    names = [f"s{i}" for i in range(500)]
    needs, rows = Counted(dict.fromkeys(names, Needs())), Counted(dict.fromkeys(names, Row.WAITING))
    graph = Graph(needs)
    needs.closed = rows.closed = True
    needs.lookups.clear()
    for name in graph.pulled_in(*names):
        assert graph.holding_back(name, rows) == []
        assert graph.concerned(name) == graph.dependents(name) == graph.predecessors(name) == graph.conflicting(name) == ()
    assert rows.lookups.total() == 0
    assert needs.lookups.total() <= 5 * len(names)


WEB = Service(name="web", command=["/bin/web"])


def test_a_change_of_definitions_names_what_was_added_removed_and_must_restart() -> None:
    old = {"gone": WEB, "same": WEB, "other": WEB, "softer": WEB}
    new = {
        "same": Service(name="web", command=["/bin/web"]),
        "new": WEB,
        "softer": Service(name="web", command=["/bin/web"], after=["x"]),
        "other": Service(name="web", command=["/bin/web", "-v"], after=["x"]),
    }
    assert changed(old, new) == Changes(added=("new",), removed=("gone",), restarted=("other",))
    assert changed(old, old) == Changes()


OTHERWISE: dict[str, Any] = {
    "stored_descriptors": 1,
    "name": "shop",
    "command": ["/bin/shop"],
    "type": "oneshot",
    "domain": "shop",
    "user": 1,
    "environment": {"A": "b"},
    "working_directory": "/srv",
    "readiness": ReadyByNotify(),
    "ready_timeout_ms": 1,
    "health": Health(probe=ExecProbe(command=["/bin/ask"])),
    "watchdog_ms": 1,
    "restart": Restart(when="never"),
    "pressure": Pressure(io_percent=1),
    "stop": Stop(signal="INT"),
    "reload": Reload(signal="USR1"),
    "limits": Limits(pids=1),
    "execution": Execution(umask=0),
    "scratch": [Scratch(path="/tmp")],
    "listeners": [Listener(name="http", address=Tcp(port=80), start="at-once")],
    "timers": [Timer(after_boot_ms=1)],
    "conditions": [PathExists(path="/etc")],
    "requires": ["x"],
    "wants": ["x"],
    "after": ["x"],
    "before": ["x"],
    "conflicts": ["x"],
}
ADOPTED = {
    *("restart", "health", "pressure", "stop", "reload", "ready_timeout_ms", "timers", "conditions"),
    *("requires", "wants", "after", "before", "conflicts"),
}


def test_it_is_decided_for_every_field_whether_its_change_needs_a_restart() -> None:
    assert set(OTHERWISE) == set(Service.__struct_fields__)
    timed = msgspec.structs.replace(WEB, timers=[Timer(after_end_ms=1)])
    for field, value in OTHERWISE.items():
        changes = changed({"web": timed}, {"web": msgspec.structs.replace(timed, **{field: value})})
        assert changes == (Changes() if field in ADOPTED else Changes(restarted=("web",))), field


def test_a_service_that_gains_its_first_timer_or_loses_its_last_restarts() -> None:
    timed = msgspec.structs.replace(WEB, timers=[Timer(after_end_ms=1)])
    assert changed({"web": WEB}, {"web": timed}).restarted == ("web",)
    assert changed({"web": timed}, {"web": WEB}).restarted == ("web",)


def test_a_service_that_merely_comes_after_does_not_wait_for_what_waits_in_vain() -> None:
    """ "worker" wants "queue", which requires "cache", which has failed: the worker starts without its queue."""
    needs = {"cache": Needs(), "queue": Needs(requires=("cache",)), "worker": Needs(wants=("queue",))}
    graph = Graph(needs)
    rows = {"cache": Row.STARTING, "queue": Row.WAITING, "worker": Row.WAITING}
    assert graph.holding_back("worker", rows) == ["comes after queue, which is waiting"]
    for given_up in (Row.FAILED, Row.IDLE):
        assert graph.holding_back("worker", {**rows, "cache": given_up}) == []
    assert graph.holding_back("worker", {"queue": Row.WAITING, "worker": Row.WAITING}) == []
