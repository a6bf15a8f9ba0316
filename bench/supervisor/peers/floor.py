"""Not a supervisor, but the least that one can take as far as we know: ``native/floor.c``, with MilkyWay's service profile."""

import shutil
from pathlib import Path

from bench.supervisor.peer import HOST, PeerMissingError, Place
from bench.supervisor.tree import FLOOR


class Floor:
    """Starts its services, restarts them, and does nothing else."""

    name = "floor"
    tree: Path = HOST
    environment: dict[str, str] = {}  # noqa: RUF012 (never changed)
    notes = (
        "not a supervisor, but what the default profile costs any of them: 100 lines of C, on all processors, that give "
        "each service a cgroup, a pipe and no-new-privileges, and restart at once what ended",
        "it has no definitions, states, logs or limits, and can't be asked to stop",
        "where its own share of a peer's figure is above a goal, no way is known to reach that goal with this profile here",
    )

    def __init__(self, program: Path = FLOOR) -> None:
        self._program = program

    def version(self) -> str:
        """Return "no version". Raises PeerMissingError if it isn't compiled."""
        if not self._program.exists():
            raise PeerMissingError("not there: it isn't compiled")
        return "no version"

    def prepare(self, place: Place, services: int) -> list[str]:
        """Copy the program beside the service."""
        shutil.copy2(self._program, place.outside / "floor")
        program, slots, _ = place.service(0)
        return [str(place.inside / "floor"), program, slots, str(services)]

    def reexecute(self, place: Place) -> list[str] | None:  # noqa: ARG002 (the same everywhere)
        """Return None: it can't."""
        return None
