"""What the commands of this house share: checking names among the arguments, asking, flattening a nursery's refusals."""

import sys

import click
import msgspec

from milkyway_formats.errors import MilkyWayError


class Name(click.ParamType[str]):
    """An argument that must be one of ``milkyway_formats.names``' types."""

    name = "name"

    def __init__(self, kind: object, description: str) -> None:
        self._kind = kind
        self._description = description

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return *value* if it is such a name."""
        try:
            name: str = msgspec.convert(value, self._kind)
        except msgspec.ValidationError:
            self.fail(f"{value!r} is not {self._description}", param, ctx)
        return name


def confirm(question: str) -> None:
    """Ask the person at the terminal, and abort unless they agree; without a terminal, go on without asking."""
    if sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)


FLEET_NAME = "lower-case letters, digits and hyphens, a letter first, at most 31"
LABEL_NAME = PERSON_NAME = "lower-case letters, digits, dots, hyphens and underscores, a letter first, at most 31"


def leaves(group: BaseExceptionGroup[MilkyWayError]) -> list[MilkyWayError]:
    """Return the refusals in a nursery's *group*, flattened."""
    found: list[MilkyWayError] = []
    for error in group.exceptions:
        found.extend(leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
