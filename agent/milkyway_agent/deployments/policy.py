"""The policy's plane: the kernel's policy is the base and the instances of what is deployed, and nothing else.

The verifier checks and writes an instance, the compiler makes one policy of the base and all instances, and PID 1
loads it, in this order. If any of the three fails the kernel keeps the policy that it has. Nothing compiled is ever
read from the writable disk.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from milkyway_agent.core.effects import LoadInstance
from milkyway_agent.deployments.snapshot import KeptInstance
from milkyway_agent.deployments.verifier_link import Verifier
from milkyway_agent.ipc.messages import CheckPolicy, PolicyChecked
from milkyway_agent.ipc.sealed_memory import MFD_NOEXEC_SEAL, seal
from milkyway_agent.system import selinux
from milkyway_formats.errors import RefusedError
from milkyway_formats.policy_binary import check_foundation
from milkyway_formats.policy_shared import Placed, shared

BASE_POLICY = Path("/usr/lib/milkyway/policy/base.policy")
MAX_BYTES = 16 * 1024 * 1024


class Programs(Protocol):
    """The agent's own programs, of which the compiler is one."""

    async def run(
        self, name: str, arguments: tuple[str, ...] = (), descriptors: dict[int, int] | None = None
    ) -> tuple[int, str]:
        """Run the program *name* to its end, with copies of *descriptors*; return its exit status and what it wrote."""


class PolicyPlane:
    """Loads and unloads instances. *layer_path* gives the installed file of a layer."""

    def __init__(self, verifier: Verifier, programs: Programs, layer_path: Callable[[str], Path]) -> None:
        self._verifier = verifier
        self._programs = programs
        self._layer_path = layer_path
        self._instances: dict[str, tuple[Placed, bytes]] = {}

    def keep(self) -> dict[str, KeptInstance]:
        """Return the instances that the kernel's policy holds: what ``go_on`` of the next agent takes."""
        return {key: KeptInstance(placed=placed, cil=cil) for key, (placed, cil) in self._instances.items()}

    def go_on(self, kept: Mapping[str, KeptInstance]) -> None:
        """Take over the instances *kept*: an agent before this one has loaded them, and the kernel's policy holds them."""
        self._instances = {key: (instance.placed, instance.cil) for key, instance in kept.items()}

    async def do(self, effect: LoadInstance) -> None:
        """Have the instance checked, compile it with all others and load the result."""
        if effect.key not in self._instances:
            await self._load({**self._instances, effect.key: await self._check(effect)})

    async def undo(self, effect: LoadInstance) -> None:
        """Load a policy without the instance."""
        if effect.key in self._instances:
            await self._load({key: instance for key, instance in self._instances.items() if key != effect.key})

    async def _check(self, effect: LoadInstance) -> tuple[Placed, bytes]:
        output = os.memfd_create("instance", os.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
        try:
            layer = os.open(self._layer_path(effect.sha256), os.O_RDONLY | os.O_CLOEXEC)
            try:
                question = CheckPolicy(
                    request=self._verifier.number(),
                    deployment=effect.deployment,
                    generation=effect.generation,
                    sha256=effect.sha256,
                )
                checked = await self._verifier.ask(question, PolicyChecked, [layer, output])
            finally:
                os.close(layer)
            placed = Placed(effect.deployment, effect.generation, tuple(checked.domains.values()), effect.data)
            return placed, os.pread(output, MAX_BYTES, 0)
        finally:
            os.close(output)

    async def _load(self, instances: dict[str, tuple[Placed, bytes]]) -> None:
        policy = base = BASE_POLICY.read_bytes()
        if instances:
            declarations = shared(placed for placed, _ in instances.values())
            policy = await self._compile(b"\n".join([declarations, *(cil for _, cil in instances.values())]))
            check_foundation(policy, base)
        selinux.load_policy(policy)
        self._instances = instances

    async def _compile(self, cil: bytes) -> bytes:
        source = seal(cil, name="instances")
        output = os.memfd_create("policy", os.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
        try:
            code, said = await self._programs.run("compiler", descriptors={3: source, 4: output})
            if code:
                raise RefusedError(f"cannot compile the policy: {said or f'the compiler ended with {code}'}")
            return os.pread(output, MAX_BYTES, 0)
        finally:
            os.close(source)
            os.close(output)
