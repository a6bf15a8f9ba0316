"""The documents name what there is: every file that they name exists, and every room of a house is on its page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = {
    "agent": "milkyway_agent",
    "cli": "milkyway_cli",
    "control": "milkyway_control",
    "coreos": "milkyway_coreos",
    "formats": "milkyway_formats",
    "layers": "milkyway_layers",
    "signing": "milkyway_signing",
    "systemd-compat": "milkyway_systemd",
}
HOUSES = [*PACKAGES, "tests", "bench"]
MOST_LINES = 80  # a page
WRITTEN = sorted(
    path
    for path in [ROOT / "README.md", *(ROOT / house / "README.md" for house in HOUSES), *(ROOT / "docs").rglob("*.md")]
    if "written by" not in path.read_text(encoding="utf-8")[:200]  # a generated page has a test of its own
)
# A folder or a file of this project, as prose names it; what is made, and what is on a machine, is neither.
NAMED = re.compile(r"`([a-z_][\w.-]*(?:/[\w.-]+)*(?:\.(?:py|c|h|cil|sh|toml|lock|in)|/))`")
MADE = ("build/", "keys/", "web-1/", "control/operator/", "staging/")


def exists(page: Path, name: str) -> bool:
    """Tell whether there is what *page* calls *name*: in a house or its package; a bare file name: anywhere below one."""
    places = [ROOT, page.parent, *(ROOT / house for house in HOUSES), *(ROOT / house / PACKAGES[house] for house in PACKAGES)]
    if any((place / name).exists() for place in places):
        return True
    return "/" not in name and any(any((ROOT / house).rglob(name)) for house in HOUSES)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = [name for name in NAMED.findall(text) if not name.startswith(MADE) and not re.search(r"[A-Z]{2}", name)]
    assert [name for name in named if not exists(page, name)] == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("house", HOUSES)
def test_a_house_has_one_page(house: str) -> None:
    assert len((ROOT / house / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("house", HOUSES)
def test_every_room_of_a_house_is_on_its_page(house: str) -> None:
    page = (ROOT / house / "README.md").read_text(encoding="utf-8")
    top = ROOT / house / PACKAGES.get(house, "")
    rooms = [path for path in top.iterdir() if path.is_dir() and any(path.rglob("*.py"))]
    assert [path.name for path in rooms if f"{path.name}/" not in page] == []


@pytest.mark.parametrize("house", ["formats", "layers", "signing", "cli", "control", "coreos"])
def test_every_module_of_a_small_house_is_on_its_page(house: str) -> None:
    page = (ROOT / house / "README.md").read_text(encoding="utf-8")
    modules = [path for path in (ROOT / house / PACKAGES[house]).rglob("*.py") if path.name != "__init__.py"]
    unnamed = [path.stem for path in modules if not re.search(rf"`(?:[\w/]*/)?{path.stem}(?:\.py)?`", page)]
    assert unnamed == []


def test_the_ways_of_data_have_stations_that_exist() -> None:
    """The diagrams name modules without backticks: the words with a slash in them."""
    page = ROOT / "docs/architecture.md"
    diagrams = "\n".join(re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    named = re.findall(r"(?<![\w/])[a-z_]+(?:/[a-z_0-9]+)+\.(?:py|c)\b", diagrams)
    assert len(named) > 50
    assert [name for name in named if not exists(page, name)] == []


def test_the_agents_rooms_are_in_the_order_of_their_contract() -> None:
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r'containers = \["milkyway_agent"\]\nexhaustive = true\nlayers = \[\n(.*?)\n\]', contracts, re.DOTALL)
    assert layers is not None
    order = {room: row for row, names in enumerate(re.findall(r'"(.*?)"', layers[1]), 1) for room in names.split(" | ")}
    rows = re.findall(r"^\| (\d) \| `(\w+)(?:/|\.py)` ", (ROOT / "agent/README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {room: int(row) for row, room in rows} == order
