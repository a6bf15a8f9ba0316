"""Steps of a build whose results are kept under the hash of what they were made from.

A step writes into a fresh directory that takes its final name only when the step has succeeded,
so an interrupted build leaves nothing that looks finished. The caller names everything that a
step depends on; a result whose inputs changed is discarded once its successor exists.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]


def to_terminal(line: str) -> None:
    """Print *line* to stderr, for the person who waits; stdout is for programs."""
    print(line, file=sys.stderr, flush=True)


class StepCache:
    """The results kept below *cache*; *say* is called when a step begins, and at its end with the time it took."""

    def __init__(self, cache: Path, say: Say = to_terminal) -> None:
        self._cache = cache
        self._say = say

    def made(self, name: str, inputs: str | bytes, make: Callable[[Path], None]) -> Path:
        """Return the directory of step *name* for *inputs*; if there is none, let *make* fill an empty one first."""
        digest = hashlib.sha256(inputs.encode() if isinstance(inputs, str) else inputs).hexdigest()[:20]
        final = self._cache / f"{name}-{digest}"
        if final.is_dir():
            return final
        fresh = self._cache / f".{name}"
        remove_tree(fresh)
        fresh.mkdir(parents=True)
        with self.timed(name):
            make(fresh)
        for older in self._cache.glob(f"{name}-*"):
            remove_tree(older)
        fresh.rename(final)
        return final

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Report that *name* begins, and how long it took."""
        start = time.monotonic()
        self._say(f"· {name} …")
        yield
        self._say(f"✓ {name} ({time.monotonic() - start:.1f} s)")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of *directory*: a second build waits here for the first."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def hash_files(*paths: Path) -> str:
    """Return one hash of the names and contents of *paths*; for a directory, of every file below it except caches."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(_files(path)):
            digest.update(f"{file.relative_to(path.parent)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for directory, names, files in os.walk(path):
        names[:] = [name for name in names if name != "__pycache__"]
        yield from (Path(directory, file) for file in files)


def remove_tree(path: Path) -> None:
    """Remove *path* and everything below it, if it exists."""
    if path.exists():
        shutil.rmtree(path)
