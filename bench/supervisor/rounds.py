"""All rounds: every peer runs in each, in an order that rotates by one each time, after a warm-up round that does not count.

So a machine that gets slower, or a cache that the first peer fills, affects all alike.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.spread import slope
from bench.supervisor.container import Container, place_for, remove_cgroups
from bench.supervisor.figures import FEW, FigureName, Results
from bench.supervisor.measure import FAILURES, RunningPeer, last_words
from bench.supervisor.peer import Peer, PeerMissingError
from bench.supervisor.slots import Slots
from bench.supervisor.tree import BUILD, TRIVIAL

CLONE_NEWNS = 0x00020000
WORK = BUILD / "bench-run"
LOGS = BUILD / "bench-logs"
KIB_PER_MIB = 1024


class Measured(NamedTuple):
    """The results of all rounds.

    ``samples``: the single kills behind the medians, by peer, figure and round; ``extra``: raw PSS and number of own
    processes, by peer and round; ``missing``: why a peer was not measured; ``failures``: what went wrong, in order.
    """

    results: Results
    samples: dict[str, dict[str, dict[int, list[float]]]]
    extra: dict[str, dict[int, dict[str, float]]]
    versions: dict[str, str]
    missing: dict[str, str]
    failures: list[str]


def run_rounds(peers: list[Peer], rounds: int, services: int, say: Callable[[str], None]) -> Measured:
    """Measure *peers* with *services* services, *rounds* times; *say* is called with a line of progress before each run."""
    measured = Measured({}, {}, {}, {}, {}, [])
    present: list[Peer] = []
    for peer in peers:
        try:
            measured.versions[peer.name] = peer.version()
            present.append(peer)
        except PeerMissingError as error:
            measured.missing[peer.name] = str(error)
            say(f"{peer.name}: {error}")
    with _workplace() as cgroup:
        for number in range(rounds + 1):
            turn = number % max(1, len(present))
            for peer in present[turn:] + present[:turn]:
                say(f"round {number} of {rounds}: {peer.name}" if number else f"warming up: {peer.name}")
                try:
                    _one_round(peer, number, services, cgroup, measured)
                except FAILURES as error:
                    words = last_words(_log(peer))
                    failure = f"{peer.name}, round {number}: {error}" + (f" (its last words: {words})" if words else "")
                    measured.failures.append(failure)
                    say(failure)
    return measured


def few_of(services: int) -> int:
    """Return the smaller number of services that is measured besides *services*."""
    return min(FEW, max(1, services // 5))


def _one_round(peer: Peer, number: int, services: int, cgroup: Path, measured: Measured) -> None:
    few = few_of(services)
    with _running(peer, few, cgroup) as running:
        up_few = running.start().last
        if not number:
            return
        running.settle()
        memory_few = running.memory()

    def note(figure: FigureName, value: float) -> None:
        measured.results.setdefault(peer.name, {}).setdefault(figure, {})[number] = value

    note("up_few", up_few)
    note("memory_few", memory_few.total_kib / KIB_PER_MIB)
    with _running(peer, services, cgroup) as running:
        start = running.start()
        note("up", start.last)
        note("first", start.first)
        note("rest", start.last - start.first)
        running.settle()
        memory = running.memory()
        note("memory", memory.total_kib / KIB_PER_MIB)
        if services > few:
            note("slope", slope((few, memory_few.total_kib), (services, memory.total_kib)))
        measured.extra.setdefault(peer.name, {})[number] = {
            "processes": memory.processes,
            "pss_mib": memory.pss_kib / KIB_PER_MIB,
            "page_tables_mib": memory.page_tables_kib / KIB_PER_MIB,
        }
        note("wakeups", running.wakeups())
        normal = running.restart()
        note("restart", normal)
        running.settle()
        note("restart_many", running.restart_many(FEW))
        if command := peer.reexecute(running.place):
            running.settle()
            note("blind", running.blind(command, normal))
        for figure, values in running.samples.items():
            measured.samples.setdefault(peer.name, {}).setdefault(figure, {})[number] = values


@contextmanager
def _running(peer: Peer, services: int, cgroup: Path) -> Iterator[RunningPeer]:
    """Prepare and start *peer*; in any case end it and all that it started."""
    directory = WORK / "peer"
    directory.mkdir()
    try:
        shutil.copy2(TRIVIAL, directory / "trivial")
        place = place_for(peer, directory)
        with Slots(directory / "slots", services) as slots:
            command = peer.prepare(place, services)
            with Container(peer, place, command, cgroup / peer.name, _log(peer)) as container:
                yield RunningPeer(container, slots, place)
    finally:
        shutil.rmtree(directory)


def _log(peer: Peer) -> Path:
    return LOGS / f"{peer.name}.log"


@contextmanager
def _workplace() -> Iterator[Path]:
    """Give this process a mount namespace of its own with a tmpfs at WORK; yield a cgroup v2 directory for the peers' cgroups.

    Both mounts disappear with the process, however it ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "cannot make a mount namespace (the benchmarks run as root)")
    WORK.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir()
    hierarchy = WORK / "cgroup"
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(WORK)],
        ["mkdir", str(hierarchy)],
        ["mount", "-t", "cgroup2", "cgroup2", str(hierarchy)],
    ):
        subprocess.run(command, check=True)
    cgroup = hierarchy / "milkyway-bench"
    remove_cgroups(cgroup)  # a bench that was killed has left its own
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        remove_cgroups(cgroup)
