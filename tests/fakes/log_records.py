"""Reading back the files of a log."""

from collections.abc import Iterator

from milkyway_agent.log.files import FileSink
from milkyway_agent.log.reader import Past
from milkyway_agent.log.record import Record


def read_records(files: FileSink, service: str = "", limit: int = 1 << 62) -> Iterator[Record]:
    """Yield the newest *limit* records of *service* (empty: the agent's own), oldest first."""
    return Past([], files.mark(lambda name: name == service)).newest(limit)
