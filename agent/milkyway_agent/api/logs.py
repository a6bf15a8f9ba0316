"""The agent's log, read for ``mwctl logs``: chosen, merged by time, and followed.

A follower that reads too slowly misses records, and is told how many (``log.Follower``): no service and
no other reader ever waits for it. The past is read from the disk in a thread, a few records at a time,
as fast as the reader takes them.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import islice

import trio

from milkyway_agent.api.log_query import LogLine, LogQuery
from milkyway_agent.log.log import Log
from milkyway_agent.log.reader import Choice
from milkyway_agent.log.record import OUTPUT, Record, describe
from milkyway_agent.runtime.thread_limit import RunLimiter
from milkyway_formats.errors import RefusedError

AGENT = "agent"  # addresses the agent's own records, whose service is empty
RECORDS_AT_A_TIME = 100
# More at once would only share the interpreter, of which PID 1's loop needs its part.
_READERS = RunLimiter("log readers", 2)


def open_events(log: Log, query: LogQuery, services: Iterable[str]) -> AsyncGenerator[LogLine, None]:
    """Return the events that *query* names: as ``open_log``, without what services wrote themselves."""
    return open_log(log, query, services, events_only=True)


def open_log(log: Log, query: LogQuery, services: Iterable[str], *, events_only: bool = False) -> AsyncGenerator[LogLine, None]:
    """Return the lines of *log* that *query* names, of the known *services* (``dhcp``, ``web/nginx``) and the agent.

    A service that no longer exists is known as long as records of it are kept. Raises RefusedError at once
    if the query names a service or deployment that is not known.
    """
    known = {"", *services, *log.services()}
    for name in query.names:
        if not any(_is_named(service, name) for service in known):
            raise RefusedError(
                f"cannot read logs of {name}: there is no such service or deployment",
                hint="`mwctl services` and `mwctl deployments` list them; `agent` is one too",
            )
    if query.service and not any(query.service == (service or AGENT) for service in known):
        raise RefusedError(
            f"cannot read logs of {query.service}: there is no such service",
            hint="`mwctl services` lists them; `agent` is one too",
        )
    if query.deployment and not any(service.startswith(f"{query.deployment}/") for service in known):
        raise RefusedError(
            f"cannot read logs of {query.deployment}: there is no such deployment", hint="`mwctl deployments` lists them"
        )
    return _lines(log, query, Choice(query.since * 1000, query.until * 1000, query.priority, events_only))


async def _lines(log: Log, query: LogQuery, choice: Choice) -> AsyncGenerator[LogLine, None]:
    # Not by its time: a clock that is set back meanwhile must not silence a follower.
    follows = choice._replace(since=0)

    def wants(record: Record) -> bool:
        return query.follow and follows.takes(record) and is_wanted(record.service, query)

    with log.follow(wants) as fresh:
        # ``past`` ends where ``fresh`` begins: each record is in exactly one of them.
        if query.lines:
            past = (await log.past(lambda service: is_wanted(service, query))).newest(query.lines, choice)
            while records := await trio.to_thread.run_sync(_some, past, limiter=_READERS.get(), abandon_on_cancel=True):
                for record in records:
                    yield line_of(record)
        if query.follow:
            async for record in fresh:
                yield line_of(record)


def line_of(record: Record) -> LogLine:
    """Return *record* as a line: what a service wrote as it is, what happened as a sentence."""
    service = record.service or AGENT
    if record.event == OUTPUT:
        text = str(record.facts.get("line", ""))
        return LogLine(time_ms=record.at, service=service, text=text, priority=record.priority)
    return LogLine(
        time_ms=record.at,
        service=service,
        text=describe(Record(record.at, record.event, "", record.facts)),
        stream="event",
        priority=record.priority,
        event=record.event,
        facts=record.facts,
    )


def is_wanted(service: str, query: LogQuery) -> bool:
    """Return whether *query* names *service* (empty: the agent itself)."""
    if query.names and not any(_is_named(service, name) for name in query.names):
        return False
    if query.service and query.service != (service or AGENT):
        return False
    return not query.deployment or service.startswith(f"{query.deployment}/")


def _is_named(service: str, name: str) -> bool:
    """Return whether *name* is *service*'s, or its deployment's."""
    return name == (service or AGENT) or service.startswith(f"{name}/")


def _some(past: Iterator[Record]) -> list[Record]:
    return list(islice(past, RECORDS_AT_A_TIME))
