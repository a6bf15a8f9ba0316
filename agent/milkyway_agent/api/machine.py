"""What the local API can be asked, who may ask it, and what the machine behind it must be able to do.

Decisions and shapes only: nothing here waits, opens or logs. ``api.server`` is PID 1's side and
carries out what is decided here; ``front.server`` turns HTTP into these requests and back.

Who may what (``docs/reference/local-api.md``): root everything that credentials can give; members
of the group ``milkyway`` read, restart and stop; ``apply`` is open to whoever reaches the
socket, because the envelope carries the authority and the verifier checks it. Only where the owner's
policy is ``change`` may root apply what no operator signed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta, field

from milkyway_agent.ipc.messages import ApiVerb
from milkyway_agent.log.record import INFO, PRIORITIES, Fact, Priority
from milkyway_formats.codec import Document
from milkyway_formats.command import CommandClass
from milkyway_formats.errors import RefusedError
from milkyway_formats.names import ShortText, Text
from milkyway_formats.report import LayerStatus, ServiceStatus, Status, TrustStatus

if TYPE_CHECKING:
    from milkyway_agent.api.usage import Top
    from milkyway_agent.core.explanation import Tree, Why
    from milkyway_agent.core.start_times import Blame, CriticalPath

MAX_LOG_LINES = 10_000
LAST_SECOND = 253402300799  # of the year 9999
DEFAULT_LOG_LINES = 100
Local = Literal["read", "change"]

# What each verb needs; None: nothing but reaching the socket (its envelope is what counts).
CLASS_OF_VERB: dict[ApiVerb, CommandClass | None] = {
    "status": "read",
    "services": "read",
    "layers": "read",
    "deployments": "read",
    "trust": "read",
    "logs": "read",
    "tree": "read",
    "why": "read",
    "blame": "read",
    "critical-path": "read",
    "top": "read",
    "metrics": "read",
    "events": "read",
    "start": "restart",
    "restart": "restart",
    "reload": "restart",
    "stop": "stop",
    "apply": None,
    "reexec": "deep",
    "reboot": "deep",
    "poweroff": "deep",
}


class ForbiddenError(RefusedError):
    """The peer may not do this (HTTP 403); any other refusal is the machine's own (409)."""


class MalformedRequestError(RefusedError):
    """A parameter is not what it should be (HTTP 400)."""


class Peer(NamedTuple):
    """Who is at the other end of a connection, as the kernel says."""

    pid: int
    uid: int
    groups: frozenset[int]


class LogQuery(Document, frozen=True):
    """Which log lines, oldest first: the last *lines* of those chosen, then, with *follow*, every further one.

    *names*: services or deployments, any of them; *service* and *deployment* name one exactly; without any of
    the three: all. From *since* to before *until* (Unix seconds); at least as grave as *priority* (0 to 7).
    """

    names: list[ShortText] = field(default_factory=list)
    service: ShortText = ""
    deployment: ShortText = ""
    lines: Annotated[int, Meta(ge=0, le=MAX_LOG_LINES)] = DEFAULT_LOG_LINES
    since: Annotated[int, Meta(ge=0, le=LAST_SECOND)] = 0
    until: Annotated[int, Meta(ge=0, le=LAST_SECOND)] = LAST_SECOND
    priority: Priority = 7
    follow: bool = False


class LogLine(Document, frozen=True):
    """One line: ``service`` is ``web/nginx``, ``dhcp`` or ``agent``; ``time_ms`` is Unix milliseconds.

    ``stream`` is ``event`` for what the agent noted of the service (then ``event`` and ``facts`` are what
    ``text`` says, for programs), else what the service wrote itself. ``priority``: 0 (emerg) to 7 (debug).
    """

    time_ms: int
    service: ShortText
    text: str
    stream: Literal["output", "event"] = "output"
    priority: Priority = INFO
    event: str = ""
    facts: dict[str, Fact] = field(default_factory=dict)


class Applied(Document, frozen=True):
    """What an admitted envelope was. What comes of it shows in ``status``."""

    kind: Literal["desired", "command"]
    id: ShortText
    version: int = 0
    detail: Text = ""


