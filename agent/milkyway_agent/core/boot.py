"""The boot as data: its phases, what each needs, and what its failure means.

``ready`` returns what can run now, ``lost`` what never will, given the outcomes so far. A failed phase
takes with it the phases that need it and nothing else, so a layer or a service never blocks the boot.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Outcome = Literal["done", "failed"]


class Phase(NamedTuple):
    """One phase of the boot. ``without``: what its failure means, for the boot report."""

    name: str
    needs: tuple[str, ...]
    without: str


BOOT: tuple[Phase, ...] = (
    Phase("filesystems", (), "proc, sysfs, run or tmp is not mounted; little will work"),
    Phase("command-line", ("filesystems",), "what the signed command line says is unknown; nothing is trusted"),
    Phase("selinux", ("filesystems",), "SELinux does not enforce; no layer is started"),
    Phase("kernel", ("filesystems", "selinux"), "modules are missing, kernel parameters keep their defaults"),
    Phase("watchdog", ("kernel",), "a hang of the agent is not noticed by the hardware"),
    Phase("cgroups", ("filesystems",), "services run in control groups alone: none is started, no verifier, no mwctl"),
    Phase("loopback", ("filesystems",), "services can't talk to one another over 127.0.0.1"),
    Phase("network", ("cgroups", "kernel"), "no address from DHCP; the control server is out of reach"),
    Phase("secure-config", ("kernel",), "the owner is unknown; nothing but CoreOS runs"),
    Phase("data", ("selinux", "secure-config"), "nothing is kept and no layer is there; only CoreOS runs"),
    # The uplink is started with it, and its link comes and goes.
    Phase(
        "verifier",
        ("data", "command-line", "cgroups"),
        "nothing can be verified; no layer is started, the control server is out of reach",
    ),
    Phase("local-api", ("cgroups",), "mwctl does not answer"),
    Phase("deployments", ("verifier",), "what is installed is not brought up"),
    Phase("console", ("cgroups", "kernel", "command-line"), "nobody can log in at the development console"),
)


def ready(phases: Sequence[Phase], outcomes: Mapping[str, Outcome], running: frozenset[str] = frozenset()) -> list[Phase]:
    """Return the phases that can run now: not begun yet, and all that they need is done."""
    return [
        phase
        for phase in phases
        if phase.name not in outcomes
        and phase.name not in running
        and all(outcomes.get(need) == "done" for need in phase.needs)
    ]


def lost(phases: Sequence[Phase], outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """Return the phases that will never run, each with the failed phase that it needs, directly or through others."""
    causes: dict[str, str] = {}
    for phase in phases:  # in order: what a phase needs comes before it
        for need in phase.needs:
            if outcomes.get(need) == "failed":
                causes.setdefault(phase.name, need)
            elif need in causes:
                causes.setdefault(phase.name, causes[need])
    return {name: cause for name, cause in causes.items() if name not in outcomes}


def report(phases: Sequence[Phase], outcomes: Mapping[str, Outcome], reasons: Mapping[str, str]) -> list[str]:
    """Return the boot's failures as lines for people: what failed and why, what that means, and what was lost with it."""
    lines = []
    causes = lost(phases, outcomes)
    for phase in phases:
        if outcomes.get(phase.name) == "failed":
            lines.append(f"{phase.name} failed: {reasons.get(phase.name, 'no reason given')}; {phase.without}")
        elif phase.name in causes:
            lines.append(f"{phase.name} was not tried, as {causes[phase.name]} failed; {phase.without}")
    return lines
