"""From the method and target of an HTTP request to what it asks of the machine. A table; no input or output.

Strict: an unknown path, method, parameter, a parameter given twice or an escape that is not
UTF-8 is refused with HTTP's status for it, so that a mistyped request never does something else.
"""

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from milkyway_agent.ipc.messages import ApiVerb
from milkyway_formats.errors import RefusedError

MAX_ARGUMENT = 256
LOG_PARAMETERS = frozenset({"names", "service", "deployment", "follow", "lines", "since", "until", "priority"})
PARAMETERS: dict[ApiVerb, frozenset[str]] = {
    "logs": LOG_PARAMETERS,
    "events": LOG_PARAMETERS,
    "critical-path": frozenset({"service"}),
}
READ: dict[str, ApiVerb] = {
    "/v1/status": "status",
    "/v1/services": "services",
    "/v1/layers": "layers",
    "/v1/deployments": "deployments",
    "/v1/trust": "trust",
    "/v1/logs": "logs",
    "/v1/tree": "tree",
    "/v1/blame": "blame",
    "/v1/critical-path": "critical-path",
    "/v1/top": "top",
    "/v1/metrics": "metrics",
    "/v1/events": "events",
}
DO: dict[str, ApiVerb] = {
    "/v1/apply": "apply",
    "/v1/reexec": "reexec",
    "/v1/reboot": "reboot",
    "/v1/poweroff": "poweroff",
}
ON_SERVICE: dict[str, ApiVerb] = {"start": "start", "stop": "stop", "restart": "restart", "reload": "reload"}
SERVICES = "/v1/services/"
WHY = "/v1/why/"
JSON = "application/json"
JSON_LINES = "application/x-ndjson"
# https://prometheus.io/docs/instrumenting/exposition_formats/
METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Route(NamedTuple):
    """What is asked: a verb, for some verbs of which service, for those in PARAMETERS with which parameters."""

    verb: ApiVerb
    argument: str
    parameters: dict[str, str]


class HttpRefusedError(RefusedError):
    """The API has no such request; *status*: HTTP's code for why."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def route(method: str, target: str) -> Route:
    """Return what *method* and *target* ask for. Raises HttpRefusedError (400, 404 or 405)."""
    raw_path, _, query = target.partition("?")
    try:
        path = unquote(raw_path, errors="strict")
        # 16: more than there are parameters; beyond that parse_qsl raises ValueError too
        pairs = (
            parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=16) if query else []
        )
    except ValueError as error:
        raise HttpRefusedError(400, f"cannot read the URL: {error}") from error
    verb, argument, expected = _find(path)
    if method != expected:
        raise HttpRefusedError(405, f"cannot {method} {path}: it takes {expected}")
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise HttpRefusedError(400, f"cannot {method} {path}: a parameter is given twice")
    unknown = sorted(set(parameters) - PARAMETERS.get(verb, frozenset()))
    if unknown:
        raise HttpRefusedError(400, f"cannot {method} {path}: unknown parameter {unknown[0]!r}")
    if max(map(len, [argument, *parameters.values()])) > MAX_ARGUMENT:
        raise HttpRefusedError(400, f"cannot {method} {path[:80]}: longer than {MAX_ARGUMENT} characters")
    return Route(verb, argument, parameters)


def content_type(verb: ApiVerb, status: int) -> str:
    """Return what the body of an answer is."""
    if status != 200:
        return JSON
    return JSON_LINES if verb in ("logs", "events") else METRICS if verb == "metrics" else JSON


def _find(path: str) -> tuple[ApiVerb, str, str]:
    """Return verb, service and method of *path*."""
    if path in READ:
        return READ[path], "", "GET"
    if path in DO:
        return DO[path], "", "POST"
    if path.startswith(SERVICES):
        name, _, last = path.removeprefix(SERVICES).rpartition("/")
        if name and last in ON_SERVICE:
            return ON_SERVICE[last], name, "POST"
    if path.startswith(WHY) and path != WHY:
        return "why", path.removeprefix(WHY), "GET"
    raise HttpRefusedError(
        404, f"cannot find {path[:80]!r}: no such path", hint="docs/reference/local-api.md lists them; /v1/status is one"
    )
