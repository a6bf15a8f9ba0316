"""Conditions: whether a service is started on this machine at all. Checked when nothing else holds it back."""

from collections.abc import Sequence
from pathlib import Path

from milkyway_formats.service import Condition, KernelParameter, PathExists

CMDLINE = Path("/proc/cmdline")


def unmet(conditions: Sequence[Condition], cmdline: Path = CMDLINE) -> str:
    """Return which of *conditions* does not hold, for people; "" if all do."""
    for condition in conditions:
        match condition:
            case PathExists(path=path, negated=negated):
                try:
                    exists = Path(path).exists()
                except OSError as error:
                    return f"not started: cannot check {path}: {error.strerror}"
                if exists == negated:
                    return f"not started: {path} {'exists' if negated else 'does not exist'}"
            case KernelParameter(parameter=parameter, negated=negated):
                if (parameter in cmdline.read_text().split()) == negated:
                    return f"not started: the kernel's command line {'has' if negated else 'does not have'} {parameter}"
    return ""
