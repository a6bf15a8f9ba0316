"""The shape of the code: no circle between modules, no folder that nobody finds anything in. Who may import whom is
import-linter's (pyproject.toml).
"""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[3]
HOUSES = {
    "agent": "milkyway_agent",
    "cli": "milkyway_cli",
    "control": "milkyway_control",
    "coreos": "milkyway_coreos",
    "formats": "milkyway_formats",
    "layers": "milkyway_layers",
    "signing": "milkyway_signing",
    "systemd-compat": "milkyway_systemd",
}
MOST_MODULES = 25
VOCABULARY = Path("formats/milkyway_formats")  # flat: what two houses exchange, a module a word


def test_no_module_imports_itself_through_others() -> None:
    """Imports that only type checkers follow count as well."""
    graph = grimp.build_graph(*HOUSES.values(), cache_dir=None)
    sorter = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    try:
        sorter.prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' → '.join(error.args[1])}") from None


def test_no_folder_has_more_modules_than_a_person_keeps_in_mind() -> None:
    folders = {path.parent for house in HOUSES for path in (ROOT / house).rglob("*.py")}
    folders |= {path.parent for path in (ROOT / "tests").rglob("*.py")} | {
        path.parent for path in (ROOT / "bench").rglob("*.py")
    }
    sizes = {
        folder.relative_to(ROOT): len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        for folder in folders
    }
    assert {str(folder): size for folder, size in sizes.items() if size > MOST_MODULES and folder != VOCABULARY} == {}


def test_every_package_is_one_docstring() -> None:
    """What is imported for being in the way costs PID 1 memory, and the first service time."""
    for house, package in HOUSES.items():
        for path in (ROOT / house / package).rglob("__init__.py"):
            text = path.read_text().strip()
            assert text.startswith('"""') and text.endswith('"""') and text.count('"""') == 2, path