class View(Protocol):
    """What there is to see of a supervisor. A name that is not there raises RefusedError, with a hint."""

    async def tree(self) -> Tree:
        """Return all services with what they need and why they are where they are."""

    async def why(self, service: str) -> Why:
        """Return why a service is in its state."""

    async def blame(self) -> Blame:
        """Return how long each service took to come up."""

    async def critical_path(self, service: str) -> CriticalPath:
        """Return what a service ("": the one that the boot had ready last) waited for."""

    async def top(self) -> Top:
        """Return what every service uses."""

    async def metrics(self) -> str:
        """Return everything as metrics, in Prometheus's text format."""

    async def events(self, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        """Return what happened, as *query* says: as ``Machine.logs``, without what services wrote themselves."""


class Machine(Protocol):
    """What the API needs of the machine. Refusals raise RefusedError, "not now" UnavailableError."""

    @property
    def view(self) -> View:
        """What there is to see of its services."""

    async def status(self) -> Status:
        """Return everything that ``mwctl status`` shows."""

    async def trust(self) -> TrustStatus:
        """Return whose word the machine takes."""

    async def logs(self, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        """Return the lines that *query* names; an unknown service is refused before the first.

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

        *change*: who asks may change the machine without operators' signatures (``may_change``).
        """

    async def reexec(self) -> None:
        """Have the agent become its newest version, services going on: begin it and return, so that the answer still leaves."""

    async def reboot(self) -> None:
        """Begin an orderly reboot and return at once, so that the answer still leaves."""

    async def poweroff(self) -> None:
        """Begin an orderly power-off and return at once."""


def authorise(verb: ApiVerb, peer: Peer, *, group: int | None, local: Local) -> None:
    """Raise ForbiddenError unless *peer* may do *verb*.

    *group* is the group id of ``milkyway``, None where there is no such group; *local* is the
    owner's policy: only with ``change`` do credentials give what belongs to the class change.
    """
    needed = CLASS_OF_VERB[verb]
    if needed is None:
        return
    if peer.uid != 0 and group is None:
        raise ForbiddenError(
            f"cannot {_words(verb)}: user {peer.uid} may not, and there is no group whose members may",
            hint="ask as root, or as the user who runs the supervisor",
        )
    if peer.uid != 0 and group not in peer.groups:
        raise ForbiddenError(
            f"cannot {_words(verb)}: user {peer.uid} is neither root nor in the group milkyway",
            hint="log in as a member of the group milkyway, or apply a signed envelope with `mwctl apply`",
        )
    if needed == "deep" and peer.uid != 0:
        raise ForbiddenError(f"cannot {_words(verb)}: only root may", hint="a signed command may do it: `mwctl apply`")
    if needed == "change" and not may_change(peer, local):
        raise ForbiddenError(
            f"cannot {_words(verb)}: the owner's policy asks for a signed envelope", hint="`mwctl apply FILE` hands one in"
        )


def may_change(peer: Peer, local: Local) -> bool:
    """Return whether *peer* may change the machine by being who it is: root, under the owner's policy ``change``."""
    return peer.uid == 0 and local == "change"


def _words(verb: ApiVerb) -> str:
    match verb:
        case "status" | "services" | "layers" | "deployments" | "trust" | "logs":
            return f"show {verb}"
        case "tree" | "blame" | "events" | "metrics":
            return f"show {verb}"
        case "critical-path":
            return "show the critical path"
        case "top":
            return "show what services use"
        case "why":
            return "explain a service"
        case "start" | "stop" | "restart" | "reload":
            return f"{verb} a service"
        case "reexec":
            return "re-execute the agent"
        case "poweroff":
            return "power off"
        case _:
            return verb


def read_log_query(parameters: dict[str, str]) -> LogQuery:
    """Return the query that *parameters* of a URL stand for. Raises MalformedRequestError."""
    values: dict[str, object] = {}
    for name, text in parameters.items():
        match name:
            case "service" | "deployment":
                values[name] = text
            case "names":
                values[name] = text.split(",")
                if not all(text.split(",")):
                    raise MalformedRequestError("cannot read logs: names must be like web,web/nginx,dhcp")
            case "lines":
                values[name] = _number(name, text, MAX_LOG_LINES)
            case "since" | "until":
                values[name] = _number(name, text, LAST_SECOND)
            case "priority" if text in PRIORITIES:
                values[name] = PRIORITIES.index(text)
            case "priority" if len(text) == 1 and text in "01234567":
                values[name] = int(text)
            case "priority":
                raise MalformedRequestError(f"cannot read logs: priority must be 0 to 7 or one of {', '.join(PRIORITIES)}")
            case "follow":
                if text not in ("0", "1", "false", "true"):
                    raise MalformedRequestError("cannot read logs: follow must be 0 or 1")
                values[name] = text in ("1", "true")
            case _:
                raise MalformedRequestError(f"cannot read logs: unknown parameter {name!r}")
    try:
        query = msgspec.convert(values, LogQuery)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(f"cannot read logs: {error}") from error
    if query.follow and "until" in values:
        raise MalformedRequestError("cannot read logs: follow goes on for ever, until does not")
    if query.until <= query.since:
        raise MalformedRequestError("cannot read logs: until must be later than since")
    return query


def _number(name: str, text: str, last: int) -> int:
    # 12: more digits than any of them has, and few enough to convert
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= last):
        raise MalformedRequestError(f"cannot read logs: {name} must be a number from 0 to {last}")
    return int(text)


class OpenLayer(Document, frozen=True):
    """One layer of ``/v1/layers``, with the names of the deployments whose stacks hold it."""

    path: ShortText
    version: ShortText
    root_hash: ShortText
    verity_device: ShortText
    deployments: list[ShortText] = field(default_factory=list)


def services_of(status: Status) -> list[ServiceStatus]:
    """Return every service of *status*: CoreOS's first, then each deployment's."""
    return [*status.services, *(each for deployment in status.deployments for each in deployment.services)]


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

    The canonical form of a document leaves defaults out; whoever asks the API should find
    ``"deployments": []`` rather than nothing.
    """
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {"type": tag, **fields} if tag is not None else fields
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return value
