"""What mwctl shows of services: the tree, the reasons for a state, and events. Pure, like ``mwctl.screen``.

*width* is the terminal's: the last column, which is prose, is cut to fit; None cuts nothing.
"""

from collections.abc import Sequence
from typing import Any

from milkyway_agent.mwctl.screen import Cell, Json, Painter, clean, duration, head, log_line
from milkyway_formats.errors import RefusedError

STYLE_OF_ROW = {"started": "good", "completed": "good", "armed": "good", "failed": "bad", "idle": "faint"}
LEAST_PROSE = 12  # characters of the last column that are shown even on a narrow terminal


def tree_lines(tree: Json, painter: Painter, *, root: str = "", width: int | None = None) -> list[str]:
    """Return what ``mwctl tree`` prints. Raises RefusedError when there is no service *root*."""
    services = {each["name"]: each for each in tree["services"]}
    if root and root not in services:
        raise RefusedError(
            f"cannot show the tree of {root}: there is no such service", hint="`mwctl tree` without a name shows all"
        )
    nodes = _nodes(services, [root] if root else tree["roots"])
    if not nodes:
        return ["no services"]
    rows = []
    for prefix, (_, name, mark) in zip(branches([depth for depth, _, _ in nodes]), nodes, strict=True):
        each = services[name]
        rows.append(
            [
                Cell(f"{prefix}{clean(name)}{mark}"),
                _row(each["row"]),
                Cell(duration(tree["uptime_ms"] - each["since_ms"])),
                Cell(clean(each["why"])),
            ]
        )
    return fitted(painter, rows, head("SERVICE", "STATE", "FOR", "WHY"), width)


def why_lines(why: Json, painter: Painter, *, width: int | None = None) -> list[str]:
    """Return what ``mwctl why`` prints: the service's state, what it waits for, who wants it, what waits for it."""
    now = why["uptime_ms"]
    pid = f", pid {why['pid']}" if why["pid"] else ""
    times = why["restarts"]
    restarts = f", restarted {'once' if times == 1 else f'{times} times'} by itself" if times else ""
    first = f"{painter.paint(clean(why['service']), 'bold')} {_is_in(why['row'], painter)}"
    lines = [f"{first} for {duration(now - why['since_ms'])}{pid}{restarts}"]
    reasons = why["because"]
    prefixes = branches([reason["depth"] for reason in reasons])
    for number, (prefix, reason) in enumerate(zip(prefixes, reasons, strict=True)):
        following = reasons[number + 1]["depth"] if number + 1 < len(reasons) else 0
        state = f", which {_is_in(reason['row'], painter)}" if reason["row"] else ""
        since = f" for {duration(now - reason['since_ms'])}" if reason["row"] else ""
        # Why a service waits that waits itself is told by the lines below it.
        told = "" if following > reason["depth"] else f": {clean(reason['why'])}"
        lines.append(f"{prefix}{reason['relation']} {clean(reason['service'])}{state}{since}{told}")
    # A service is started because it is wanted, and waits for others because of the lines above.
    facts = [] if reasons or why["row"] == "started" else [("because", clean(why["why"]))]
    if why["wanted"] and why["wanted_by"]:
        facts.append(("wanted", _asked(why["wanted_by"])))
    if why["holds_back"]:
        facts.append(("holds back", ", ".join(map(clean, why["holds_back"]))))
    if why["needed_by"]:
        facts.append(("needed by", ", ".join(map(clean, why["needed_by"]))))
    return [*lines, *fitted(painter, [[Cell(name, "faint"), Cell(text)] for name, text in facts], None, width)]


def event_line(line: Json, painter: Painter, *, moment: Any) -> str:
    """Return one event; a change of state as an arrow. *moment* turns Unix milliseconds into local time."""
    if line.get("event") != "service_state_changed":
        return log_line(line, painter, moment=moment)
    facts = line["facts"]
    reason = f": {clean(facts['reason'])}" if facts.get("reason") else ""
    change = f"{clean(facts['was'])} → {painter.paint(*_row(str(facts['now'])))} ({clean(facts['cause'])}){reason}"
    return f"{painter.paint(moment(line['time_ms']), 'faint')} {painter.paint(clean(line['service']), 'bold')} {change}"


def branches(depths: Sequence[int]) -> list[str]:
    """Return the prefixes that draw a tree, one for each node; *depths*: the nodes' depths, from 0, in the order listed."""
    found = []
    open_levels: set[int] = set()  # the levels at which another node follows
    for depth in reversed(depths):
        bars = "".join("│  " if level in open_levels else "   " for level in range(1, depth))
        found.append(f"{bars}{'├─ ' if depth in open_levels else '└─ '}" if depth else "")
        open_levels = {level for level in open_levels if level < depth} | {depth}
    return found[::-1]


def _nodes(services: dict[str, Json], roots: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return depth, name and mark of each line of the tree; a service that occurs twice is expanded once."""
    found: list[tuple[int, str, str]] = []
    expanded: set[str] = set()
    # Wanted services come first.
    left = [(0, name, "") for name in sorted(roots, key=lambda name: not services[name]["wanted"])[::-1]]
    while left:
        depth, name, mark = left.pop()
        each = services[name]
        parts = [(part, "") for part in each["requires"]] + [(part, " (optional)") for part in each["wants"]]
        parts = [(part, kind) for part, kind in dict(reversed(parts)).items() if part in services]
        if parts and name in expanded:
            found.append((depth, name, f"{mark} (above)"))
            continue
        expanded.add(name)
        found.append((depth, name, mark))
        left += [(depth + 1, part, kind) for part, kind in parts]
    return found


def fitted(painter: Painter, rows: list[list[Cell]], names: list[Cell] | None, width: int | None) -> list[str]:
    """Return *rows* as a table whose last column is cut so that no line is longer than *width*."""
    if width is not None and rows:
        lines = [*rows, names] if names else rows
        used = [index for index in range(len(rows[0]) - 1) if any(row[index].text for row in rows)]
        room = max(width - sum(max(len(row[index].text) for row in lines) + 2 for index in used), LEAST_PROSE)
        rows = [[*row[:-1], Cell(_cut(row[-1].text, room), row[-1].style)] for row in rows]
    return painter.table(rows, head=names)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _row(label: str) -> Cell:
    return Cell("stopped" if label == "idle" else clean(label), STYLE_OF_ROW.get(label, "busy"))


def _is_in(label: str, painter: Painter) -> str:
    """Return "is started", "has failed" and so on: a predicate for the service in this state."""
    word = "has failed" if label == "failed" else f"is {'stopped' if label == 'idle' else clean(label)}"
    verb, _, state = word.partition(" ")
    return f"{verb} {painter.paint(state, STYLE_OF_ROW.get(label, 'busy'))}"


def _asked(askers: list[Json]) -> str:
    """Return the chain from whoever asked down to the service: "the boot asked for shop, which pulled in php"."""
    last = askers[-1]
    service, who = clean(last["service"]), clean(last["who"])
    if len(askers) == 1 and last["kind"] == "asked":
        return f"asked for by {who}" if who else "asked for"
    if last["kind"] == "asked":
        first = f"{who} asked for {service}" if who else f"somebody asked for {service}"
    elif last["kind"] == "pulled-in":  # by a service that no longer exists
        first = f"{who} pulled in {service}"
    else:
        first = f"{service} was wanted and no longer is"
    return "".join([first, *(f", which pulled in {clean(each['service'])}" for each in reversed(askers[:-1]))])
