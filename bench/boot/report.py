"""The generated section "Boot" of docs/performance.md, from the record of a run. Pure."""

from collections.abc import Mapping

from bench.boot.console import STRETCHES, lasted
from bench.boot.record import GOAL, OURS, THEIRS, BootRecord, summary
from bench.spread import Rounds, ratio

BEGIN = "<!-- written by python -m bench boot --write; change that -->"
END = "<!-- end of what python -m bench boot --write wrote -->"
NOTHING = "-"
NOTES = (
    "Both roots are the same tree: CoreOS' own, on dm-verity, with the same kernel, initramfs, command line (except the root "
    "hash) and virtual machine. The second also has the files of Debian's systemd, and systemd in the place of our PID 1.",
    "The first service is the DHCP client of CoreOS. A static program prints the time on the console and executes it. On both "
    "sides it begins when the network's driver is loaded; the kernel's other modules are loaded meanwhile.",
    "systemd starts it without default dependencies, right after a unit that loads the same modules with the same calls: as "
    "early as it can. A unit with default dependencies (`ordinary service`) is measured beside it.",
    "systemd has no udev, prints no status on the slow serial console, and its units that wait for udev or fail on a root "
    "that can't be written are masked. All of this favours systemd. Ours prints its log there, and starts two consoles, the "
    "data disk and the API beside the first service; systemd has none of these, so `booted` is not the same thing.",
    "SELinux enforces on both sides. Our policy has no rules for systemd, so there every domain may do everything. Ours has "
    "one more rule, which lets the first service open the console.",
    "`a service could start`: ours once the control groups are set up; systemd's once a unit without requirements has begun.",
)


def section(record: BootRecord) -> str:
    """Return the section, with its markers."""
    lines = [BEGIN, "", _about(record), "", _verdict(record), "", *_moments(record)]
    for name in (OURS, THEIRS):
        lines += ["", f"Where the time goes, {name}:", "", *_stretches(record, name)]
    lines += ["", *(f"- {note}" for note in NOTES), *(f"- {failure}" for failure in _failures(record)), "", END]
    return "\n".join(lines)


def _about(record: BootRecord) -> str:
    machine = record.machine
    accelerators = sorted({boot.accelerator for boots in record.boots.values() for boot in boots.values()})
    return (
        f"{record.date}; rounds: {record.rounds}; Linux {record.kernel}, systemd {record.systemd}; QEMU with "
        f"{' and '.join(accelerators) or 'nothing'}, 2 processors, on {machine.processor}, {machine.cores} cores, "
        f"{machine.memory_mib} MiB; load before the run {machine.load}. Seconds: median (least to greatest)."
    )


def _verdict(record: BootRecord) -> str:
    seen = record.first_service()
    if seen is None:
        return "Kernel to first service: not measured."
    shown = f"{seen.median:.2f} ({seen.least:.2f} to {seen.greatest:.2f})"
    reached = "reached" if seen.median <= GOAL else f"missed by {(seen.median - GOAL) * 100:.0f} %"
    return f"Kernel to first service, ours ÷ systemd, round by round: **{shown}**; the goal is at most {GOAL:.1f}: {reached}."


def _moments(record: BootRecord) -> list[str]:
    rows: list[tuple[str, Rounds, Rounds]] = [
        ("PID 1 executed", record.moment(OURS, "pid1-executed"), record.moment(THEIRS, "pid1-executed")),
        ("a service could start", record.moment(OURS, "phase-cgroups"), record.moment(THEIRS, "supervisor")),
        ("first service", record.moment(OURS, "first"), record.moment(THEIRS, "first")),
        ("first service after exec of PID 1", record.after(OURS, "pid1-executed", "first"),
         record.after(THEIRS, "pid1-executed", "first")),
        ("ordinary service", {}, record.moment(THEIRS, "ordinary")),
        ("booted", record.moment(OURS, "booted"), record.moment(THEIRS, "booted")),
        ("first service, wall time from starting QEMU", record.wall(OURS), record.wall(THEIRS)),
    ]  # fmt: skip
    lines = [_row("moment", OURS, THEIRS, "ratio"), _row(*["---"] * 4)]
    for title, ours, theirs in rows:
        seen = ratio(ours, theirs)
        shown = f"{seen.median:.2f} ({seen.least:.2f} to {seen.greatest:.2f})" if seen else NOTHING
        lines.append(_row(title, _seconds(ours), _seconds(theirs), shown))
    return lines


def _stretches(record: BootRecord, name: str) -> list[str]:
    lines = [_row("stretch", "seconds"), _row("---", "---")]
    for stretch in STRETCHES[name]:
        known = {number: lasted(stretch, boot.at) for number, boot in record.boots[name].items()}
        lines.append(_row(stretch.title, _seconds({number: ms for number, ms in known.items() if ms is not None})))
    return lines


def _failures(record: BootRecord) -> list[str]:
    units = sorted({unit for boot in record.boots[THEIRS].values() for unit in boot.failed})
    return [*record.failures, *([f"Units of systemd that failed: {', '.join(units)}."] if units else [])]


def _seconds(rounds: Mapping[int, float]) -> str:
    seen = summary(rounds)
    return f"{seen.median / 1000:.2f} ({seen.least / 1000:.2f} to {seen.greatest / 1000:.2f})" if seen else NOTHING


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
