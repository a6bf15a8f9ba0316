"""A layer's policy overlay, checked at the build: what a machine would refuse is refused here already."""

from milkyway_formats.overlay import OverlayRefusedError, check_overlay
from milkyway_layers.spec import ImageSpec, SpecError


def check_policy_of(spec: ImageSpec, policy: bytes) -> None:
    """Check *policy* as the overlay of *spec*: what it says, and that it has the domain of every service.

    Raises SpecError with the overlay's line.
    """
    try:
        overlay = check_overlay(policy, grants=spec.grants)
    except OverlayRefusedError as error:
        raise SpecError(f"cannot use {spec.policy}: line {error.line}: {error.why}") from error
    for service in spec.services:
        if service.domain not in overlay.domains:
            known = ", ".join(overlay.domains)
            raise SpecError(f"cannot use service {service.name}: there is no domain {service.domain}; there are {known}")
