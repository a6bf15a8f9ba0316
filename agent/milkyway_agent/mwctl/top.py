"""``mwctl top``: what services use, printed once or refreshed on a terminal, which is left as it was.

``top_lines`` is pure; ``watch`` owns the terminal while it runs: alternate screen, no cursor, keys read without Enter.
"""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from milkyway_agent.mwctl.screen import STYLE_OF_STATE, Cell, Json, Painter, clean, duration, head
from milkyway_formats.errors import UnavailableError

REFRESH_SECONDS = 2.0
ONCE_SECONDS = 0.5  # between the two readings from which rates are computed
UNITS = ("B", "K", "M", "G", "T")
# To the alternate screen without a cursor, and back (xterm's ctlseqs: DECSET 1049, 25).
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, TO_END_OF_LINE, TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(ask: Callable[[], Json], painter: Painter, *, sort: str) -> None:
    """Show what *ask* returns, refreshed every two seconds, until q is pressed.

    Raises UnavailableError when the first request fails; later failures are shown.
    """
    now, before, trouble = ask(), None, ""
    with _own_screen():
        while True:
            columns, height = os.get_terminal_size()
            lines = top_lines(now, before, painter, sort=sort, height=height - 2)
            lines += [painter.paint(trouble, "bad") if trouble else painter.paint("q quits", "faint")]
            shown = [_narrow(line, columns) for line in lines]
            sys.stdout.write(HOME + "".join(f"{line}{TO_END_OF_LINE}\r\n" for line in shown) + TO_END)
            sys.stdout.flush()
            if _pressed_q(REFRESH_SECONDS if before else ONCE_SECONDS):
                return
            try:
                now, before, trouble = ask(), now, ""
            except UnavailableError as error:  # the agent may be re-executing
                trouble = clean(error)


def top_lines(now: Json, before: Json | None, painter: Painter, *, sort: str = "cpu", height: int | None = None) -> list[str]:
    """Return what services use: rates over the time since *before*, the busiest first, at most *height* lines."""
    seconds = (now["at_us"] - before["at_us"]) / 1e6 if before else 0.0
    earlier = {each["service"]: each["figures"] for each in before["services"]} if before else {}
    shown = []
    for each in now["services"]:
        figures = each["figures"]
        if not each["pid"] and figures["cpu_usec"] is None:
            continue  # it uses nothing
        old = earlier.get(each["service"], {})
        rates = {name: _rate(figures[name], old.get(name), seconds) for name in ("cpu_usec", "read_bytes", "written_bytes")}
        shown.append((each, figures, rates))
    shown.sort(key=_order(sort))
    rows = [
        [
            Cell(clean(each["service"])),
            Cell(clean(each["state"]), STYLE_OF_STATE.get(each["state"], "busy")),
            Cell(f"{rates['cpu_usec'] / 1e4:.1f}" if rates["cpu_usec"] is not None else ""),
            Cell(_amount(figures["memory_bytes"])),
            Cell("" if figures["tasks"] is None else str(figures["tasks"])),
            Cell(_amount(rates["read_bytes"])),
            Cell(_amount(rates["written_bytes"])),
            *(_pressure(figures[name]) for name in ("cpu_pressure", "memory_pressure", "io_pressure")),
        ]
        for each, figures, rates in shown
    ]
    up = sum(each["state"] == "started" for each in now["services"])
    cpu = sum(rates["cpu_usec"] or 0 for _, _, rates in shown) / 1e4
    memory = [figures["memory_bytes"] for _, figures, _ in shown if figures["memory_bytes"] is not None]
    facts = [f"{up} of {len(now['services'])} services started", f"up {duration(now['uptime_ms'])}"]
    facts += [f"cpu {cpu:.1f} % of {100 * now['processors']} %"] if before else []
    facts += [f"memory {_amount(sum(memory))}"] if memory else []
    names = head("SERVICE", "STATE", "CPU %", "MEMORY", "TASKS", "READ/S", "WRITE/S", "CPU WAIT %", "MEM WAIT %", "IO WAIT %")
    lines = [painter.paint(", ".join(facts), "bold"), ""]
    lines += painter.table(rows, head=names, right=range(2, 10)) if rows else []
    if height is not None and len(lines) > height:
        hidden = len(lines) - height + 1
        lines = [*lines[: height - 1], painter.paint(f"and {hidden} more services", "faint")]
    return lines


def _rate(value: int | None, old: int | None, seconds: float) -> float | None:
    """Return how much *value* grew per second; None if unknown. A control group that was made anew counts from 0."""
    if value is None or old is None or seconds <= 0:
        return None
    return (value - old if value >= old else value) / seconds


def _amount(value: float | None) -> str:
    if value is None:
        return ""
    unit = 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {UNITS[unit]}" if unit and value < 10 else f"{value:.0f} {UNITS[unit]}"


def _pressure(value: float | None) -> Cell:
    if value is None:
        return Cell("")
    return Cell(f"{value:.1f}", "bad" if value >= 50 else "busy" if value >= 10 else "")


def _order(sort: str) -> Any:
    def key(row: tuple[Json, Json, dict[str, float | None]]) -> tuple[float, ...] | tuple[float, float, str]:
        each, figures, rates = row
        if sort == "name":
            return (0, 0, each["service"])
        io = (rates["read_bytes"] or 0) + (rates["written_bytes"] or 0)
        value = {"cpu": rates["cpu_usec"], "memory": figures["memory_bytes"], "tasks": figures["tasks"], "io": io}[sort]
        return (-(value or 0), -(figures["memory_bytes"] or 0), each["service"])

    return key


@contextmanager
def _own_screen() -> Iterator[None]:
    """Use the terminal's alternate screen and read keys without Enter; restore both afterwards."""
    import termios
    import tty

    keys = sys.stdin.fileno()
    mode = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys)
        sys.stdout.write(ENTER)
        yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(keys, termios.TCSADRAIN, mode)


def _pressed_q(seconds: float) -> bool:
    """Wait up to *seconds* for a key; tell whether it was q, or whether there will be no more keys."""
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], seconds)
    if not readable:
        return False
    pressed = os.read(sys.stdin.fileno(), 64)
    return not pressed or b"q" in pressed.lower()


def _narrow(line: str, columns: int) -> str:
    """Return *line* cut to *columns*; escape sequences take none."""
    kept, room, is_escape = [], columns, False
    for character in line:
        is_escape = is_escape or character == "\x1b"
        if is_escape or room > 0:
            kept.append(character)
            room -= not is_escape
        is_escape = is_escape and character != "m"
    return "".join(kept)
