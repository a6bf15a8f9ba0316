"""What PID 1 hands to the program that it becomes: the services, what was done for deployments, what the boot did.

The state is a document (``reexecution`` has it checked and hands it over). Nothing in it need be verified again: it never
left this process' memory. What is not in it begins anew: verifier and uplink, the API's front, the log's files. PID 1's
program lies on the read-only root, so there is no other version of it to go back to: where the state can't be used the
agent lets go of all that it was left (``close_inherited``), begins as after a boot, and starts its services anew.
"""

import contextlib
import os
from typing import Literal

from milkyway_agent.deployments.snapshot import KeptDeployments
from milkyway_agent.runtime.reexecution import close_on_exec, read_state
from milkyway_agent.supervisor.snapshot import KeptService, descriptors_of
from milkyway_formats.codec import Document

PROGRAM = "/usr/lib/milkyway/init"


class KeptAgent(Document, frozen=True):
    """All of PID 1. ``done``: the phases of the boot that need not be done again; descriptors are -1 where there is none."""

    format: Literal["milkyway.agent/1"]
    services: list[KeptService]
    deployments: KeptDeployments
    done: list[str]
    finished_ms: dict[str, int]
    watchdog: int = -1
    api: int = -1


def descriptors(state: KeptAgent) -> list[int]:
    """Return every descriptor that must stay open over the execution."""
    return [*descriptors_of(state.services), *(number for number in (state.watchdog, state.api) if number >= 0)]


def adopt(descriptor: int) -> KeptAgent:
    """Return the state that the program before us has left in *descriptor*, which is closed. Raises RefusedError."""
    try:
        state = read_state(descriptor, KeptAgent)
    finally:
        os.close(descriptor)
    close_on_exec(descriptors(state))
    return state


def close_inherited() -> None:
    """Close what the program before us has left open, without its state: all that an execution would leave open again.

    Or a watchdog that nobody feeds could not be opened anew, and processes that we know nothing of would hold our pipes.
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own is gone
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.close(int(name))
