"""What the local API can be asked of a machine, and the shapes of its answers.

Shapes and pure functions only: nothing here waits, opens or logs. ``api.requests`` carries out what is asked;
``front.server`` turns HTTP into requests and back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
from msgspec import field

from milkyway_agent.api.log_query import LogLine, LogQuery
from milkyway_formats.codec import Document
from milkyway_formats.names import ShortText, Text
from milkyway_formats.report import LayerStatus, ServiceStatus, Status, TrustStatus

if TYPE_CHECKING:
    from milkyway_agent.api.usage import Top
    from milkyway_agent.core.explanation import Tree, Why
    from milkyway_agent.core.start_times import Blame, CriticalPath

VERSION = "0.1.0"  # of the agent


class Applied(Document, frozen=True):
    """What an admitted envelope was. What comes of it shows in ``status``."""

    kind: Literal["desired", "command"]
    id: ShortText
    version: int = 0
    detail: Text = ""


class View(Protocol):
    """What can be seen of a supervisor. An unknown name raises RefusedError, with a hint."""

    async def tree(self) -> Tree:
        """Return all services with what they need and why they are in their states."""

    async def why(self, service: str) -> Why:
        """Return why a service is in its state."""

    async def blame(self) -> Blame:
        """Return how long each service took to come up."""

    async def critical_path(self, service: str) -> CriticalPath:
        """Return what a service ("": the last that the boot had ready) waited for."""

    async def top(self) -> Top:
        """Return what every service uses."""

    async def metrics(self) -> str:
        """Return everything as metrics, in Prometheus's text format."""

    async def events(self, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        """Return the events that *query* names: as ``Machine.logs``, without what services wrote themselves."""


class Machine(Protocol):
    """What the API needs of the machine. Refusals raise RefusedError, "not now" UnavailableError."""

    @property
    def view(self) -> View:
        """What can be seen of its services."""

    async def status(self) -> Status:
        """Return everything that ``mwctl status`` shows."""

    async def trust(self) -> TrustStatus:
        """Return whose signatures the machine accepts."""

    async def logs(self, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        """Return the lines that *query* names; an unknown service is refused before the first line.

        A follower that is slow misses lines; it never holds up a service. The caller closes the generator.
        """

    async def start(self, service: str) -> ServiceStatus:
        """Start a service and return what it then is."""

    async def stop(self, service: str) -> ServiceStatus:
        """Stop a service until it is started or the machine boots."""

    async def restart(self, service: str) -> ServiceStatus:
        """Stop a service and start it again."""

    async def reload(self, service: str) -> ServiceStatus:
        """Have a started service read its configuration again, and return at once."""

    async def apply(self, envelope_fd: int, *, change: bool) -> Applied:
        """Have the verifier admit the envelope in *envelope_fd* (sealed, the caller closes it).

        *change*: the client may change the machine without operators' signatures (``access.may_change``).
        """

    async def reexec(self) -> None:
        """Have the agent become its newest version, while services go on: begin it and return, to still send the answer."""

    async def reboot(self) -> None:
        """Begin an orderly reboot and return at once, so that the answer is still sent."""

    async def poweroff(self) -> None:
        """Begin an orderly power-off and return at once."""


class OpenLayer(Document, frozen=True):
    """One layer of ``/v1/layers``, with the names of the deployments whose stacks hold it."""

    path: ShortText
    version: ShortText
    root_hash: ShortText
    verity_device: ShortText
    deployments: list[ShortText] = field(default_factory=list)


def services_of(status: Status) -> list[ServiceStatus]:
    """Return every service of *status*: CoreOS's first, then each deployment's."""
    return [*status.services, *(service for deployment in status.deployments for service in deployment.services)]


def layers_of(status: Status) -> list[OpenLayer]:
    """Return every open layer of *status* once, in the order in which they first appear."""
    users: dict[str, list[str]] = {}
    layers: dict[str, LayerStatus] = {}
    for deployment in status.deployments:
        for layer in deployment.layers:
            layers.setdefault(layer.root_hash, layer)
            users.setdefault(layer.root_hash, []).append(deployment.name)
    return [
        OpenLayer(
            path=layer.path,
            version=layer.version,
            root_hash=root_hash,
            verity_device=layer.verity_device,
            deployments=users[root_hash],
        )
        for root_hash, layer in layers.items()
    ]


def plain(value: Any) -> Any:
    """Return *value* as plain JSON data that names every field.

    The canonical form of a document leaves defaults out; a client of the API should find
    ``"deployments": []`` rather than nothing.
    """
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {"type": tag, **fields} if tag is not None else fields
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value
