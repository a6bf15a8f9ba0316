"""A record: an event, or a line that a service wrote, with its priority. Pure.

Priorities are syslog's, 0 (the worst) to 7, as sd-daemon(3) numbers them. A service's line has the
priority of its prefix ``<N>`` or the default; an event of the agent has the one that follows from its
name, so that the code that notes it need not choose (``service_task_failed`` is an error).
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
OUTPUT: Final = "output"  # the event of a line that a service wrote; its fact is ``line``
PRIORITY_OF_LAST_WORD: Final = {
    **dict.fromkeys(("failed", "bug", "lost"), ERR),
    **dict.fromkeys(("refused", "late", "dropped", "missed", "killed", "left", "unexpected"), WARNING),
    **dict.fromkeys(("pressure", "unwell", "hung"), WARNING),
}


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event, ``at`` milliseconds since 1970; ``service`` is empty for the agent itself."""

    at: int
    event: str
    service: str = ""
    facts: dict[str, Fact] = {}
    priority: Priority = INFO


@cache  # the names of events are constants of our own program: there are few
def priority_of(event: str) -> int:
    """Return the priority of the agent's *event*, by the last word of its name; what did ``not`` happen is a warning."""
    return PRIORITY_OF_LAST_WORD.get(event.rpartition("_")[2], WARNING if "_not_" in event else INFO)


def describe(record: Record) -> str:
    """Return *record* as one line for people: service, event, facts."""
    if record.event == OUTPUT:
        return f"{record.service}: {record.facts.get('line', '')}"
    facts = " ".join(f"{key}={_shown(value)}" for key, value in record.facts.items())
    service = f"{record.service}: " if record.service else ""
    return f"{service}{record.event.replace('_', ' ')}{': ' if facts else ''}{facts}"


def encode(record: Record) -> bytes:
    """Return *record* as a line of JSON. JSON escapes control characters: the only newline is the one at the end."""
    return msgspec.json.encode(record) + b"\n"


def decode(line: bytes) -> Record | None:
    """Return the record in *line*, None if it is not a whole one: torn by a power cut, or written by somebody else."""
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _shown(value: Fact) -> str:
    text = str(value)
    return repr(text) if isinstance(value, str) and (" " in text or not text) else text


_DECODER = msgspec.json.Decoder(Record)
