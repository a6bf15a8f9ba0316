"""A service: what the agent supervises, as CoreOS, a layer's manifest or a definition file describes it."""

from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.execution import Execution
from milkyway_formats.listener import Listener
from milkyway_formats.names import AbsolutePath, Bytes, DomainName, Port, ServiceName, Text
from milkyway_formats.timer import Milliseconds, Timer

ServiceType = Literal["longrun", "oneshot", "bundle"]
Signal = Literal["TERM", "INT", "QUIT", "HUP", "USR1", "USR2"]
Command = Annotated[list[Text], Meta(min_length=1, max_length=64)]
Percent = Annotated[int, Meta(ge=0, le=100, description="percent")]
EnvironmentName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z")]
User = Annotated[int, Meta(ge=0, le=65533, description="user id inside the deployment's own range (0: the range's first)")]


class TcpProbe(Document, tag="tcp", frozen=True):
    """Healthy when its TCP *port* accepts a connection."""

    port: Port


class HttpProbe(Document, tag="http", frozen=True):
    """Healthy when a GET of *path* on its TCP *port* is answered with a status from 200 to 399."""

    port: Port
    path: Text = "/"


class ExecProbe(Document, tag="exec", frozen=True):
    """Healthy when *command*, run as the service is, ends with status 0."""

    command: Command


Probe = TcpProbe | HttpProbe | ExecProbe


class ReadyAtOnce(Document, tag="at-once", frozen=True):
    """Ready as soon as it has been executed."""


class ReadyByExit(Document, tag="exit", frozen=True):
    """Ready when it has ended with status 0 (a oneshot)."""


class ReadyByNotify(Document, tag="notify", frozen=True):
    """Ready when it says READY=1 over the sd_notify protocol (sd_notify(3))."""


class ReadyByDescriptor(Document, tag="descriptor", frozen=True):
    """Ready when it writes a line to the open *descriptor*, as with s6 (https://skarnet.org/software/s6/notifywhenup.html)."""

    descriptor: Annotated[int, Meta(ge=3, le=255)] = 3


class ReadyByTcp(Document, tag="tcp", frozen=True):
    """Ready when its TCP *port* accepts a connection."""

    port: Port
    interval_ms: Milliseconds = 100


class ReadyByProbe(Document, tag="probe", frozen=True):
    """Ready when *probe*, made every *interval_ms*, finds it healthy for the first time."""

    probe: Probe
    interval_ms: Milliseconds = 200


Readiness = ReadyAtOnce | ReadyByExit | ReadyByNotify | ReadyByDescriptor | ReadyByTcp | ReadyByProbe


class Health(Document, frozen=True):
    """How a started service is probed, and after how many failures in a row it counts as unhealthy."""

    probe: Probe
    interval_ms: Milliseconds = 10_000
    timeout_ms: Milliseconds = 5_000
    failures: Annotated[int, Meta(ge=1, le=1000)] = 3


class Pressure(Document, frozen=True):
    """When a started service is reported as short of a resource: some of its tasks waited this share of ten seconds.

    0: never. The report is the event ``service_under_pressure``, at most one in ten seconds for each resource.
    """

    memory_percent: Percent = 0
    cpu_percent: Percent = 0
    io_percent: Percent = 0


class Restart(Document, frozen=True):
    """When to start a service again: after an exponential backoff between two bounds, up to a start limit.

    ``jitter``: how much of each delay is left to chance, so that services that failed together don't restart together.
    ``on_failure``: what happens once the service has failed for good: nothing, everything that it does not need is
    stopped, or the machine reboots.
    """

    when: Literal["always", "on-failure", "never"] = "always"
    delay_ms: Milliseconds = 100
    delay_limit_ms: Milliseconds = 30_000
    jitter: Percent = 0
    start_limit: Annotated[int, Meta(ge=1, le=1000)] = 10
    start_interval_ms: Milliseconds = 60_000
    on_failure: Literal["nothing", "isolate", "reboot"] = "nothing"


