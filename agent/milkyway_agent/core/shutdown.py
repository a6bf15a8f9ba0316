"""The shutdown as data: the phases of an orderly end.

Unlike in the boot, no phase depends on the success of another: each has a deadline, and what
failed or was too slow is left behind.
"""

from typing import NamedTuple


class Phase(NamedTuple):
    """One phase of the shutdown, and how long it may take."""

    name: str
    deadline_ms: int


SHUTDOWN: tuple[Phase, ...] = (
    Phase("refuse-changes", 1_000),  # no new document, command or request from here on
    Phase("stop-deployments", 30_000),  # in the reverse order of their start; their stacks and layers are closed with them
    Phase("stop-coreos-services", 15_000),  # DHCP and the consoles: nothing needs them any more
    Phase("kill-the-rest", 5_000),  # the agent's own programs, verifier and uplink among them
    Phase("close-log", 1_000),
    Phase("unmount-data", 10_000),  # and close it
    Phase("sync", 10_000),
    Phase("close-watchdog", 1_000),
)
