"""The reference says what the types say."""

import pytest

from setup.reference import PAGES, REFERENCE, main, pages


@pytest.mark.parametrize("name", sorted(f"{page.name}.md" for page in PAGES))
def test_the_page_is_up_to_date(name: str) -> None:
    assert (REFERENCE / name).read_text(encoding="utf-8") == pages()[name], "run `python setup/reference.py`"


def test_every_field_of_a_type_is_in_its_section() -> None:
    from milkyway_formats.desired import Desired
    from milkyway_formats.service import Service

    for kind, page in ((Desired, "desired-state.md"), (Service, "service.md")):
        section = pages()[page].partition(f"## {kind.__name__}\n")[2].partition("\n## ")[0]
        assert section, f"{page} does not describe {kind.__name__}"
        for field in kind.__struct_fields__:
            assert f"| `{field}` |" in section


def test_a_pattern_with_a_bar_stays_in_its_cell() -> None:
    for text in pages().values():
        for line in text.splitlines():
            if line.startswith("| `"):
                assert line.replace("\\|", "").count("|") == 5, line


def test_links_lead_to_sections() -> None:
    import re

    written = pages()
    for name, text in written.items():
        for page, anchor in re.findall(r"\]\(([a-z-]*(?:\.md)?)#([a-z0-9]+)\)", text):
            headings = re.findall(r"^## (\w+)$", written[page or name], re.MULTILINE)
            assert anchor in {heading.lower() for heading in headings}, f"{name}: {page}#{anchor}"


def test_check_accepts_the_written_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert capsys.readouterr().err == ""
