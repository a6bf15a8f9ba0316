"""Method and target of an HTTP request → what it asks of the machine. A table, no input or output.

Strict: an unknown path, method, parameter, a parameter given twice or an escape that is not
UTF-8 is refused with HTTP's status for it, so that a mistyped request never does something else.
"""

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from milkyway_agent.messages import ApiVerb
from milkyway_formats.errors import RefusedError

MAX_ARGUMENT = 256
LOG_PARAMETERS = frozenset({"names", "service", "deployment", "follow", "lines", "since", "until", "priority"})
READ: dict[str, ApiVerb] = {
    "/v1/status": "status",
    "/v1/services": "services",
    "/v1/layers": "layers",
    "/v1/deployments": "deployments",
    "/v1/trust": "trust",
    "/v1/logs": "logs",
}
DO: dict[str, ApiVerb] = {"/v1/apply": "apply", "/v1/reboot": "reboot", "/v1/poweroff": "poweroff"}
ON_SERVICE: dict[str, ApiVerb] = {"start": "start", "stop": "stop", "restart": "restart"}
SERVICES = "/v1/services/"


class Route(NamedTuple):
    """What is asked: a verb, for three of them of which service, for ``logs`` with which parameters."""

    verb: ApiVerb
    argument: str
    parameters: dict[str, str]


class HttpRefusedError(RefusedError):
    """The request is not one of the API's; *status* is HTTP's word for why."""

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
    unknown = sorted(set(parameters) - (LOG_PARAMETERS if verb == "logs" else frozenset()))
    if unknown:
        raise HttpRefusedError(400, f"cannot {method} {path}: unknown parameter {unknown[0]!r}")
    if max(map(len, [argument, *parameters.values()])) > MAX_ARGUMENT:
        raise HttpRefusedError(400, f"cannot {method} {path[:80]}: longer than {MAX_ARGUMENT} characters")
    return Route(verb, argument, parameters)


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
    raise HttpRefusedError(
        404, f"cannot find {path[:80]!r}: no such path", hint="docs/reference/local-api.md lists them; /v1/status is one"
    )
