"""The record of a benchmark run: what ``--json`` writes, and what the page of figures is made from. Pure."""

import msgspec

from bench.machine import MachineFacts
from bench.spread import spread
from bench.supervisor.figures import FIGURES, FigureName, Results


class PeerRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One peer. ``figures``: by figure and round. ``samples``: the single restarts (ms) behind them. ``extra``: raw memory.

    ``missing``: why it was not measured; "" if it was.
    """

    version: str
    notes: tuple[str, ...]
    figures: dict[FigureName, dict[int, float]]
    samples: dict[str, dict[int, list[float]]]
    extra: dict[int, dict[str, float]]
    missing: str = ""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole run: *rounds* with *services* services (and *few*), *killed* of them at once, *kills* one by one."""

    date: str
    machine: MachineFacts
    rounds: int
    services: int
    few: int
    killed: int
    kills: int
    peers: dict[str, PeerRecord]
    failures: list[str]

    @property
    def results(self) -> Results:
        """The figures alone."""
        return {name: peer.figures for name, peer in self.peers.items()}

    def title(self, figure: FigureName) -> str:
        """Return the title of *figure* with this run's numbers."""
        return next(known.title for known in FIGURES if known.name == figure).format(**self._numbers())

    def meaning(self, figure: FigureName) -> str:
        """Return the meaning of *figure* with this run's numbers."""
        return next(known.meaning for known in FIGURES if known.name == figure).format(**self._numbers())

    def _numbers(self) -> dict[str, int]:
        return {"services": self.services, "few": self.few, "killed": self.killed, "kills": self.kills}


def encode(record: Record) -> bytes:
    """Return *record* as JSON, with the spread of each figure besides its rounds."""
    spreads = {
        name: {figure: spread(list(rounds.values()))._asdict() for figure, rounds in peer.figures.items()}
        for name, peer in record.peers.items()
    }
    document = {**msgspec.to_builtins(record, str_keys=True), "spreads": spreads}
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def decode(data: bytes) -> Record:
    """Return the record that ``encode`` wrote as *data*. Raises msgspec.ValidationError for anything else."""
    document = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    document.pop("spreads", None)
    return msgspec.json.decode(msgspec.json.encode(document), type=Record)
