"""The first milliseconds of a supervisor: what they may import, and when a plan is out of date."""

import marshal
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from milkyway_agent.early.start import files_of, read_plan
from milkyway_agent.standalone.definitions import compile_plan

PROGRAM = """
import sys
sys.path += {paths!r}
import milkyway_agent.__main__, milkyway_agent.standalone.command
print(*sorted({{"os", "typing", "enum", "socket", "signal", "resource", "__future__", "trio", "msgspec"}} & set(sys.modules)))
print(*sorted(name.removeprefix("milkyway_agent.") for name in sys.modules if name.startswith("milkyway_")))
"""
OURS = (
    "__main__ early early.launcher early.start milkyway_agent "
    "standalone standalone.command standalone.options standalone.runtime_lock"
)


def test_no_module_that_takes_as_long_as_a_start_is_imported_before_the_first_service() -> None:
    program = PROGRAM.format(paths=[path for path in sys.path if path])
    done = subprocess.run([sys.executable, "-IS", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"\n{OURS}\n", "")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("b", "a"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\ncommand: [/bin/true]\n")
    compile_plan(tmp_path, tmp_path / ".plan")
    return tmp_path


def fits(directory: Path) -> bool:
    return read_plan(str(directory), f"{directory}/.plan") is not None


def _lengthen(directory: Path) -> None:
    (directory / "a.yaml").write_text("name: a\ncommand: [/bin/false]\n")


def _rewrite(directory: Path) -> None:
    path = directory / "a.yaml"
    before = path.stat().st_mtime_ns
    path.write_text("name: a\ncommand: [/bin/trap]\n")
    os.utime(path, ns=(before + 1, before + 1))


def _replace(directory: Path) -> None:
    before = (directory / "a.yaml").stat().st_mtime_ns
    (directory / "new").write_text("name: a\ncommand: [/bin/trap]\n")
    os.utime(directory / "new", ns=(before, before))
    (directory / "new").replace(directory / "a.yaml")


def _add(directory: Path) -> None:
    (directory / "c.yaml").write_text("name: c\ncommand: [/bin/true]\n")


def _remove(directory: Path) -> None:
    (directory / "a.yaml").unlink()


def _rename(directory: Path) -> None:
    (directory / "a.yaml").rename(directory / "c.yaml")


@pytest.mark.parametrize("change", [_lengthen, _rewrite, _replace, _add, _remove, _rename])
def test_a_plan_is_out_of_date_once_a_definition_has_changed(directory: Path, change: Callable[[Path], None]) -> None:
    assert fits(directory)
    change(directory)
    assert not fits(directory)


def test_other_files_do_not_make_a_plan_out_of_date(directory: Path) -> None:
    (directory / "README").write_text("no definition")
    assert fits(directory)
    assert [name for name, *_ in files_of(str(directory))] == ["a.yaml", "b.yaml"]


@pytest.mark.parametrize("key", ["format", "python", "files"])
def test_a_plan_of_another_format_or_cut_short_is_not_used(directory: Path, key: str) -> None:
    plan = marshal.loads((directory / ".plan").read_bytes())
    (directory / ".plan").write_bytes(marshal.dumps(plan | {key: 0}))
    assert not fits(directory)
    (directory / ".plan").write_bytes(marshal.dumps(plan)[:-7])
    assert not fits(directory)


def test_a_plan_holds_each_request_as_it_is_sent(directory: Path) -> None:
    plan = read_plan(str(directory), f"{directory}/.plan")
    assert plan is not None
    zero = plan["zero"]
    assert isinstance(zero, list) and [name for name, _, _ in zero] == ["a", "b"]
    assert all(arguments.endswith(b"--\0/bin/true\0") for _, _, arguments in zero)
