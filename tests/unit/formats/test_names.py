"""Patterns hold for the whole text: a name with a line feed after it is not a name."""

import re
from pathlib import Path

import msgspec
import pytest

import milkyway_formats
from milkyway_formats import names

EXAMPLES = {
    "Sha256": "a" * 64,
    "RootHash": "0" * 64,
    "KeyId": "f" * 64,
    "MachineId": "1" * 64,
    "FleetId": "demo",
    "PersonName": "alice",
    "LayerPath": "example/nginx",
    "LayerVersion": "1.2.3-1",
    "Identifier": "web_1",
    "DeploymentName": "web",
    "ServiceName": "nginx",
    "DomainName": "process",
    "DataName": "content",
    "AbsolutePath": "/usr/sbin/nginx",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_name_ends_where_it_ends(name: str) -> None:
    kind = getattr(names, name)
    assert msgspec.convert(EXAMPLES[name], kind) == EXAMPLES[name]
    for tail in ("\n", " ", "\0", "\u00e9"):
        with pytest.raises(msgspec.ValidationError, match="matching regex"):
            msgspec.convert(EXAMPLES[name] + tail, kind)


def test_no_pattern_of_the_formats_ends_with_a_dollar() -> None:
    r"""``$`` also matches before a last line feed; ``\Z`` does not."""
    folder = Path(milkyway_formats.__file__).parent
    lenient = [
        f"{file.name}: {pattern}"
        for file in sorted(folder.glob("*.py"))
        for pattern in re.findall(r'pattern=r"([^"]*)"', file.read_text())
        if not pattern.endswith(r"\Z")
    ]
    assert lenient == []
