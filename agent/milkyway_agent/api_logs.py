"""The agent's log, read for ``mwctl logs``: chosen, merged by time, and followed.

What a follower misses because it reads too slowly it misses (``log.Log.follow``): no service and
no other reader ever waits for it.
"""

import heapq
from collections.abc import AsyncGenerator, Iterable

from milkyway_agent.api_types import LogLine, LogQuery
from milkyway_agent.log import OUTPUT, Log, Record, describe
from milkyway_formats.errors import RefusedError

AGENT = "agent"  # how the agent's own records, whose service is empty, are addressed


def open_log(log: Log, query: LogQuery, services: Iterable[str]) -> AsyncGenerator[LogLine, None]:
    """Return the lines of *log* that *query* names, of the known *services* (``dhcp``, ``web/nginx``) and the agent.

    Raises RefusedError at once when the query names a service or deployment of which there is none.
    """
    known = ["", *services]
    wanted = [service for service in known if _is_wanted(service, query)]
    if query.service and not wanted:
        raise RefusedError(
            f"cannot read logs of {query.service}: there is no such service",
            hint="`mwctl services` lists them; `agent` is one too",
        )
    if query.deployment and not wanted:
        raise RefusedError(
            f"cannot read logs of {query.deployment}: there is no such deployment", hint="`mwctl deployments` lists them"
        )
    return _lines(log, query, wanted)


async def _lines(log: Log, query: LogQuery, wanted: list[str]) -> AsyncGenerator[LogLine, None]:
    with log.follow() as fresh:
        # Nothing waits between these two, so no record is in both and none in neither.
        past = [log.records(service, query.since * 1000, query.lines) for service in wanted] if query.lines else []
        merged = list(heapq.merge(*past, key=lambda record: record.at))
        for record in merged[max(0, len(merged) - query.lines) :]:
            yield line_of(record)
        if query.follow:
            async for record in fresh:
                if _is_wanted(record.service, query):
                    yield line_of(record)


def line_of(record: Record) -> LogLine:
    """Return *record* as a line: what a service wrote as it is, what happened as a sentence."""
    service = record.service or AGENT
    if record.event == OUTPUT:
        return LogLine(time_ms=record.at, service=service, text=str(record.facts.get("line", "")))
    text = describe(Record(record.at, record.event, "", record.facts))
    return LogLine(time_ms=record.at, service=service, text=text, stream="event")


def _is_wanted(service: str, query: LogQuery) -> bool:
    if query.service and query.service != (service or AGENT):
        return False
    return not query.deployment or service.startswith(f"{query.deployment}/")
