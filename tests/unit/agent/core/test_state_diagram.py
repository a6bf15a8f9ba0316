"""The page about the states of a service agrees with the table."""

import re

import pytest

from milkyway_agent.core.service_state import TABLE, Effect, Event, Row
from setup.state_diagram import PAGE, diagram, main, page


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python setup/state_diagram.py`"
    assert main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def test_every_row_event_and_effect_is_on_it() -> None:
    for word in (*(row.label for row in Row), *(event.value for event in Event), *(effect.value for effect in Effect)):
        assert word in page()


def test_every_change_of_row_is_an_arrow_but_for_what_breaks() -> None:
    drawn = {
        (found[1], event, found[2])
        for found in re.finditer(r"^    (\w+) --> (\w+): (.*)$", diagram(), re.MULTILINE)
        for event in found[3].split(", ")
    }
    for (row, event), following in TABLE.items():
        is_drawn = (row.label, event.value, following.row.label) in drawn
        assert is_drawn == (event is not Event.INTERNAL_ERROR and (following.row is not row or bool(following.effects)))


def test_the_prose_names_every_row_with_what_it_shows() -> None:
    for row in Row:
        assert re.search(rf"^{row.name} +{row.current} +{'wanted' if row.wanted else 'unwanted'}", page(), re.MULTILINE)
