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
from milkyway_agent.core.start_times import Blame, CriticalPath
from milkyway_agent.log.log import Log
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import kernel
from milkyway_formats.errors import RefusedError


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
        return self._supervisor.seen()

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
        states = {name: (seen.row.current, seen.pid) for name, seen in self.seen().items()}
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
        return {name: seen.times for name, seen in self.seen().items()}

    def _groups(self) -> dict[str, str]:
        """Return the control groups of all that runs, by name."""
        return {**self._others(), **self._supervisor.groups()}


def hint_for(name: str, names: Iterable[str]) -> str:
    """Return a hint at which of *names* was probably meant by *name*."""
    import difflib  # late: only mistakes need it

    known = list(names)
    near = [other for other in known if other.rpartition("/")[2] == name]
    near = near or difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else "`mwctl services` lists them"
