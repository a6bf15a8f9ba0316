"""Write docs/reference/service-states.md from the table of ``core.service_state``, so that it cannot differ from it.

``page`` is pure; ``main`` writes it, or only compares it with --check. The prose is that module's docstring.
"""

import inspect
import sys
from pathlib import Path

from milkyway_agent.core import service_state
from milkyway_agent.core.service_state import TABLE, Event, Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "service-states.md"
SOURCE = "<!-- written by setup/state_diagram.py from agent/milkyway_agent/core/service_state.py; change that -->"
# It leads from every row to the same row: as arrows it would hide all others.
EVERYWHERE = Event.INTERNAL_ERROR


def page() -> str:
    """Return the text of the whole page."""
    return (
        "\n\n".join(
            [
                "# The states of a service",
                SOURCE,
                *_prose(inspect.getdoc(service_state) or ""),
                "## As a diagram",
                f"From every row, `{EVERYWHERE.value}` leads to `{TABLE[Row.IDLE, EVERYWHERE].row.label}`. "
                "Left out besides: events that change nothing.",
                f"```mermaid\n{diagram()}\n```",
                "## As a table",
                "Effects are carried out in this order. An event in a row without an entry here is a bug of its sender.",
                table(),
            ]
        )
        + "\n"
    )


def diagram() -> str:
    """Return the table as a Mermaid state diagram; events with the same rows share an arrow."""
    arrows: dict[tuple[Row, Row], list[str]] = {}
    for (row, event), following in TABLE.items():
        if event is not EVERYWHERE and (following.row is not row or following.effects):
            arrows.setdefault((row, following.row), []).append(event.value)
    lines = [f"    {row.label} --> {following.label}: {', '.join(events)}" for (row, following), events in arrows.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {Row.IDLE.label}", *lines])


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        f"| {row.label} | {event.value} | {following.row.label} | {', '.join(effect.value for effect in following.effects)} |"
        for (row, event), following in TABLE.items()
    ]
    return "\n".join(["| row | event | next row | effects |", "|---|---|---|---|", *lines])


def main(arguments: list[str]) -> int:
    """Write the page; with ``--check``, write nothing and return 1 if it is out of date."""
    text = page()
    is_fresh = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
    if arguments == ["--check"]:
        if not is_fresh:
            print("docs/reference/service-states.md is out of date: run `python setup/state_diagram.py`", file=sys.stderr)
        return 0 if is_fresh else 1
    if not is_fresh:
        PAGE.write_text(text, encoding="utf-8")
        print("docs/reference/service-states.md")
    return 0


def _prose(docstring: str) -> list[str]:
    """Return a docstring's paragraphs as Markdown: an indented paragraph becomes a code block."""
    found = []
    for paragraph in docstring.split("\n\n"):
        lines = paragraph.strip("\n").splitlines()
        if all(line.startswith("    ") for line in lines):
            found.append("\n".join(["```text", *(line[4:] for line in lines), "```"]))
        else:
            found.append("\n".join(lines).removesuffix(":").replace("``", "`"))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
