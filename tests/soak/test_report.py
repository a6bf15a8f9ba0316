"""The report of a long run: work is never done twice, nor counted for other code."""

import json
from pathlib import Path

from tests.soak.report import Report


def test_a_run_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    first = Report("kills", root=tmp_path, commit="abc")
    first.add(sequences=1000, events=7)
    first.add(sequences=500)
    second = Report("kills", root=tmp_path, commit="abc")
    assert (second.seed, second.counts) == (first.seed, {"sequences": 1500, "events": 7})


def test_counts_of_another_commit_are_not_taken_over(tmp_path: Path) -> None:
    Report("kills", root=tmp_path, commit="abc").add(sequences=1000)
    assert not Report("kills", root=tmp_path, commit="def").counts


def test_a_finished_run_leaves_a_report_and_the_next_begins_at_zero(tmp_path: Path) -> None:
    run = Report("kills", root=tmp_path, commit="abc")
    run.add(sequences=3)
    path = run.finish(laws=["one"])
    assert path == tmp_path / "docs" / "reports" / "kills.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told == {"name": "kills", "commit": "abc", "seed": run.seed, "sequences": 3, "laws": ["one"]}
    assert not Report("kills", root=tmp_path, commit="abc").counts
