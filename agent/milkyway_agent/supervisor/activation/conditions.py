"""Conditions: whether a service is started on this machine at all. Looked at when everything else permits its start."""

from collections.abc import Sequence
from pathlib import Path

from milkyway_formats.service import Condition, KernelParameter, PathExists

CMDLINE = Path("/proc/cmdline")


def unmet(conditions: Sequence[Condition], cmdline: Path = CMDLINE) -> str:
    """Return which of *conditions* does not hold, for people; "" when all do."""
    for condition in conditions:
        match condition:
            case PathExists(path=path, negated=negated):
                try:
                    is_there = Path(path).exists()
                except OSError as error:
                    return f"not started: cannot look at {path}: {error.strerror}"
                if is_there == negated:
                    return f"not started: {path} {'is there' if negated else 'is not there'}"
            case KernelParameter(parameter=parameter, negated=negated):
                if (parameter in cmdline.read_text().split()) == negated:
                    return f"not started: the kernel's command line {'has' if negated else 'has not'} {parameter}"
    return ""
