"""One request of the local API, carried out against the machine, as an answer with HTTP's status.

Every way in which it can end has its own status and kind: the client may not (403), the request is malformed
(400), the machine refuses (409); not now (503); a bug (500). Nothing that a request says or a machine does
makes ``answer`` raise. Who is at the other end, and how the answer gets there, is ``api.server``'s.
"""

import traceback
from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import trio

from milkyway_agent.api.access import ForbiddenError, Local, Peer, authorise, may_change
from milkyway_agent.api.log_query import LogLine, MalformedRequestError, read_log_query
from milkyway_agent.api.machine import Machine, layers_of, plain, services_of
from milkyway_agent.ipc.messages import ApiRequest
from milkyway_agent.ipc.sealed_memory import check_sealed
from milkyway_formats.command import ServiceAddress
from milkyway_formats.errors import MilkyWayError, RefusedError, UnavailableError
from milkyway_formats.limits import MAX_ENVELOPE_BYTES

ANSWER_SECONDS = 90.0
Kind = Literal["refused", "unavailable", "bug"]


class Note(Protocol):
    """Where events are logged: ``log.Log.note``."""

    def __call__(self, event: str, /, *, service: str = "", **facts: object) -> None:
        """Log *event*."""


class Answer(NamedTuple):
    """What is sent back: *body* as a whole, or *lines* as they come."""

    status: int
    body: bytes = b""
    lines: AsyncGenerator[LogLine, None] | None = None


class Answers:
    """Answers requests for a machine. *local* returns the owner's policy at that moment."""

    def __init__(self, machine: Machine, note: Note, *, group: int | None, local: Callable[[], Local]) -> None:
        self._machine = machine
        self._note = note
        self._group = group
        self._local = local

    async def answer(self, request: ApiRequest, peer: Peer, fds: list[int]) -> Answer:
        """Return the answer to *request* of *peer*; *fds* stay the caller's. Never raises an Exception."""
        try:
            authorise(request.verb, peer, group=self._group, local=self._local())
            if request.has_body != (request.verb == "apply"):
                raise MalformedRequestError(f"cannot {request.verb}: {'no' if request.verb == 'apply' else 'a'} body")
            with trio.fail_after(ANSWER_SECONDS):
                answer = await self._carry_out(request, peer, fds)
        except (MilkyWayError, trio.TooSlowError) as error:
            self._note("api_request_refused", verb=request.verb, argument=request.argument, uid=peer.uid, why=str(error))
            return failure(error)
        except Exception as error:  # noqa: BLE001 (PID 1 survives every bug behind the API; the answer says 500)
            self._note("api_request_failed", verb=request.verb, uid=peer.uid, traceback=traceback.format_exc())
            return failure(error)
        if request.verb in ("start", "stop", "restart", "reload", "apply", "reexec", "reboot", "poweroff"):
            self._note("api_request_done", verb=request.verb, argument=request.argument, uid=peer.uid, pid=peer.pid)
        return answer

    async def _carry_out(self, request: ApiRequest, peer: Peer, fds: list[int]) -> Answer:
        machine = self._machine
        match request.verb:
            case "status":
                return _found(plain(await machine.status()))
            case "services":
                return _found({"services": plain(services_of(await machine.status()))})
            case "layers":
                return _found({"layers": plain(layers_of(await machine.status()))})
            case "deployments":
                return _found({"deployments": plain((await machine.status()).deployments)})
            case "trust":
                return _found(plain(await machine.trust()))
            case "logs":
                return Answer(200, lines=await machine.logs(read_log_query(request.parameters)))
            case "events":
                return Answer(200, lines=await machine.view.events(read_log_query(request.parameters)))
            case "tree":
                return _found(await machine.view.tree())
            case "why":
                return _found(await machine.view.why(_service(request)))
            case "blame":
                return _found(await machine.view.blame())
            case "critical-path":
                return _found(await machine.view.critical_path(request.parameters.get("service", "")))
            case "top":
                return _found(await machine.view.top())
            case "metrics":
                return Answer(200, (await machine.view.metrics()).rstrip("\n").encode())
            case "start":
                return _found(plain(await machine.start(_service(request))))
            case "stop":
                return _found(plain(await machine.stop(_service(request))))
            case "restart":
                return _found(plain(await machine.restart(_service(request))))
            case "reload":
                return _found(plain(await machine.reload(_service(request))))
            case "apply":
                check_sealed(fds[0], what="the envelope", limit=MAX_ENVELOPE_BYTES)
                return _found(plain(await machine.apply(fds[0], change=may_change(peer, self._local()))))
            case "reexec":
                await machine.reexec()
            case "reboot":
                await machine.reboot()
            case "poweroff":
                await machine.poweroff()
        return Answer(202, msgspec.json.encode({"accepted": request.verb}))


def failure(error: Exception) -> Answer:
    """Return the answer that says *error*, by its family."""
    match error:
        case ForbiddenError():
            return _failed(403, "refused", error)
        case MalformedRequestError():
            return _failed(400, "refused", error)
        case RefusedError():
            return _failed(409, "refused", error)
        case UnavailableError():
            return _failed(503, "unavailable", error)
        case trio.TooSlowError():
            return _failed(503, "unavailable", UnavailableError(f"cannot answer: not done within {ANSWER_SECONDS:.0f} s"))
        case _:
            # The traceback is in the log; a client learns no more than that it is not its fault.
            return _failed(500, "bug", AssertionError("cannot answer: a bug in the agent, its log has the details"))


def _failed(status: int, kind: Kind, error: Exception) -> Answer:
    facts = {"kind": kind, "message": str(error), "hint": getattr(error, "hint", "")}
    return Answer(status, msgspec.json.encode({"error": facts}))


def _found(body: Any) -> Answer:
    return Answer(200, msgspec.json.encode(body))


def _service(request: ApiRequest) -> str:
    try:
        return msgspec.convert(request.argument, ServiceAddress)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(
            f"cannot {'explain' if request.verb == 'why' else request.verb} {request.argument!r}: not the name of a service",
            hint="services are named web/nginx (a deployment's) or dhcp (CoreOS's); `mwctl services` lists them",
        ) from error