class Stop(Document, frozen=True):
    """How to stop a service: its command if it has one, a signal, and after the timeout SIGKILL for the whole cgroup.

    ``timeout_ms``: from the beginning to SIGKILL; a command that takes half of it is killed, and the signal sent.
    """

    signal: Signal = "TERM"
    timeout_ms: Milliseconds = 10_000
    command: Annotated[list[Text], Meta(max_length=64)] = field(default_factory=list)


class Reload(Document, frozen=True):
    """How to make a service reread its configuration: a signal, or a command."""

    signal: Signal = "HUP"
    command: Annotated[list[Text], Meta(max_length=64)] = field(default_factory=list)


class PathExists(Document, tag="path-exists", frozen=True):
    """Started only where *path* exists (or, *negated*, where it doesn't)."""

    path: AbsolutePath
    negated: bool = False


class KernelParameter(Document, tag="kernel-parameter", frozen=True):
    """Started only where the kernel's command line has the word *parameter* (or, *negated*, doesn't have it)."""

    parameter: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+(=[^\s]*)?\Z", max_length=256)]
    negated: bool = False


Condition = PathExists | KernelParameter


class Limits(Document, frozen=True):
    """cgroup v2 limits; 0 means none. ``cpu_percent``: of one processor, so 200 is two of them."""

    memory_bytes: Bytes = 0
    memory_high_bytes: Bytes = 0
    pids: Annotated[int, Meta(ge=0, le=4_000_000)] = 512
    cpu_weight: Annotated[int, Meta(ge=1, le=10_000)] = 100
    cpu_percent: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    io_weight: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Scratch(Document, frozen=True):
    """A writable path: a tmpfs of its own, ``noexec,nosuid,nodev``, charged to the service, empty at every start."""

    path: AbsolutePath
    size_bytes: Bytes = 16 * 1024 * 1024
    inodes: Annotated[int, Meta(ge=1, le=10_000_000)] = 4096


ServiceNames = Annotated[list[ServiceName], Meta(max_length=64)]


class Service(Document, frozen=True):
    """One supervised program. ``domain`` names a domain of the layer's policy overlay.

    A bundle has no command: it is started when all that it requires and wants is. ``watchdog_ms``: how long it may
    be silent (WATCHDOG=1 of sd_notify(3)) before it counts as hung; 0: for ever.
    """

    name: ServiceName
    command: Annotated[list[Text], Meta(max_length=64)] = field(default_factory=list)
    type: ServiceType = "longrun"
    domain: DomainName = "process"
    user: User = 0
    environment: dict[EnvironmentName, Text] = field(default_factory=dict)
    working_directory: AbsolutePath | Literal["/"] = "/"
    readiness: Readiness = field(default_factory=ReadyAtOnce)
    ready_timeout_ms: Milliseconds = 60_000
    health: Health | None = None
    watchdog_ms: Milliseconds = 0
    pressure: Pressure = field(default_factory=Pressure)
    restart: Restart = field(default_factory=Restart)
    stop: Stop = field(default_factory=Stop)
    reload: Reload = field(default_factory=Reload)
    limits: Limits = field(default_factory=Limits)
    execution: Execution = field(default_factory=Execution)
    scratch: Annotated[list[Scratch], Meta(max_length=32)] = field(default_factory=list)
    stored_descriptors: Annotated[int, Meta(ge=0, le=1024, description="how many it may leave with the agent (FDSTORE=1)")] = 0
    listeners: Annotated[list[Listener], Meta(max_length=32)] = field(default_factory=list)
    timers: Annotated[list[Timer], Meta(max_length=16)] = field(default_factory=list)
    conditions: Annotated[list[Condition], Meta(max_length=16)] = field(default_factory=list)
    requires: ServiceNames = field(default_factory=list)
    wants: ServiceNames = field(default_factory=list)
    after: ServiceNames = field(default_factory=list)
    before: ServiceNames = field(default_factory=list)
    conflicts: ServiceNames = field(default_factory=list)
