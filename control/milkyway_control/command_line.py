"""What the commands of this house do alike: names are checked as they are typed, a nursery's refusals come out flat."""

import sys

import click
import msgspec

from milkyway_formats.errors import MilkyWayError


class Name(click.ParamType[str]):
    """An argument that must be one of ``milkyway_formats.names``' types."""

    name = "name"

    def __init__(self, kind: object, says: str) -> None:
        self._kind = kind
        self._says = says

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return *value* if it is such a name."""
        try:
            name: str = msgspec.convert(value, self._kind)
        except msgspec.ValidationError:
            self.fail(f"{value!r} is not {self._says}", param, ctx)
        return name


def confirm(question: str) -> None:
    """Ask whoever sits at the terminal, and abort unless they agree; without a terminal nobody is asked."""
    if sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)


FLEET_NAME = "lower-case letters, digits and hyphens, a letter first, at most 31"
LABEL_NAME = PERSON_NAME = "lower-case letters, digits, dots, hyphens and underscores, a letter first, at most 31"


def leaves(group: BaseExceptionGroup[MilkyWayError]) -> list[MilkyWayError]:
    """Return the refusals in a nursery's *group*, flat."""
    found: list[MilkyWayError] = []
    for one in group.exceptions:
        found.extend(leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    return found
