"""Who may ask the local API for what: decided by the credentials of the peer, which the kernel vouches for. Pure.

``docs/reference/local-api.md`` has the rules. Root may do everything that credentials can allow; members of the
group ``milkyway`` may read, restart and stop. Every client may ``apply``, because the envelope carries the
authority and the verifier checks it. Only where the owner's policy is ``change`` may root apply what no operator signed.
"""

from typing import Literal, NamedTuple

from milkyway_agent.ipc.messages import ApiVerb
from milkyway_formats.command import CommandClass
from milkyway_formats.errors import RefusedError

Local = Literal["read", "change"]

# What each verb needs; None: nothing but a connection (the envelope is what counts).
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


class Peer(NamedTuple):
    """Who is at the other end of a connection, as the kernel says."""

    pid: int
    uid: int
    groups: frozenset[int]


def authorise(verb: ApiVerb, peer: Peer, *, group: int | None, local: Local) -> None:
    """Raise ForbiddenError unless *peer* may do *verb*.

    *group* is the group id of ``milkyway``, None where there is no such group; *local* is the
    owner's policy: only with ``change`` do credentials allow what is of the class change.
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
    """Tell whether *peer* may change the machine without an operator's signature: root, if the owner's policy is ``change``."""
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
