"""A machine's deployments with real parts, and planes that do nothing."""

from collections import deque
from pathlib import Path

from milkyway_agent.core import effects
from milkyway_agent.deployments.deployment_set import DeploymentSet
from milkyway_agent.deployments.executor import Executor
from milkyway_agent.deployments.layer_install import LayerInstaller
from milkyway_agent.deployments.layer_store import LayerStore
from milkyway_agent.log.log import Log
from milkyway_formats.deployment import Deployment
from milkyway_formats.desired import Desired
from milkyway_formats.service import Service
from tests.fakes.manifests import manifest_of
from tests.fakes.planes import RecordingPlane
from tests.fakes.verifier_answers import FakeVerifier

EFFECTS = (
    effects.OpenLayer,
    effects.LoadInstance,
    effects.HoldData,
    effects.MountStack,
    effects.MakeGroup,
    effects.RunServices,
)


class RecordingServices(RecordingPlane):
    """A plane for services that is also a ``deployment_set.StartRule``, like the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.must_start = False


class DeploymentSite:
    """The set, with its verifier, its store and one plane for all effects, below *root*."""

    def __init__(self, root: Path) -> None:
        for name in ("layers", "staging"):
            (root / name).mkdir()
        self.log = Log(lambda: 0)
        self.verifier = FakeVerifier()
        self.store = LayerStore(root)
        self.plane = RecordingServices()
        self.refusals: deque[str] = deque(maxlen=20)
        self.executor = Executor(dict.fromkeys(EFFECTS, self.plane), self.log)
        self.layers = LayerInstaller(self.verifier, self.store, self.log.note)
        self.deployments = self.another_set()

    def another_set(self) -> DeploymentSet:
        """Return a set that knows of no deployment yet."""
        return DeploymentSet(self.executor, self.layers, self.plane, self.refusals, self.log.note)

    def deployment(self, name: str, *, generation: int = 1) -> Deployment:
        """Publish the layer of this version of a deployment, and return the deployment."""
        service = Service(name="main", command=["/main"])
        manifest = manifest_of(f"test/{name}", version=str(generation), services=[service])
        pin = self.verifier.publish(f"{name} {generation}".encode(), manifest, f"test/{name}", str(generation))
        return Deployment(id=f"{name}_1", name=name, generation=generation, stack=[pin])


def desired(*deployments: Deployment, version: int = 1) -> Desired:
    """Return a desired state of these deployments."""
    return Desired(
        format="milkyway.desired/1",
        fleet="fleet",
        machine="c" * 64,
        version=version,
        issued=0,
        not_before=0,
        expires=1,
        deployments=list(deployments),
    )
