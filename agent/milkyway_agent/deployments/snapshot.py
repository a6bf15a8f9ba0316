"""What outlives a re-execution of what was done for deployments; PID 1 keeps it in its own snapshot.

The JSON is a format: a program of another version may read it. New fields have a default.
"""

from msgspec import field

from milkyway_agent.core.effects import DeploymentEffect
from milkyway_formats.codec import Document
from milkyway_formats.policy_shared import Placed


class KeptInstance(Document, frozen=True):
    """One instance of a policy overlay that the kernel's policy holds."""

    placed: Placed
    cil: bytes


class KeptDeployments(Document, frozen=True):
    """What holds of the deployments: *groups*: the effects of each, by its id; *present*: all that were done, in order."""

    groups: dict[str, list[DeploymentEffect]] = field(default_factory=dict)
    present: list[DeploymentEffect] = field(default_factory=list)
    instances: dict[str, KeptInstance] = field(default_factory=dict)
