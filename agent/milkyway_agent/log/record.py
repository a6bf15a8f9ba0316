"""A record: one thing that happened or one line that a service wrote, and how grave it is. Pure.

Priorities are syslog's, 0 (the worst) to 7, as sd-daemon(3) numbers them. What a service writes has
its line's ``<N>`` or the default; an event of the agent has what its name says: one convention, so
that nobody who notes something need think of it (``service_task_failed`` is an error).
"""

from functools import cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

Fact = str | int | float | bool | None
Priority = Annotated[int, Meta(ge=0, le=7)]
PRIORITIES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")  # syslog(3)'s names, by number
ERR: Final = 3
WARNING: Final = 4
INFO: Final = 6
OUTPUT: Final = "output"  # the event of one line that a service wrote; its fact is ``line``
PRIORITY_OF_LAST_WORD: Final = {
    **dict.fromkeys(("failed", "bug", "lost"), ERR),
    **dict.fromkeys(("refused", "late", "dropped", "missed", "killed", "left", "unexpected"), WARNING),
    **dict.fromkeys(("pressure", "unwell", "hung"), WARNING),
}


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened, at a time in milliseconds since 1970; ``service`` is empty for the agent itself."""

    at: int
    event: str
    service: str = ""
    facts: dict[str, Fact] = {}
    priority: Priority = INFO


@cache  # the names of events are words of our own program: there are only so many
def priority_of(event: str) -> int:
    """Return how grave *event* of the agent is: by the last word of its name; what did ``not`` happen is a warning."""
    return PRIORITY_OF_LAST_WORD.get(event.rpartition("_")[2], WARNING if "_not_" in event else INFO)


def describe(record: Record) -> str:
    """Return *record* as one line for people: service, event, facts."""
    if record.event == OUTPUT:
        return f"{record.service}: {record.facts.get('line', '')}"
    facts = " ".join(f"{key}={_shown(value)}" for key, value in record.facts.items())
    who = f"{record.service}: " if record.service else ""
    return f"{who}{record.event.replace('_', ' ')}{': ' if facts else ''}{facts}"


def encode(record: Record) -> bytes:
    """Return *record* as a line of JSON with its end. JSON escapes control characters: the only newline is that end."""
    return msgspec.json.encode(record) + b"\n"


def decode(line: bytes) -> Record | None:
    """Return the record that *line* is, None if it is no whole record: torn by a power cut, or somebody else's."""
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _shown(value: Fact) -> str:
    text = str(value)
    return repr(text) if isinstance(value, str) and (" " in text or not text) else text


_DECODER = msgspec.json.Decoder(Record)
