"""From a verified layer and its deployment to the policy of that instance, or a refusal.

A deployment has the grants that its owner gave, which are no more than the layer's maker asked for; the overlay may use
only these. The rules themselves are in ``milkyway_formats.overlay``.
"""

from typing import ClassVar, NamedTuple

from milkyway_formats.deployment import Deployment
from milkyway_formats.errors import RefusedError
from milkyway_formats.grants import Grant, UseData, describe
from milkyway_formats.manifest import Manifest
from milkyway_formats.overlay import check_overlay
from milkyway_formats.policy_instance import domain_types, instance


class PolicyRefusedError(RefusedError):
    """The layer's overlay, or the deployment's grants, go further than is allowed."""

    check: ClassVar[str] = "policy"


class Instance(NamedTuple):
    """The CIL of one version of one deployment; ``domains`` are its domains' full type names by the overlay's own names."""

    cil: bytes
    domains: dict[str, str]


def make_instance(policy: bytes, manifest: Manifest, deployment: Deployment) -> Instance:
    """Return the instance of the topmost layer's overlay *policy* for *deployment*.

    Checks, in this order: the layer is an app; each grant was asked for; each data grant is bound to a source; the
    overlay; each service's domain is one of the overlay's.
    """
    blame = f"cannot make policy of {deployment.name}"
    if manifest.kind != "app":
        raise PolicyRefusedError(f"{blame}: its topmost layer {manifest.path} is not an app but of kind {manifest.kind}")
    sources = {binding.name: binding.source for binding in deployment.data}
    for grant in deployment.grants:
        if not _was_asked_for(grant, manifest):
            raise PolicyRefusedError(f"{blame}: it grants {describe(grant)}, which layer {manifest.path} does not ask for")
        if isinstance(grant, UseData) and grant.name not in sources:
            raise PolicyRefusedError(f"{blame}: it grants {describe(grant)} but binds no data source to {grant.name}")
    try:
        overlay = check_overlay(policy, grants=deployment.grants)
        cil = instance(overlay, deployment.id, deployment.generation, deployment.grants, sources)
    except RefusedError as error:
        raise PolicyRefusedError(str(error)) from error
    for service in manifest.services:
        if service.domain not in overlay.domains:
            raise PolicyRefusedError(
                f"{blame}: service {service.name} runs in {service.domain}, which its policy does not declare"
            )
    return Instance(cil, domain_types(overlay, deployment.id, deployment.generation))


def _was_asked_for(grant: Grant, manifest: Manifest) -> bool:
    """Tell whether the layer asks for *grant*, or for write access where *grant* gives read access."""
    if grant in manifest.grants:
        return True
    return isinstance(grant, UseData) and any(
        isinstance(asked, UseData) and asked.name == grant.name and grant.access == "read" for asked in manifest.grants
    )
