"""What can be seen of a supervisor: gathered as plain values, and explained by ``core.explanation``.

Each answer is about one moment: everything is read off the supervisor without waiting. What must be read
from the kernel is read in a thread (``api.usage``). Mistyped names are refused here, with a hint.
"""

import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

import trio

from milkyway_agent.api import metrics, usage
from milkyway_agent.api.log_query import LogLine, LogQuery
from milkyway_agent.api.logs import open_events
from milkyway_agent.api.usage import Figures, Top, Use
from milkyway_agent.core import explanation, start_times
from milkyway_agent.core.explanation import Seen, Tree, Why
from milkyway_agent.core.restart import is_on_demand
from milkyway_agent.core.start_times import Blame, CriticalPath
from milkyway_agent.log.log import Log
from milkyway_agent.supervisor.service_record import Attended
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import kernel
from milkyway_formats.errors import RefusedError
from milkyway_formats.service import (
    ReadyAtOnce,
    ReadyByDescriptor,
    ReadyByExit,
    ReadyByNotify,
    ReadyByProbe,
    ReadyByTcp,
    Service,
)


class SupervisorView:
    """Shows one supervisor: implements ``api.machine.View``.

    *phases*: when each phase of the boot was done. *others*: the control groups of what runs beside the services, by name.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        log: Log,
        *,
        version: str,
        phases: Callable[[], Mapping[str, int]] = dict,
        others: Callable[[], Mapping[str, str]] = dict,
        clock_ms: Callable[[], int] = kernel.boottime_ms,
    ) -> None:
        self._supervisor = supervisor
        self._log = log
        self._version = version
        self._phases = phases
        self._others = others
        self._clock_ms = clock_ms

    def seen(self) -> dict[str, Seen]:
        """Return all services as they are now."""
        return {name: seen_of(self._supervisor.attended(name)) for name in self._supervisor.names()}

    async def tree(self) -> Tree:
        """Return all services with what they need and why they are in their states."""
        await trio.lowlevel.checkpoint()
        return explanation.tree(self.seen(), self._supervisor.graph, self._supervisor.rows, self._clock_ms())

    async def why(self, service: str) -> Why:
        """Return why a service is in its state."""
        await trio.lowlevel.checkpoint()
        self.check_name("explain", service)
        return explanation.why(service, self.seen(), self._supervisor.graph, self._supervisor.rows, self._clock_ms())

    async def blame(self) -> Blame:
        """Return how long each service took to come up."""
        await trio.lowlevel.checkpoint()
        return start_times.blame(self._times(), self._phases(), self._clock_ms())

    async def critical_path(self, service: str) -> CriticalPath:
        """Return what a service ("": the last that the boot had ready) waited for."""
        await trio.lowlevel.checkpoint()
        if service:
            self.check_name("show the critical path of", service)
        times = self._times()
        target = service or start_times.last_of_boot(times)
        if not target or not times[target].wanted_ms:
            what = f"nobody has asked for {service}" if service else "no service has come up yet"
            raise RefusedError(f"cannot show a critical path: {what}", hint="`mwctl tree` shows what every service waits for")
        start = start_times.start_of(times, self._phases())
        return start_times.critical_path(target, times, self._supervisor.graph.predecessors, start, self._clock_ms())

    async def top(self) -> Top:
        """Return what every service uses."""
        states = {
            name: (record.row.current, record.run.running.pid if record.run else 0)
            for name in self._supervisor.names()
            for record in [self._supervisor.attended(name)]
        }
        others = self._others()
        uptime = self._clock_ms()

        def arrange(found: Mapping[str, Figures]) -> Top:
            services = [Use(name, state, pid, found.get(name, Figures())) for name, (state, pid) in states.items()]
            services += [Use(name, "started", 0, found[name]) for name in others if name not in states]
            return Top(time.monotonic_ns() // 1000, uptime, os.cpu_count() or 1, services)

        return await usage.in_thread(arrange, self._groups())

    async def metrics(self) -> str:
        """Return everything as metrics."""
        seen, phases, uptime = self.seen(), dict(self._phases()), self._clock_ms()

        def write(found: Mapping[str, Figures]) -> str:
            return metrics.text(metrics.Scene(self._version, uptime, phases, seen, found))

        return await usage.in_thread(write, self._groups())

    async def events(self, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        """Return the events that *query* names."""
        await trio.lowlevel.checkpoint()
        return open_events(self._log, query, [*self._supervisor.names(), *self._others()])

    def check_name(self, deed: str, name: str) -> None:
        """Raise RefusedError, with a hint, where there is no service *name*; *deed*: "explain"."""
        names = self._supervisor.names()
        if name in names:
            return
        if name in self._others():
            raise RefusedError(
                f"cannot {deed} {name}: it is a part of the agent, not a service",
                hint=f"`mwctl logs {name}` and `mwctl top` show it",
            )
        raise RefusedError(f"cannot {deed} {name}: there is no such service", hint=hint_for(name, names))

    def _times(self) -> dict[str, start_times.Times]:
        return {name: self._supervisor.attended(name).times for name in self._supervisor.names()}

    def _groups(self) -> dict[str, str]:
        """Return the control groups of all that runs, by name."""
        found = dict(self._others())
        for name in self._supervisor.names():
            record = self._supervisor.attended(name)
            group = getattr(record.definition.starter, "cgroup", "")
            if record.run is not None and group:
                found[name] = group
        return found


def seen_of(one: Attended) -> Seen:
    """Return what is seen of one service."""
    service, needs = one.definition.service, one.definition.needs
    return Seen(
        row=one.row,
        since_ms=one.since_ms,
        kind=service.type,
        pid=one.run.running.pid if one.run else 0,
        restarts=one.restarts,
        reason=one.reason,
        cause=one.cause,
        origin=one.origin,
        times=one.times,
        awaits_permission=one.awaits_permission,
        delay_ms=one.delay_ms,
        trigger=_trigger(service),
        readiness=_readiness(service),
        requires=needs.requires,
        wants=needs.wants,
    )


def hint_for(name: str, names: Iterable[str]) -> str:
    """Return a hint at which of *names* was probably meant by *name*."""
    import difflib  # late: only mistakes need it

    known = list(names)
    near = [other for other in known if other.rpartition("/")[2] == name]
    near = near or difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else "`mwctl services` lists them"


def _trigger(service: Service) -> str:
    by_client = is_on_demand(service)
    if service.timers:
        return "a client, or its time" if by_client else "its time"
    return "a client" if by_client else ""


def _readiness(service: Service) -> str:
    """Return what a start of *service* waits for, as what follows "until it"."""
    match service.readiness:
        case ReadyAtOnce():
            return "is executed" if service.type != "oneshot" else "has ended"
        case ReadyByExit():
            return "has ended"
        case ReadyByNotify():
            return "says READY=1"
        case ReadyByDescriptor(descriptor=descriptor):
            return f"writes a line to descriptor {descriptor}"
        case ReadyByTcp(port=port):
            return f"listens on TCP port {port}"
        case ReadyByProbe():
            return "passes its readiness probe"
