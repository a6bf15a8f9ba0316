"""Which lines of the log are asked for, read strictly from the parameters of a URL, and what a line is. Pure."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from milkyway_agent.log.record import INFO, PRIORITIES, Fact, Priority
from milkyway_formats.codec import Document
from milkyway_formats.errors import RefusedError
from milkyway_formats.names import ShortText

MAX_LOG_LINES = 10_000
LAST_SECOND = 253402300799  # of the year 9999
DEFAULT_LOG_LINES = 100


class MalformedRequestError(RefusedError):
    """A parameter is not what it should be (HTTP 400)."""


class LogQuery(Document, frozen=True):
    """Which log lines, oldest first: the last *lines* of those chosen, then, with *follow*, all further lines.

    *names*: any of these services or deployments; *service*, *deployment*: exactly that; without any of the three: all.
    From *since* to before *until* (Unix seconds); at least as grave as *priority* (0 to 7).
    """

    names: list[ShortText] = field(default_factory=list)
    service: ShortText = ""
    deployment: ShortText = ""
    lines: Annotated[int, Meta(ge=0, le=MAX_LOG_LINES)] = DEFAULT_LOG_LINES
    since: Annotated[int, Meta(ge=0, le=LAST_SECOND)] = 0
    until: Annotated[int, Meta(ge=0, le=LAST_SECOND)] = LAST_SECOND
    priority: Priority = 7
    follow: bool = False


class LogLine(Document, frozen=True):
    """One line: ``service`` is ``web/nginx``, ``dhcp`` or ``agent``; ``time_ms`` is Unix milliseconds.

    ``stream`` is ``event`` for what the agent noted of the service (then ``event`` and ``facts`` are what
    ``text`` says, for programs), else what the service wrote itself. ``priority``: 0 (emerg) to 7 (debug).
    """

    time_ms: int
    service: ShortText
    text: str
    stream: Literal["output", "event"] = "output"
    priority: Priority = INFO
    event: str = ""
    facts: dict[str, Fact] = field(default_factory=dict)


def read_log_query(parameters: dict[str, str]) -> LogQuery:
    """Return the query that *parameters* of a URL stand for. Raises MalformedRequestError."""
    values: dict[str, object] = {}
    for name, text in parameters.items():
        match name:
            case "service" | "deployment":
                values[name] = text
            case "names":
                values[name] = text.split(",")
                if not all(text.split(",")):
                    raise MalformedRequestError("cannot read logs: names must be like web,web/nginx,dhcp")
            case "lines":
                values[name] = _number(name, text, MAX_LOG_LINES)
            case "since" | "until":
                values[name] = _number(name, text, LAST_SECOND)
            case "priority" if text in PRIORITIES:
                values[name] = PRIORITIES.index(text)
            case "priority" if len(text) == 1 and text in "01234567":
                values[name] = int(text)
            case "priority":
                raise MalformedRequestError(f"cannot read logs: priority must be 0 to 7 or one of {', '.join(PRIORITIES)}")
            case "follow":
                if text not in ("0", "1", "false", "true"):
                    raise MalformedRequestError("cannot read logs: follow must be 0 or 1")
                values[name] = text in ("1", "true")
            case _:
                raise MalformedRequestError(f"cannot read logs: unknown parameter {name!r}")
    try:
        query = msgspec.convert(values, LogQuery)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(f"cannot read logs: {error}") from error
    if query.follow and "until" in values:
        raise MalformedRequestError("cannot read logs: follow goes on for ever, until does not")
    if query.until <= query.since:
        raise MalformedRequestError("cannot read logs: until must be later than since")
    return query


def _number(name: str, text: str, last: int) -> int:
    # 12: more digits than any of them has, and few enough to convert
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= last):
        raise MalformedRequestError(f"cannot read logs: {name} must be a number from 0 to {last}")
    return int(text)
