"""A machine behind the local API, in memory: three services, one deployment, a log, real refusals."""

import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import msgspec
import trio

from milkyway_agent.api import metrics
from milkyway_agent.api.log_query import LogLine, LogQuery
from milkyway_agent.api.logs import is_wanted
from milkyway_agent.api.machine import Applied
from milkyway_agent.api.usage import Figures, Top, Use
from milkyway_agent.api.view import hint_for
from milkyway_agent.core import explanation, start_times
from milkyway_agent.core.dependencies import Graph, Needs
from milkyway_agent.core.explanation import Origin, Seen, Tree, Why
from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.core.start_times import Blame, CriticalPath, Times
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.report import (
    DeploymentStatus,
    LayerStatus,
    ProcessStatus,
    RootStatus,
    ServiceStatus,
    Status,
    TrustStatus,
)

STATUS = Status(
    slot=None,
    root_hash="3f2a9c41d2e0" + "7" * 52,
    selinux="enforcing",
    development=False,
    version="0.1.0",
    boot_id="2f0b7c7e-90a3-4d0e-8a55-0f3d4c1e2b6a",
    booted=1_790_000_000,
    uptime_ms=8_040_500,
    desired_version=7,
    hostname="web-1",
    connected=True,
    boot_ms={"pid1": 9_100, "ready": 18_400},
    services=[
        ServiceStatus(name="dhcp", state="started", wanted=True, pid=88, context="u:r:dhcp_t:s0", since_ms=12_500),
        ServiceStatus(name="time", state="stopped", wanted=False, since_ms=9_000),
    ],
    deployments=[
        DeploymentStatus(
            id="web_k3v9",
            name="web",
            generation=2,
            state="active",
            services=[
                ServiceStatus(
                    name="web/nginx",
                    state="started",
                    wanted=True,
                    pid=412,
                    context="u:r:web_k3v9.v2.process:s0",
                    since_ms=60_500,
                )
            ],
            layers=[
                LayerStatus(
                    path="example/nginx",
                    version="1.26.3",
                    root_hash="a1" * 32,
                    verity_device="/dev/mapper/layer-" + "b2" * 16,
                ),
                LayerStatus(
                    path="example/libraries",
                    version="13.1",
                    root_hash="c3" * 32,
                    verity_device="/dev/mapper/layer-" + "d4" * 16,
                ),
            ],
        )
    ],
    processes=[ProcessStatus(pid=1, name="milkyway-agent", context="u:r:agent_t:s0", pss_bytes=20 << 20)],
)

TRUST = TrustStatus(
    machine="5" * 64,
    fleet="example",
    desired_version=7,
    roots=[
        RootStatus(
            side="owner",
            version=1,
            expires=1_900_000_000,
            sha256="6" * 64,
            persons=["ada", "grace"],
            thresholds={"change": 2, "read": 1},
        )
    ],
)

LOG = [
    LogLine(time_ms=1_790_000_060_500, service="web/nginx", text="ready"),
    LogLine(time_ms=1_790_000_061_250, service="dhcp", text="lease renewed"),
    LogLine(time_ms=1_790_000_062_000, service="web/nginx", text="\x1b[2Jupstream gone", stream="event", priority=4),
]


# What happened to the services of the view: nginx needs php, which waits for a database that has failed.
SEEN = {
    "disk": Seen(
        row=Row.COMPLETED,
        since_ms=9_400,
        kind="oneshot",
        cause=Event.COMPLETED,
        origin=Origin("pulled-in", "shop/db"),
        times=Times(9_000, 9_000, 9_001, 9_400, 9_400),
    ),
    "dhcp": Seen(
        row=Row.STARTED,
        since_ms=12_500,
        pid=88,
        origin=Origin("asked", "the boot"),
        times=Times(9_000, 9_001, 9_005, 12_500, 12_500),
    ),
    "shop/db": Seen(
        row=Row.FAILED,
        since_ms=14_000,
        restarts=9,
        reason="ended with status 1; given up after 10 starts within 60 s",
        cause=Event.GAVE_UP,
        origin=Origin("pulled-in", "shop/php"),
        times=Times(9_000, 9_400, 9_420, 0, 14_000),
        requires=("disk",),
    ),
    "shop/php": Seen(
        row=Row.WAITING,
        since_ms=9_000,
        origin=Origin("pulled-in", "shop/nginx"),
        times=Times(9_000),
        awaits_permission=True,
        requires=("shop/db",),
    ),
    "shop/nginx": Seen(
        row=Row.WAITING,
        since_ms=9_000,
        origin=Origin("asked", "the boot"),
        times=Times(9_000),
        awaits_permission=True,
        requires=("shop/php",),
        wants=("dhcp",),
    ),
    "time": Seen(),
}
NOW_MS = 8_040_500
FIGURES = {
    "dhcp": Figures(
        memory_bytes=3 << 20,
        cpu_usec=1_500_000,
        tasks=2,
        read_bytes=4096,
        written_bytes=0,
        cpu_pressure=0.0,
        memory_pressure=12.5,
        io_pressure=None,
    )
}


