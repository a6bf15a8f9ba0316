"""The effects that bring a deployment up, as values; ``executor`` knows how each is done and undone.

``key`` names what an effect makes exist (two effects with the same key can't both hold); equal effects
are the same in every detail. ``exclusive``: it must be gone before another version of it comes, because
both would use the same port, data or name; everything else may exist twice for a while.
"""

from typing import Protocol

import msgspec

from milkyway_agent.core import stack
from milkyway_agent.core.uid_range import first_uid
from milkyway_formats.deployment import DataBinding, Deployment
from milkyway_formats.manifest import Image, Manifest


class Effect(Protocol):
    """Something that can be done and undone, as a value."""

    @property
    def key(self) -> str:
        """What it makes exist."""

    @property
    def exclusive(self) -> bool:
        """Whether an older version must be gone first."""

    def describe(self) -> str:
        """Return what it does, for people: "mount …"."""


class OpenLayer(msgspec.Struct, frozen=True, tag=True):
    """The layer file's image is a verity device, mounted read-only. Shared by all deployments that stack it."""

    sha256: str
    path: str
    version: str
    image: Image

    @property
    def key(self) -> str:
        """A layer file is opened once."""
        return f"layer {self.sha256}"

    @property
    def exclusive(self) -> bool:
        """Two versions of a layer don't affect each other."""
        return False

    def describe(self) -> str:
        """Return what it does, for people."""
        return f"open layer {self.path} {self.version}"


class LoadInstance(msgspec.Struct, frozen=True, tag=True):
    """The kernel's policy holds the instance of the deployment's overlay, and the types of its data sources."""

    deployment: str
    generation: int
    sha256: str
    data: tuple[DataBinding, ...] = ()

    @property
    def key(self) -> str:
        """One instance for each version of a deployment."""
        return f"policy {self.deployment}.v{self.generation}"

    @property
    def exclusive(self) -> bool:
        """Two versions have two sets of types."""
        return False

    def describe(self) -> str:
        """Return what it does, for people."""
        return f"load the policy of {self.deployment}, version {self.generation}"


class HoldData(msgspec.Struct, frozen=True, tag=True):
    """The data source that a deployment is bound to has its directory. Undoing it does nothing: data outlives deployments.

    *user*: the user id that a secure source's directory belongs to.
    """

    deployment: str
    binding: DataBinding
    user: int

    @property
    def key(self) -> str:
        """Each deployment holds the source separately."""
        return f"data {self.binding.source} of {self.deployment}"

    @property
    def exclusive(self) -> bool:
        """It is the same for every version."""
        return False

    def describe(self) -> str:
        """Return what it does, for people."""
        return f"hold {self.binding.data_class} data {self.binding.source} for {self.deployment}"


class MountStack(msgspec.Struct, frozen=True, tag=True):
    """The layers are stacked at the deployment's own mount point."""

    deployment: str
    generation: int
    lowerdirs: tuple[str, ...]

    @property
    def key(self) -> str:
        """One stack for each version of a deployment."""
        return f"stack {self.deployment}.v{self.generation}"

    @property
    def exclusive(self) -> bool:
        """Two versions have two mount points."""
        return False

    def describe(self) -> str:
        """Return what it does, for people."""
        return f"stack {len(self.lowerdirs)} levels for {self.deployment}"


class MakeGroup(msgspec.Struct, frozen=True, tag=True):
    """The deployment has its control group, which stays while its services come and go."""

    deployment: str

    @property
    def key(self) -> str:
        """One group for all versions: firewall rules refer to it."""
        return f"group {self.deployment}"

    @property
    def exclusive(self) -> bool:
        """It is the same for every version."""
        return False

    def describe(self) -> str:
        """Return what it does, for people."""
        return f"make the control group of {self.deployment}"


class RunServices(msgspec.Struct, frozen=True, tag=True):
    """The services of the deployment's app layer are supervised and wanted."""

    deployment: Deployment
    manifest: Manifest

    @property
    def key(self) -> str:
        """One set of services for each deployment."""
        return f"services {self.deployment.id}"

    @property
    def exclusive(self) -> bool:
        """Both versions would use the same ports and data."""
        return True

    def describe(self) -> str:
        """Return what it does, for people."""
        return f"run the services of {self.deployment.name}"


DeploymentEffect = OpenLayer | LoadInstance | HoldData | MountStack | MakeGroup | RunServices


def effects_of(deployment: Deployment, manifests: list[Manifest]) -> tuple[DeploymentEffect, ...]:
    """Return what brings *deployment* up, in order. *manifests*: verified, one for each layer of its stack, topmost first."""
    assert len(manifests) == len(deployment.stack), "there is a manifest for each layer of the stack"
    app = manifests[0]
    layers = tuple(
        OpenLayer(pin.sha256, pin.path, pin.version, manifest.image)
        for pin, manifest in zip(deployment.stack, manifests, strict=True)
    )
    directories = stack.lowerdirs(deployment, over_coreos=app.base == "coreos")
    user = first_uid(deployment.id) + (app.services[0].user if app.services else 0)
    return (
        *layers,
        LoadInstance(deployment.id, deployment.generation, deployment.stack[0].sha256, tuple(deployment.data)),
        *(HoldData(deployment.id, binding, user) for binding in deployment.data),
        MountStack(deployment.id, deployment.generation, directories),
        MakeGroup(deployment.id),
        RunServices(deployment, app),
    )
