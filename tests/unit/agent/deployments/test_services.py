"""What the supervisor is given of a deployment's services."""

import pytest

from milkyway_agent.core.dependencies import needs_of
from milkyway_agent.core.effects import RunServices
from milkyway_agent.deployments.services import service_definitions
from milkyway_agent.launching.oci_config import Host
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.reaper import Reaper
from milkyway_formats.deployment import Deployment
from milkyway_formats.errors import RefusedError
from milkyway_formats.grants import Grant, Listen
from milkyway_formats.listener import Listener, Tcp, Udp
from milkyway_formats.service import Service
from tests.fakes.manifests import manifest_of


def test_the_names_of_siblings_are_made_full() -> None:
    service = Service(name="nginx", command=["/x"], requires=["config"], before=["metrics"])
    assert needs_of(service, "web/").requires == ("web/config",)
    assert needs_of(service, "web/").before == ("web/metrics",)


def run_services(*grants: Grant, listeners: tuple[Listener, ...]) -> RunServices:
    manifest = manifest_of("test/web", services=[Service(name="web", command=["/w"], listeners=list(listeners))])
    return RunServices(Deployment(id="web_k3v9", name="web", generation=2, stack=[], grants=list(grants)), manifest)


@pytest.mark.parametrize(
    ("grants", "address"),
    [
        ((), Tcp(port=80)),
        ((Listen(protocol="tcp", port=81),), Tcp(port=80)),
        ((Listen(protocol="tcp", port=80),), Udp(port=80)),
    ],
)
def test_a_listener_that_was_not_granted_is_never_opened(grants: tuple[Grant, ...], address: Tcp | Udp) -> None:
    effect = run_services(*grants, listeners=(Listener(name="in", address=address),))
    with pytest.raises(RefusedError, match="cannot run web/web: its listener in was not granted"):
        service_definitions(effect, Host(frozenset(), selinux=True), Reaper(Log(lambda: 0)))


def test_a_granted_listener_is_opened_in_the_services_own_domain() -> None:
    effect = run_services(Listen(protocol="tcp", port=80), listeners=(Listener(name="in", address=Tcp(port=80)),))
    (found,) = service_definitions(effect, Host(frozenset(), selinux=True), Reaper(Log(lambda: 0)))
    assert found.socket_context == "u:r:web_k3v9.v2.process:s0"
