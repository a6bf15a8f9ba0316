"""A service: one program that the agent supervises, as CoreOS or a layer's manifest describes it."""

from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.names import AbsolutePath, Bytes, DomainName, Port, ServiceName, Text

ServiceType = Literal["longrun", "oneshot"]
Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000, description="milliseconds")]
Signal = Literal["TERM", "INT", "QUIT", "HUP", "USR1", "USR2"]
EnvironmentName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z")]
User = Annotated[int, Meta(ge=0, le=65533, description="user id inside the deployment's own range (0: the range's first)")]


class ReadyAtOnce(Document, tag="at-once", frozen=True):
    """Ready as soon as it was executed."""


class ReadyByExit(Document, tag="exit", frozen=True):
    """Ready when it ended with status 0 (a oneshot)."""


class ReadyByNotify(Document, tag="notify", frozen=True):
    """Ready when it says READY=1 over the sd_notify protocol (sd_notify(3))."""


class ReadyByTcp(Document, tag="tcp", frozen=True):
    """Ready when its TCP *port* accepts a connection."""

    port: Port
    interval_ms: Milliseconds = 100


Readiness = ReadyAtOnce | ReadyByExit | ReadyByNotify | ReadyByTcp


class Restart(Document, frozen=True):
    """When to start it again, and how patiently: exponential backoff between two bounds, then a start limit."""

    when: Literal["always", "on-failure", "never"] = "always"
    delay_ms: Milliseconds = 100
    delay_limit_ms: Milliseconds = 30_000
    start_limit: Annotated[int, Meta(ge=1, le=1000)] = 10
    start_interval_ms: Milliseconds = 60_000


class Stop(Document, frozen=True):
    """How to stop it: a signal, then patience, then SIGKILL for the whole cgroup."""

    signal: Signal = "TERM"
    timeout_ms: Milliseconds = 10_000


class Limits(Document, frozen=True):
    """cgroup v2 limits; 0 means none."""

    memory_bytes: Bytes = 0
    pids: Annotated[int, Meta(ge=0, le=4_000_000)] = 512
    cpu_weight: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Scratch(Document, frozen=True):
    """A writable path: a tmpfs of its own, ``noexec,nosuid,nodev``, charged to the service, empty at every start."""

    path: AbsolutePath
    size_bytes: Bytes = 16 * 1024 * 1024
    inodes: Annotated[int, Meta(ge=1, le=10_000_000)] = 4096


class Service(Document, frozen=True):
    """One supervised program. ``domain`` names a domain of the layer's policy overlay."""

    name: ServiceName
    command: Annotated[list[Text], Meta(min_length=1, max_length=64)]
    type: ServiceType = "longrun"
    domain: DomainName = "process"
    user: User = 0
    environment: dict[EnvironmentName, Text] = field(default_factory=dict)
    working_directory: AbsolutePath | Literal["/"] = "/"
    readiness: Readiness = field(default_factory=ReadyAtOnce)
    ready_timeout_ms: Milliseconds = 60_000
    restart: Restart = field(default_factory=Restart)
    stop: Stop = field(default_factory=Stop)
    limits: Limits = field(default_factory=Limits)
    scratch: Annotated[list[Scratch], Meta(max_length=32)] = field(default_factory=list)
    requires: Annotated[list[ServiceName], Meta(max_length=64)] = field(default_factory=list)
    wants: Annotated[list[ServiceName], Meta(max_length=64)] = field(default_factory=list)
    after: Annotated[list[ServiceName], Meta(max_length=64)] = field(default_factory=list)
    before: Annotated[list[ServiceName], Meta(max_length=64)] = field(default_factory=list)
