"""The three kinds of failure, which never share a class (and never an exit code).

Refused: the input is wrong; the same input is refused again.
Unavailable: something needed is not there now; the same input may succeed later.
A bug is an ``AssertionError`` and has no class here.
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What every MilkyWay command ends with."""

    OK = 0
    BUG = 1
    USAGE = 2  # click's own
    REFUSED = 3
    UNAVAILABLE = 4


class MilkyWayError(Exception):
    """Base of both families. ``str()`` is one line, "cannot <do> <what>: <why>"; *hint* says what to do."""

    exit_code = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class RefusedError(MilkyWayError):
    """The input is wrong, and stays wrong however often it is sent. ``check`` names the check that it failed, in one word."""

    exit_code = ExitCode.REFUSED
    check: ClassVar[str] = "form"


class UnavailableError(MilkyWayError):
    """Something needed is not there now; try later."""

    exit_code = ExitCode.UNAVAILABLE
