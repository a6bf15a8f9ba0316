"""YAML read strictly: what is refused is refused with its line, and plain words are what they look like."""

import pytest

from milkyway_formats.codec import MalformedError
from milkyway_formats.service import Service
from milkyway_formats.yaml_text import load

GOOD = "name: web\ncommand: [/bin/x]\n"


def test_plain_words_mean_what_they_look_like() -> None:
    service = load(
        GOOD + "environment: {A: on, B: 1.10, C: 0644, D: 12:30, E: 2024-01-01, F: 'true', G: .5, H: 0x1}", Service, "x"
    )
    assert service.environment == {
        "A": "on", "B": "1.10", "C": "0644", "D": "12:30", "E": "2024-01-01", "F": "true", "G": ".5", "H": "0x1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "line 1: it is empty"),
        ("a: [", "line 1: expected the node content"),
        ("a: 1\n--- \nb: 2", "line 2: but found another document"),
        ("- 1", "line 1: Expected `object`, got `array`"),
        (GOOD + "name: again", "line 3: duplicate key 'name'"),
        (GOOD + "limits:\n  pids: 1\n  memory_bytes: 1\n  pids: 2", "line 6: duplicate key 'pids'"),
        (GOOD + "colour: red", "line 3: Object contains unknown field `colour`"),
        (GOOD + "scratch:\n- path: /run\n- path: run", r"line 5: .* at `\$.scratch\[1\].path`"),
        (GOOD + "limits: {pids: true}", "line 3: Expected `int`, got `bool`"),
        (GOOD + "user: 0x10", "line 3: Expected `int`, got `str`"),
        (GOOD + "user: 100000000000000000000000", "line 3: a number too large"),
        (GOOD + "readiness: {type: maybe}", "line 3: Invalid value 'maybe'"),
        ("name: &n web\ncommand: [*n]", r"line 2: alias \*n: write it out"),
        ("name: !!str web", "line 1: tag tag:yaml.org,2002:str: only plain values"),
        ("name: !python/name:os.system web", "line 1: tag !python/name:os.system"),
        ("<<: {name: web}\ncommand: [x]", "line 1: Object contains unknown field `<<`"),
        ("? [a]\n: b", "line 1: a key that is not a word"),
        ("1: b", "line 1: a key that is not a word"),
        ("a: \x00", "line 1: unacceptable character"),
        ("[" * 5000, "nested too deeply"),
        ("#" * 300_000, "300000 characters, at most 262144"),
    ],
)
def test_everything_else_is_refused_with_its_line(text: str, why: str) -> None:
    with pytest.raises(MalformedError, match=f"^cannot read spec: {why}"):
        load(text, Service, "spec")


def test_a_number_in_octal_says_so() -> None:
    service = load(GOOD + "execution: {umask: 0o077}", Service, "service")
    assert service.execution.umask == 0o077
    with pytest.raises(MalformedError, match="Expected `int`, got `str`"):
        load(GOOD + "execution: {umask: 0077}", Service, "service")
