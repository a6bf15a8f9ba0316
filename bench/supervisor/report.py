"""A run's record for people: tables on a terminal, and the generated section of docs/performance.md.

Pure, except ``show``, which prints. Both are made from the same rows, so they can't differ.
"""

from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.spread import Spread, ratio, spread
from bench.supervisor.figures import FIGURES, GOALS, OURS, Figure, FigureName, Goal, Outcome, outcome, share
from bench.supervisor.record import Record

BEGIN = "<!-- written by python -m bench --write; change that -->"
END = "<!-- end of what python -m bench --write wrote -->"
NOTHING = "-"
VERDICT = {True: "reached", False: "missed", None: "not measured"}


class Grid(NamedTuple):
    """A table: its heading, the names of its columns, its rows."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def grids(record: Record) -> list[Grid]:
    """Return *record* as tables: figures, ratios of ours to each peer's, goals."""
    names = [name for name, peer in record.peers.items() if not peer.missing]
    figures = [
        (f"{record.title(figure.name)}, {figure.unit}", *(_figure(record, name, figure) for name in names))
        for figure in FIGURES
    ]
    tables = [Grid("Median (least to greatest; width of the middle half)", ("", *names), figures)]
    others = [name for name in names if name != OURS]
    if OURS in names:
        ratios = [(record.title(figure.name), *(_ratio(record, name, figure.name) for name in others)) for figure in FIGURES]
        tables.append(Grid(f"{OURS} ÷ peer, round by round: median (least to greatest)", ("", *others), ratios))
    tables.append(
        Grid(
            "Goals",
            ("figure", "at most", "measured", "", "floor"),
            [_goal(record, outcome(goal, record.results)) for goal in GOALS],
        )
    )
    return tables


def _figure(record: Record, peer: str, figure: Figure) -> str:
    rounds = record.results[peer].get(figure.name)
    if not rounds:
        return NOTHING
    seen, digits = spread(list(rounds.values())), figure.digits
    return f"{seen.median:.{digits}f} ({seen.least:.{digits}f} to {seen.greatest:.{digits}f}; {seen.interquartile:.{digits}f})"


def _ratio(record: Record, peer: str, figure: FigureName) -> str:
    return _quotient(ratio(record.results[OURS].get(figure, {}), record.results[peer].get(figure, {})))


def _quotient(seen: Spread | None) -> str:
    return f"{seen.median:.3f} ({seen.least:.3f} to {seen.greatest:.3f})" if seen else NOTHING


def _goal(record: Record, held: Outcome) -> tuple[str, ...]:
    goal = held.goal
    unit = next(known.unit for known in FIGURES if known.name == goal.figure)
    wanted = f"{share(goal.at_most)} of {goal.peer}" if goal.peer else f"{goal.at_most:g} {unit}"
    measured, least = _share(held.measured, goal, unit), _share(held.least, goal, unit)
    return record.title(goal.figure), wanted, measured, VERDICT[held.reached], least


def _share(seen: Spread | None, goal: Goal, unit: str) -> str:
    if goal.peer or not seen:
        return _quotient(seen)
    return f"{seen.median:.2f} ({seen.least:.2f} to {seen.greatest:.2f}) {unit}"


def remarks(record: Record) -> Iterator[str]:
    """Yield the remarks to the figures: versions, defaults, missing peers, failures."""
    for name, peer in record.peers.items():
        known = peer.missing or peer.version
        yield f"{name} ({known}): {'; '.join(peer.notes)}." if not peer.missing else f"{name}: {known}."
    yield from record.failures


def about(record: Record) -> str:
    """Describe the machine and the run in two sentences."""
    machine = record.machine
    kind = "virtual" if machine.virtual else "real"
    return (
        f"{record.date}; rounds: {record.rounds}; services: {record.services}. "
        f"{machine.processor}, {machine.cores} cores ({kind} machine), "
        f"{machine.memory_mib} MiB, Linux {machine.kernel}, Python {machine.python}; load before the run {machine.load}."
    )


def show(record: Record, console: Console) -> None:
    """Print *record* for people."""
    console.print(about(record))
    for grid in grids(record):
        table = Table(title=grid.title, title_justify="left")
        for number, column in enumerate(grid.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for remark in remarks(record):
        console.print(f"· {remark}", markup=False, highlight=False)


def section(record: Record) -> str:
    """Return the generated section of docs/performance.md, with its markers."""
    lines = [BEGIN, "", about(record), ""]
    for grid in grids(record):
        lines += [f"### {grid.title}", "", _row(grid.columns), _row(("---",) * len(grid.columns)), *map(_row, grid.rows), ""]
    lines += ["### What is measured", ""]
    lines += [f"- **{record.title(figure.name)}**: {record.meaning(figure.name)}" for figure in FIGURES]
    lines += ["", "### What the peers do by default", "", *(f"- {remark}" for remark in remarks(record)), "", END]
    return "\n".join(lines)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def replace_section(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """Return *page* with the section from *begin* to *end* replaced by *text*. Raises ValueError if it has no markers."""
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError("cannot write the figures: the page has no section of theirs")
    return before + text + after
