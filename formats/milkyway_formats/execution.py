"""Execution: how a service's process runs, apart from its command: rights, limits, secrets."""

from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.names import AbsolutePath, ShortText

CredentialName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", description="a secret's file name")]
CapabilityName = Annotated[str, Meta(pattern=r"^[a-z][a-z_]{2,30}\Z", description="a Linux capability without cap_")]
ResourceName = Literal[
    "as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile", "nproc", "rtprio", "stack"
]
Namespace = Literal["mount", "network", "ipc", "uts", "pid"]


class Credential(Document, frozen=True):
    """A secret: the file *source* on the machine, given as a file of a tmpfs that the service alone can read.

    The service finds the directory in CREDENTIALS_DIRECTORY (systemd.exec(5)); secrets are never in the environment.
    """

    name: CredentialName
    source: AbsolutePath


class Execution(Document, frozen=True):
    """How a process is executed. ``account``: a user of the machine by name or number; "" keeps the supervisor's.

    ``dynamic_user``: a user id of its own for as long as it runs. ``limits``: rlimits, soft and hard alike (setrlimit(2)).
    ``processors``: those it may run on; empty: all. ``seccomp``: which system calls are refused.
    """

    account: ShortText = ""
    dynamic_user: bool = False
    capabilities: Annotated[list[CapabilityName], Meta(max_length=41)] = field(default_factory=list)
    no_new_privileges: bool = True
    seccomp: Literal["none", "default"] = "none"
    namespaces: Annotated[list[Namespace], Meta(max_length=5)] = field(default_factory=list)
    umask: Annotated[int, Meta(ge=0, le=0o777)] = 0o022
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    oom_score: Annotated[int, Meta(ge=-1000, le=1000, description="oom_score_adj (proc_pid_oom_score_adj(5))")] = 0
    processors: Annotated[list[Annotated[int, Meta(ge=0, le=1023)]], Meta(max_length=1024)] = field(default_factory=list)
    limits: dict[ResourceName, Annotated[int, Meta(ge=0, le=1 << 62)]] = field(default_factory=dict)
    credentials: Annotated[list[Credential], Meta(max_length=64)] = field(default_factory=list)
