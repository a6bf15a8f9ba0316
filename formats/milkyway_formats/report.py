"""A machine's reports about itself: made after it acted, signed with its identity key."""

from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.names import (
    Bytes,
    DeploymentName,
    FleetId,
    Identifier,
    LayerPath,
    LayerVersion,
    MachineId,
    RootHash,
    Sha256,
    ShortText,
    Text,
    UnixSeconds,
)

REPORT_TYPE = "application/vnd.milkyway.report.v1+json"
ServiceState = Literal["stopped", "armed", "starting", "started", "stopping", "failed"]
DeploymentState = Literal["staging", "verifying", "activating", "active", "failed", "removing"]


class ServiceStatus(Document, frozen=True):
    """The current state of one service, named as it is addressed: ``dhcp``, ``web/nginx``.

    ``since_ms``: milliseconds of CLOCK_BOOTTIME at its last change of state.
    """

    name: ShortText
    state: ServiceState
    wanted: bool
    pid: int = 0
    context: ShortText = ""
    restarts: int = 0
    since_ms: int = 0
    reason: Text = ""


class LayerStatus(Document, frozen=True):
    """One layer that is open: its verity device and where it is mounted."""

    path: LayerPath
    version: LayerVersion
    root_hash: RootHash
    verity_device: ShortText


class DeploymentStatus(Document, frozen=True):
    """The current state of one deployment."""

    id: Identifier
    name: DeploymentName
    generation: int
    state: DeploymentState
    services: list[ServiceStatus] = field(default_factory=list)
    layers: list[LayerStatus] = field(default_factory=list)
    reason: Text = ""


class ProcessStatus(Document, frozen=True):
    """One process with its SELinux context."""

    pid: int
    name: ShortText
    context: ShortText
    parent: int = 0
    pss_bytes: Bytes = 0


class Status(Document, frozen=True):
    """The machine as a whole: what ``mwctl status`` shows and a report carries.

    ``boot_ms``: milliseconds from the kernel's start to each phase of the boot; ``ready`` is the last.
    ``connected``: whether the control server answers; None where there is none.
    """

    slot: Literal["a", "b"] | None
    root_hash: RootHash
    selinux: Literal["enforcing", "permissive", "disabled"]
    development: bool
    version: ShortText
    boot_id: ShortText
    booted: UnixSeconds
    uptime_ms: int
    desired_version: int
    services: list[ServiceStatus] = field(default_factory=list)
    deployments: list[DeploymentStatus] = field(default_factory=list)
    processes: list[ProcessStatus] = field(default_factory=list)
    boot_failures: list[Text] = field(default_factory=list)
    boot_ms: dict[ShortText, int] = field(default_factory=dict)
    refusals: Annotated[list[Text], Meta(max_length=100)] = field(default_factory=list)
    hostname: ShortText = ""
    quarantined: Text = ""
    connected: bool | None = None


class RootStatus(Document, frozen=True):
    """One root document in force: whose it is, and how many distinct persons each role asks for.

    ``local``: what root at the machine may do there without operators' signatures, as in the root document.
    """

    side: Literal["vendor", "owner"]
    version: int
    expires: UnixSeconds
    sha256: Sha256
    persons: list[ShortText] = field(default_factory=list)
    thresholds: dict[ShortText, int] = field(default_factory=dict)
    local: Literal["read", "change"] = "read"


class TrustStatus(Document, frozen=True):
    """Whose signatures the machine accepts. ``quarantined`` says why commands are refused, if they are."""

    machine: MachineId | None
    fleet: FleetId | None
    desired_version: int = 0
    quarantined: Text = ""
    roots: list[RootStatus] = field(default_factory=list)


class Report(Document, frozen=True):
    """What a machine signs. ``sequence`` rises by one with every report of a machine."""

    format: Literal["milkyway.report/1"]
    fleet: FleetId
    machine: MachineId
    sequence: int
    issued: UnixSeconds
    status: Status
