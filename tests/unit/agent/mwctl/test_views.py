"""What mwctl shows of the supervisor, verbatim: tree, reasons, blame, critical path, figures, events."""

import re
from typing import Any

import msgspec
import pytest

from milkyway_agent.api.machine import View
from milkyway_agent.mwctl.boot import blame_lines, path_lines
from milkyway_agent.mwctl.screen import Json, Painter
from milkyway_agent.mwctl.top import top_lines
from milkyway_agent.mwctl.views import branches, event_line, tree_lines, why_lines
from milkyway_formats.errors import RefusedError
from tests.fakes.machine import FakeMachine

PLAIN = Painter(colour=False)
COLOUR = Painter(colour=True)


def view() -> View:
    return FakeMachine().view


def sent(answer: Any) -> Json:
    """Return *answer* as mwctl gets it."""
    body: Json = msgspec.json.decode(msgspec.json.encode(answer))
    return body


TREE = """\
SERVICE             STATE      FOR         WHY
shop/nginx          waiting    2 h 13 min  requires shop/php, which is waiting
├─ shop/php         waiting    2 h 13 min  requires shop/db, which has failed
│  └─ shop/db       failed     2 h 13 min  ended with status 1; given up after 10 starts within 60 s
│     └─ disk       completed  2 h 13 min  it did its work; pulled in by shop/db
└─ dhcp (optional)  started    2 h 13 min  asked for by the boot
time                stopped    2 h 14 min  nobody has asked for it"""

WHY = """\
shop/nginx is waiting for 2 h 13 min
└─ requires shop/php, which is waiting for 2 h 13 min
   └─ requires shop/db, which has failed for 2 h 13 min: ended with status 1; given up after 10 starts within 60 s
wanted  asked for by the boot"""

WHY_FAILED = """\
shop/db has failed for 2 h 13 min, restarted 9 times by itself
because     ended with status 1; given up after 10 starts within 60 s
wanted      the boot asked for shop/nginx, which pulled in shop/php, which pulled in shop/db
holds back  shop/php
needed by   shop/php"""

BLAME = """\
TOOK    WAITED      READY AT  SERVICE
4.6 s   400 ms      -         shop/db     failed
3.5 s   1 ms        12.5 s    dhcp
400 ms  0 ms        9.4 s     disk
-       2 h 13 min  -         shop/nginx  underway
-       2 h 13 min  -         shop/php    underway

phases of the boot, in the order in which they finished
  9.1 s   pid1
  18.4 s  ready

READY AT counts from the start of the kernel"""

PATH = """\
BEGAN AT  TOOK    SERVICE
9.0 s     400 ms  disk
9.4 s     4.6 s   shop/db     failed
-         -       shop/php    underway
-         -       shop/nginx  underway

shop/nginx is not ready yet"""


async def test_the_tree() -> None:
    assert "\n".join(tree_lines(sent(await view().tree()), PLAIN)) == TREE


async def test_the_tree_of_one_service_is_what_it_needs() -> None:
    lines = tree_lines(sent(await view().tree()), PLAIN, root="shop/db")
    assert [line.split("  ")[0] for line in lines[1:]] == ["shop/db", "└─ disk"]
    with pytest.raises(RefusedError, match=r"^cannot show the tree of web: there is no such service$") as caught:
        tree_lines(sent(await view().tree()), PLAIN, root="web")
    assert caught.value.hint


async def test_no_line_is_longer_than_the_terminal_and_what_is_cut_says_so() -> None:
    tree = sent(await view().tree())
    for width in (80, 100):
        lines = tree_lines(tree, PLAIN, width=width)
        assert max(map(len, lines)) <= width
    assert any(line.endswith("…") for line in tree_lines(tree, PLAIN, width=80))
    assert tree_lines(tree, PLAIN, width=200) == tree_lines(tree, PLAIN)


def node(name: str, *requires: str, wants: tuple[str, ...] = ()) -> Json:
    return {
        "name": name,
        "row": "started",
        "since_ms": 0,
        "wanted": True,
        "why": "asked for",
        "requires": list(requires),
        "wants": list(wants),
    }


def test_what_is_needed_twice_is_expanded_once() -> None:
    services = [node("a", "c"), node("b", "c", wants=("c", "gone")), node("c", "d"), node("d")]
    tree = {"uptime_ms": 5, "roots": ["a", "b"], "services": services}
    names = [line.partition("  started")[0].rstrip() for line in tree_lines(tree, PLAIN)[1:]]
    assert names == ["a", "└─ c", "   └─ d", "b", "└─ c (above)"]


def test_a_cycle_that_should_not_exist_does_not_go_on_for_ever() -> None:
    tree = {"uptime_ms": 5, "roots": ["a"], "services": [node("a", "b"), node("b", "a")]}
    assert len(tree_lines(tree, PLAIN)) == 4


def test_branches_draw_what_follows_and_what_does_not() -> None:
    assert branches([0, 1, 2, 2, 1, 0, 1]) == ["", "├─ ", "│  ├─ ", "│  └─ ", "└─ ", "", "└─ "]
    assert branches([]) == []


async def test_why_a_service_waits_and_why_one_failed() -> None:
    assert "\n".join(why_lines(sent(await view().why("shop/nginx")), PLAIN)) == WHY
    assert "\n".join(why_lines(sent(await view().why("shop/db")), PLAIN)) == WHY_FAILED


