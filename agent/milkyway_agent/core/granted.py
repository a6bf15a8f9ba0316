"""Whether the listeners of a layer's services were granted to their deployment."""

from milkyway_formats.deployment import Deployment
from milkyway_formats.errors import RefusedError
from milkyway_formats.grants import Listen
from milkyway_formats.listener import Tcp, Udp
from milkyway_formats.service import Service


def check_listeners(deployment: Deployment, service: Service) -> None:
    """Raise RefusedError if *service* of *deployment* has a listener that was not granted."""
    granted: set[tuple[str, int]] = {(grant.protocol, grant.port) for grant in deployment.grants if isinstance(grant, Listen)}
    for listener in service.listeners:
        address = listener.address
        protocol = "tcp" if isinstance(address, Tcp) else "udp"
        if not isinstance(address, Tcp | Udp) or (protocol, address.port) not in granted:
            raise RefusedError(
                f"cannot run {deployment.name}/{service.name}: its listener {listener.name} was not granted",
                hint=f"ask for the grant `listen {protocol} PORT` in the image's spec",
            )
