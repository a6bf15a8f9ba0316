"""The generated section on boots in docs/performance.md. Pure."""

from collections.abc import Mapping

from bench.boot.figures import STEPS, Boot
from bench.boot.images import OURS, THEIRS
from bench.machine import Machine
from bench.spread import Spread, ratio, spread

BEGIN = "<!-- written by python -m bench.boot --write; change that -->"
END = "<!-- end of what python -m bench.boot --write wrote -->"
GOAL = 1.0


def section(date: str, machine: Machine, rounds: int, boots: Mapping[str, Mapping[int, Boot]], systemd: str) -> str:
    """Draw the section, markers included; *boots*: by root and number of the round."""
    first = {name: {number: boot.first_s for number, boot in found.items()} for name, found in boots.items()}
    seen = ratio(first[OURS], first[THEIRS])
    lines = [
        BEGIN,
        "",
        f"{date}; rounds: {rounds}, in turn; systemd {systemd}. {machine.processor}, {machine.cores} cores, Linux "
        f"{machine.kernel}; QEMU without KVM where there is none; load before the run {machine.load}.",
        "",
        "| seconds: median (least to greatest) | milkyway | systemd |",
        "| --- | --- | --- |",
        *(f"| {step} | {_step(boots[OURS], step)} | {_step(boots[THEIRS], step)} |" for step in STEPS),
        f"| **kernel to first service** | {_of(list(first[OURS].values()))} | {_of(list(first[THEIRS].values()))} |",
        "",
        f"milkyway ÷ systemd, round by round: {_ratio(seen)}. Goal: at most {GOAL:.1f}, {_verdict(seen)}.",
        "",
        END,
    ]
    return "\n".join(lines)


def _step(found: Mapping[int, Boot], step: str) -> str:
    return _of([boot.steps()[step] for boot in found.values()])


def _of(values: list[float]) -> str:
    if not values:
        return "-"
    seen = spread(values)
    return f"{seen.median:.2f} ({seen.least:.2f} to {seen.greatest:.2f})"


def _ratio(seen: Spread | None) -> str:
    return "not measured" if seen is None else f"{seen.median:.2f} ({seen.least:.2f} to {seen.greatest:.2f})"


def _verdict(seen: Spread | None) -> str:
    if seen is None:
        return "not measured"
    return "reached" if seen.median <= GOAL else "missed"
