"""What every command of this house does alike: names checked as typed, refusals in one line, the family's exit code."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click
import msgspec

from milkyway_formats.errors import MilkyWayError

P = ParamSpec("P")
R = TypeVar("R")


def refusals(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a refusal that *command* raises into one line on stderr, a hint where there is one, and its exit code."""

    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return command(*arguments, **options)
        except MilkyWayError as error:
            report(error)
            sys.exit(error.exit_code)

    return run


def report(error: MilkyWayError) -> None:
    """Say on stderr what was refused, and what to do about it."""
    click.echo(str(error), err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


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


FLEET_NAME = "lower-case letters, digits and hyphens, a letter first, at most 31"
PERSON_NAME = "lower-case letters, digits, dots, hyphens and underscores, a letter first, at most 31"


def leaves(group: BaseExceptionGroup[MilkyWayError]) -> list[MilkyWayError]:
    """Return the refusals in a nursery's *group*, flat."""
    found: list[MilkyWayError] = []
    for one in group.exceptions:
        found.extend(leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    return found
