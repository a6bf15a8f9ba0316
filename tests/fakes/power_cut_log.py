"""Log files on a disk whose power can fail at any moment: what may be left of them then.

The files are real; what is certain is known from the calls that wait for the disk (``log_files.Sync``), with the
guarantees that Linux gives and no more. A file has what it had when it was last synced, and then any number of
further bytes, after which it may have zeros. Nothing is certain about a name until the directory is synced (a new
file may be missing, a removed one may be back).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from milkyway_agent.log.files import Sync


class PowerCutLog:
    """Watches *directory*: call ``watch`` after each deed; ``after_a_cut`` makes what may be found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certain: dict[str, bytes] = {}  # content of each synced file, under a name that is itself certain or not
        self._names: set[str] = set()
        self._before: dict[str, bytes] = {}
        self.sync = Sync(self._sync_file, self._sync_directory)

    def _sync_file(self, path: str) -> None:
        self.certain[Path(path).name] = Path(path).read_bytes()

    def _sync_directory(self, path: str) -> None:
        assert Path(path) == self.directory
        self._names = {entry.name for entry in self.directory.iterdir()}

    def now(self) -> dict[str, bytes]:
        """Return every file."""
        return {entry.name: entry.read_bytes() for entry in self.directory.iterdir()}

    def after_a_cut(self, into: Path) -> Iterator[Path]:
        """Make in *into*, one after the other, each disk that a cut during or after the last deed may leave.

        The last deed is what has changed since this was last exhausted.
        """
        now = self.now()
        old = {**{name: self.certain.get(name, b"") for name in self._names}, **self._before}
        for name, data in now.items():
            was = self._before.get(name, b"")
            assert data.startswith(was), "a segment is only ever appended to"
            for length in range(len(was), len(data) + 1):
                yield _make(into, {**old, name: data[:length]})
                if length % 16 == 0:
                    yield _make(into, {**old, name: data[:length] + b"\0" * (len(data) - length)})
        certain = {name: self.certain.get(name, b"") for name in self._names}
        yield _make(into, certain)
        yield _make(into, {**certain, **now})
        self._before = now


def _make(into: Path, files: dict[str, bytes]) -> Path:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    for name, data in files.items():
        (into / name).write_bytes(data)
    return into
