"""``python -m bench`` (``make bench``): run the supervisors side by side, show the figures, write them down on request."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console

from bench.boot import report as boot_report
from bench.boot.rounds import run_boots
from bench.machine import this_machine
from bench.supervisor.figures import FEW
from bench.supervisor.measure import KILLS
from bench.supervisor.peer import Peer
from bench.supervisor.peers.dinit import Dinit
from bench.supervisor.peers.floor import Floor
from bench.supervisor.peers.milkyway import MilkyWay
from bench.supervisor.peers.runit import Runit
from bench.supervisor.peers.s6 import S6
from bench.supervisor.peers.supervisord import Supervisord
from bench.supervisor.peers.systemd import Systemd
from bench.supervisor.record import PeerRecord, Record, encode
from bench.supervisor.report import replace_section, section, show
from bench.supervisor.rounds import few_of, run_rounds
from bench.supervisor.tree import ROOT, PreparationError, prepare_all
from milkyway_formats.errors import MilkyWayError

PAGE = ROOT / "docs/performance.md"
PEERS: tuple[Peer, ...] = (
    MilkyWay(), Floor(), Dinit(), Runit(), S6(), Systemd("systemd", None), Systemd("systemd-0s", "0"), Supervisord(),
)  # fmt: skip
NAMES = tuple(peer.name for peer in PEERS)
INTERRUPTED = 130  # 128 + SIGINT, as shells do


@click.group(invoke_without_command=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100), help="how often each peer is measured")
@click.option("--services", default=500, show_default=True, type=click.IntRange(2, 5000), help="services under each peer")
@click.option("--peer", "names", multiple=True, type=click.Choice(NAMES), help="only this peer (may be repeated)")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="write all figures to this file")
@click.option("--write", is_flag=True, help="write the figures to docs/performance.md")
@click.pass_context
def main(
    context: click.Context, rounds: int, services: int, names: tuple[str, ...], json_file: Path | None, write: bool
) -> None:
    """Compare supervisors on this machine: speed, memory, restarts. Needs root; leaves nothing running."""
    if context.invoked_subcommand:
        return
    if os.geteuid():
        raise click.ClickException("cannot make containers for the peers: the benchmarks run as root")
    peers = [peer for peer in PEERS if not names or peer.name in names]
    try:
        prepare_all(_say)
        record = _run(peers, rounds, services)
    except PreparationError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        _say("interrupted; everything that was started has been ended")
        sys.exit(INTERRUPTED)
    # Without a terminal, a table is not folded to a terminal's width.
    show(record, Console(width=None if sys.stdout.isatty() else 240))
    if json_file:
        json_file.write_bytes(encode(record))
    if write:
        PAGE.write_text(replace_section(PAGE.read_text(), section(record)))
    sys.exit(1 if record.failures else 0)


@main.command("boot")
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(1, 100), help="how often each root is booted")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="write every boot to this file")
@click.option("--write", is_flag=True, help="write the figures to docs/performance.md")
def boot_command(rounds: int, json_file: Path | None, write: bool) -> None:
    """Compare boots: kernel to first service, our PID 1 and systemd on the same root, kernel and virtual machine."""
    if os.geteuid():
        raise click.ClickException("cannot make the roots: the benchmarks run as root")
    try:
        record = run_boots(rounds, _say)
    except MilkyWayError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        _say("interrupted; the machine has been ended")
        sys.exit(INTERRUPTED)
    click.echo(boot_report.section(record))
    if json_file:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    if write:
        text = boot_report.section(record)
        PAGE.write_text(replace_section(PAGE.read_text(), text, boot_report.BEGIN, boot_report.END))
    sys.exit(1 if record.failures else 0)


def _run(peers: list[Peer], rounds: int, services: int) -> Record:
    machine = this_machine()
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    measured = run_rounds(peers, rounds, services, _say)
    records = {
        peer.name: PeerRecord(
            version=measured.versions.get(peer.name, ""),
            notes=peer.notes,
            figures=measured.results.get(peer.name, {}),
            samples=measured.samples.get(peer.name, {}),
            extra=measured.extra.get(peer.name, {}),
            missing=measured.missing.get(peer.name, ""),
        )
        for peer in peers
    }
    return Record(
        date, machine, rounds, services, few_of(services), min(FEW, services), min(KILLS, services), records, measured.failures
    )


def _say(line: str) -> None:
    """Print a line of progress to stderr; stdout is for the tables."""
    print(f"· {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
