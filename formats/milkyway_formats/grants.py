"""Grants: what a layer asks of its machine, and what the owner of the machine gives.

One grant sets up everything that it needs on every plane (a macro call in the policy,
a mount, a namespace, later a firewall rule); a grant that is not given opens nothing on any.
"""

from typing import Literal

from milkyway_formats.codec import Document
from milkyway_formats.names import DataName, Port

# The capabilities a layer may ask for. Those that would let it change the machine's
# policy, modules, time or raw devices are not on the list and can't be asked for.
Capability = Literal["net_bind_service", "chown", "dac_override", "fowner", "kill", "setgid", "setuid", "setpcap", "sys_nice"]
Protocol = Literal["tcp", "udp"]
Access = Literal["read", "write"]


class Listen(Document, tag="listen", frozen=True):
    """May accept connections on a port of the machine's network."""

    protocol: Protocol
    port: Port


class Connect(Document, tag="connect", frozen=True):
    """May open connections to a port, anywhere."""

    protocol: Protocol
    port: Port


class HoldCapability(Document, tag="capability", frozen=True):
    """May use one Linux capability, over what is its own."""

    name: Capability


class UseData(Document, tag="data", frozen=True):
    """May use the data source that the deployment binds to *name*."""

    name: DataName
    access: Access = "write"


Grant = Listen | Connect | HoldCapability | UseData


def describe(grant: Grant) -> str:
    """Return *grant* as people read it, e.g. ``listen tcp 8080``."""
    match grant:
        case Listen():
            return f"listen {grant.protocol} {grant.port}"
        case Connect():
            return f"connect {grant.protocol} {grant.port}"
        case HoldCapability():
            return f"capability {grant.name}"
        case UseData():
            return f"data {grant.name} {grant.access}"