@dataclass
class FakeView:
    """Implements ``api.machine.View`` over SEEN, with the real explanations; the figures of ``top`` grow with each call."""

    machine: "FakeMachine"
    asked: int = 0

    @property
    def graph(self) -> Graph:
        return Graph({name: Needs(requires=seen.requires, wants=seen.wants) for name, seen in SEEN.items()})

    @property
    def rows(self) -> dict[str, Row]:
        return {name: seen.row for name, seen in SEEN.items()}

    @property
    def times(self) -> dict[str, Times]:
        return {name: seen.times for name, seen in SEEN.items()}

    async def tree(self) -> Tree:
        return explanation.tree(SEEN, self.graph, self.rows, NOW_MS)

    async def why(self, service: str) -> Why:
        if service not in SEEN:
            raise RefusedError(f"cannot explain {service}: there is no such service", hint=hint_for(service, SEEN))
        return explanation.why(service, SEEN, self.graph, self.rows, NOW_MS)

    async def blame(self) -> Blame:
        return start_times.blame(self.times, self.machine.state.boot_ms, NOW_MS)

    async def critical_path(self, service: str) -> CriticalPath:
        target = service or start_times.last_of_boot(self.times)
        return start_times.critical_path(target, self.times, self.graph.predecessors, 0, NOW_MS)

    async def top(self) -> Top:
        self.asked += 1
        grown = {
            name: msgspec.structs.replace(used, cpu_usec=(used.cpu_usec or 0) + self.asked * 250_000)
            for name, used in FIGURES.items()
        }
        services = [Use(name, seen.row.current, seen.pid, grown.get(name, Figures())) for name, seen in SEEN.items()]
        return Top(self.asked * 1_000_000, NOW_MS, 2, services)

    async def metrics(self) -> str:
        return metrics.text(metrics.Scene("0.1.0", NOW_MS, self.machine.state.boot_ms, SEEN, FIGURES))

    async def events(self, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        return self.machine.lines(query, streams=("event",))


@dataclass
class FakeMachine:
    """Implements ``api.machine.Machine``; ``calls`` records what it was told to do."""

    state: Status = STATUS
    log: list[LogLine] = field(default_factory=lambda: list(LOG))
    calls: list[tuple[str, str]] = field(default_factory=list)
    envelopes: list[bytes] = field(default_factory=list)
    changes: list[bool] = field(default_factory=list)
    followers: int = 0
    more: trio.Event = field(default_factory=trio.Event)
    broken: Exception | None = None

    @property
    def view(self) -> FakeView:
        return self._view

    def __post_init__(self) -> None:
        self._view = FakeView(self)

    async def status(self) -> Status:
        self._fail_if_broken()
        return self.state

    async def trust(self) -> TrustStatus:
        return TRUST

    async def logs(self, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        for name in [*query.names, query.service]:
            if name and not any(service == name or service.startswith(f"{name}/") for service in self._services()):
                raise RefusedError(f"cannot read logs of {name}: there is no such service")
        return self.lines(query)

    async def start(self, service: str) -> ServiceStatus:
        return self._act("start", service, "started")

    async def stop(self, service: str) -> ServiceStatus:
        return self._act("stop", service, "stopped")

    async def restart(self, service: str) -> ServiceStatus:
        return self._act("restart", service, "started")

    async def reload(self, service: str) -> ServiceStatus:
        return self._act("reload", service, "started")

    async def apply(self, envelope_fd: int, *, change: bool) -> Applied:
        data = os.pread(envelope_fd, 1 << 20, 0)
        self.envelopes.append(data)
        self.changes.append(change)
        if b"forged" in data:
            raise RefusedError("cannot admit the document: signed by an unknown key", hint="`mwctl trust` lists the keys")
        return Applied(kind="desired", id="e" * 32, version=8)

    async def reexec(self) -> None:
        self.calls.append(("reexec", ""))

    async def reboot(self) -> None:
        self.calls.append(("reboot", ""))

    async def poweroff(self) -> None:
        self.calls.append(("poweroff", ""))

    def add_line(self, text: str) -> None:
        """Log a line; its followers get it."""
        self.log.append(LogLine(time_ms=1_790_000_070_000, service="web/nginx", text=text))
        self.more.set()
        self.more = trio.Event()

    async def lines(self, query: LogQuery, streams: tuple[str, ...] = ("output", "event")) -> AsyncGenerator[LogLine, None]:
        self.followers += query.follow
        try:
            chosen = [line for line in self.log if line.stream in streams and self._wanted(line, query)]
            seen = len(self.log)
            for line in chosen[len(chosen) - query.lines if query.lines < len(chosen) else 0 :]:
                self._fail_if_broken()
                yield line
            while query.follow:
                more = self.more
                if seen == len(self.log):
                    await more.wait()
                fresh, seen = self.log[seen:], len(self.log)
                for line in fresh:
                    if line.stream in streams and self._wanted(line, query):
                        yield line
        finally:
            self.followers -= query.follow

    def _wanted(self, line: LogLine, query: LogQuery) -> bool:
        return (
            is_wanted(line.service, query)
            and query.since * 1000 <= line.time_ms < query.until * 1000
            and line.priority <= query.priority
        )

    def _services(self) -> dict[str, ServiceStatus]:
        own = {service.name: service for service in self.state.services}
        return own | {service.name: service for deployment in self.state.deployments for service in deployment.services}

    def _act(self, verb: str, service: str, state: str) -> ServiceStatus:
        known = self._services()
        if service not in known:
            raise RefusedError(f"cannot {verb} {service}: there is no such service", hint="`mwctl services` lists them")
        if service == "time" and verb == "start":
            raise UnavailableError("cannot start time: the machine is shutting down")
        self.calls.append((verb, service))
        return msgspec.structs.replace(
            known[service], state=state, wanted=state == "started", pid=500 if state == "started" else 0
        )

    def _fail_if_broken(self) -> None:
        if self.broken is not None:
            raise self.broken
