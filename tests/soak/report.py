"""The progress of a long run, which can be resumed, and the report at its end, which is committed.

Progress is in build/soak/NAME.json, the report in docs/reports/NAME.json. Progress belongs to the commit on which it
was made: on another commit the run begins anew, because its counts say nothing about other code.
"""

import json
import os
import random
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class Report:
    """A long run: its *name*, its ``seed``, drawn when it began, and its ``counts``, which only grow."""

    def __init__(self, name: str, *, root: Path = ROOT, commit: str | None = None) -> None:
        self.commit = commit_of(root) if commit is None else commit
        self.counts: Counter[str] = Counter()
        self.seed = random.SystemRandom().getrandbits(32)
        self._name = name
        self._progress = root / "build" / "soak" / f"{name}.json"
        self._report = root / "docs" / "reports" / f"{name}.json"
        if self._progress.exists():
            found = json.loads(self._progress.read_text(encoding="utf-8"))
            if found["commit"] == self.commit:
                self.seed, self.counts = found["seed"], Counter(found["counts"])

    def add(self, **counts: int) -> None:
        """Add to the counts, and save them."""
        self.counts.update(counts)
        _replace(self._progress, {"commit": self.commit, "seed": self.seed, "counts": dict(self.counts)})

    def finish(self, **facts: object) -> Path:
        """Write the report with the counts and *facts*, and remove the progress. Returns the report's path."""
        _replace(self._report, {"name": self._name, "commit": self.commit, "seed": self.seed, **self.counts, **facts})
        self._progress.unlink(missing_ok=True)
        return self._report


def commit_of(root: Path) -> str:
    """Return the commit that is checked out, with + if tracked files differ from it."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True).stdout.strip()
    status = ["git", "status", "--porcelain", "--untracked-files=no", "--", ":!docs/reports"]
    changed = subprocess.run(status, cwd=root, check=True, capture_output=True, text=True).stdout.strip()
    return f"{head}+" if changed else head


def _replace(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(written, path)
