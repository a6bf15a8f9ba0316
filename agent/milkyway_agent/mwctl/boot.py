"""What mwctl shows of the boot: how long each service took, and what held up the last one. Pure, like ``mwctl.screen``."""

from milkyway_agent.mwctl.screen import Cell, Json, Painter, clean, duration, head
from milkyway_agent.mwctl.views import fitted

STYLE_OF_OUTCOME = {"failed": "bad", "underway": "busy"}


def blame_lines(blame: Json, painter: Painter, *, everything: bool = False, width: int | None = None) -> list[str]:
    """Return what ``mwctl blame`` prints; *everything* includes what was started after the boot."""
    shown = [each for each in blame["services"] if each["boot"] or everything]
    start = blame["start_ms"]
    rows = [
        [
            _length(each["took_ms"], each["permitted_ms"]),
            Cell(duration(each["waited_ms"]), "faint"),
            _length(each["ready_ms"] - start, each["ready_ms"]),
            Cell(clean(each["service"])),
            _outcome(each["outcome"]),
        ]
        for each in shown
    ]
    names = head("TOOK", "WAITED", "READY AT", "SERVICE", "")
    lines = fitted(painter, rows, names, width) if rows else ["nothing was started"]
    if blame["phases"]:
        done = sorted(blame["phases"].items(), key=lambda item: item[1])
        lines += ["", painter.paint("phases of the boot, in the order in which they finished", "bold")]
        lines += painter.table([[Cell(duration(at)), Cell(clean(name))] for name, at in done], indent="  ")
    after = len(blame["services"]) - len(shown)
    notes = [f"READY AT counts from {'the first start' if start else 'the start of the kernel'}"]
    notes += [f"{after} more were started after the boot: --all shows them"] if after else []
    return [*lines, "", *(painter.paint(each, "faint") for each in notes)] if blame["services"] else lines


def path_lines(path: Json, painter: Painter, *, width: int | None = None) -> list[str]:
    """Return what ``mwctl critical-path`` prints."""
    steps, start = path["steps"], path["start_ms"]
    rows = [
        [
            _length(each["permitted_ms"] - start, each["permitted_ms"]),
            _length(each["took_ms"], each["permitted_ms"]),
            Cell(clean(each["service"])),
            _outcome(each["outcome"]),
        ]
        for each in steps
    ]
    return [*fitted(painter, rows, head("BEGAN AT", "TOOK", "SERVICE", ""), width), "", painter.paint(_total(path), "faint")]


def _total(path: Json) -> str:
    """Return how long the whole path took, as a sentence."""
    last = path["steps"][-1]
    name = clean(path["target"])
    if last["outcome"] == "underway":
        return f"{name} is not ready yet"
    what = "was ready" if last["outcome"] == "ready" else "was given up"
    since = "the first start" if path["start_ms"] else "the start of the kernel"
    spent = duration(sum(each["took_ms"] for each in path["steps"]))
    whole = duration(last["settled_ms"] - path["start_ms"])
    return f"{name} {what} {whole} after {since}; these services took {spent} of it"


def _length(milliseconds: int, is_known: int) -> Cell:
    return Cell(duration(milliseconds)) if is_known else Cell("-", "faint")


def _outcome(outcome: str) -> Cell:
    return Cell("" if outcome == "ready" else outcome, STYLE_OF_OUTCOME.get(outcome, ""))