async def test_why_a_service_runs_and_why_one_does_not() -> None:
    assert why_lines(sent(await view().why("dhcp")), PLAIN) == [
        "dhcp is started for 2 h 13 min, pid 88",
        "wanted     asked for by the boot",
        "needed by  shop/nginx",
    ]
    assert why_lines(sent(await view().why("time")), PLAIN) == [
        "time is stopped for 2 h 14 min",
        "because  nobody has asked for it",
    ]


async def test_blame_and_the_critical_path() -> None:
    assert "\n".join(blame_lines(sent(await view().blame()), PLAIN)) == BLAME
    assert "\n".join(path_lines(sent(await view().critical_path("shop/nginx")), PLAIN)) == PATH
    assert path_lines(sent(await view().critical_path("")), PLAIN)[-1] == (
        "dhcp was ready 12.5 s after the start of the kernel; these services took 3.5 s of it"
    )


async def test_blame_leaves_out_what_came_after_the_boot_and_says_so() -> None:
    blame = sent(await view().blame())
    blame["services"][1]["boot"] = False
    assert "dhcp" not in "\n".join(blame_lines(blame, PLAIN))
    assert blame_lines(blame, PLAIN)[-1] == "1 more were started after the boot: --all shows them"
    assert "dhcp" in "\n".join(blame_lines(blame, PLAIN, everything=True))


async def test_top_shows_rates_and_no_column_that_the_machine_has_no_figures_for() -> None:
    fake = view()
    before, now = sent(await fake.top()), sent(await fake.top())
    assert top_lines(now, before, PLAIN) == [
        "2 of 6 services started, up 2 h 14 min, cpu 25.0 % of 200 %, memory 3.0 M",
        "",
        "SERVICE  STATE    CPU %  MEMORY  TASKS  READ/S  WRITE/S  CPU WAIT %  MEM WAIT %",
        "dhcp     started   25.0   3.0 M      2     0 B      0 B         0.0        12.5",
    ]
    assert "CPU %" not in top_lines(now, None, PLAIN)[2]  # a single reading gives no rate


def use(name: str, **figures: float | None) -> Json:
    none = dict.fromkeys(("memory_bytes", "cpu_usec", "tasks", "read_bytes", "written_bytes"))
    pressure = dict.fromkeys(("cpu_pressure", "memory_pressure", "io_pressure"))
    return {"service": name, "state": "started", "pid": 1, "figures": {**none, **pressure, **figures}}


def picture(at_us: int, *services: Json) -> Json:
    return {"at_us": at_us, "uptime_ms": 1, "processors": 1, "services": list(services)}


def order(sort: str) -> list[str]:
    before = picture(0, use("a", cpu_usec=0, read_bytes=0), use("b", cpu_usec=0, read_bytes=0), use("c", cpu_usec=900))
    now = picture(
        1_000_000,
        use("a", cpu_usec=100, read_bytes=9, memory_bytes=1, tasks=1),
        use("b", cpu_usec=50, read_bytes=20, memory_bytes=5, tasks=2),
        use("c", cpu_usec=70, memory_bytes=2, tasks=3),  # restarted: its group counts from 0
    )
    return [line.split()[0] for line in top_lines(now, before, PLAIN, sort=sort)[3:]]


def test_top_is_sorted_as_asked() -> None:
    assert order("cpu") == ["a", "c", "b"]
    assert order("memory") == ["b", "c", "a"]
    assert order("tasks") == ["c", "b", "a"]
    assert order("io") == ["b", "a", "c"]
    assert order("name") == ["a", "b", "c"]


def test_top_fits_the_terminal() -> None:
    now = picture(1, *(use(f"s{number:03}", cpu_usec=0) for number in range(500)))
    lines = top_lines(now, None, PLAIN, height=20)
    assert len(lines) == 20
    assert lines[-1] == "and 484 more services"


def test_an_event_is_a_sentence_and_a_change_of_state_an_arrow() -> None:
    changed: Json = {
        "time_ms": 5,
        "service": "web",
        "text": "service state changed: …",
        "stream": "event",
        "priority": 6,
        "event": "service_state_changed",
        "facts": {"was": "idle", "now": "failed", "cause": "gave up", "reason": "\x1b[2Jbad"},
    }
    assert event_line(changed, PLAIN, moment=str) == "5 web idle → failed (gave up): \\x1b[2Jbad"
    other: Json = {**changed, "event": "service_killed", "text": "service killed", "facts": {}}
    assert event_line(other, PLAIN, moment=str) == "5 web service killed"
    assert event_line({"error": {"message": "gone"}}, PLAIN, moment=str) == "(the log ends here: gone)"


async def test_colour_changes_nothing_but_colour() -> None:
    fake = view()
    tree, reasons, blame, path = (
        await fake.tree(),
        await fake.why("shop/nginx"),
        await fake.blame(),
        await fake.critical_path(""),
    )
    for show, answer in ((tree_lines, tree), (why_lines, reasons), (blame_lines, blame), (path_lines, path)):
        coloured = "\n".join(show(sent(answer), COLOUR))
        assert "\x1b[" in coloured
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == "\n".join(show(sent(answer), PLAIN))
