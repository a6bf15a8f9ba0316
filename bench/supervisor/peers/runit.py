"""runsvdir with a service directory per service (runsvdir(8))."""

import os

from bench.supervisor.peer import PeerMissingError, Place
from bench.supervisor.peers.s6 import write_run_scripts
from bench.supervisor.tree import TREE, package_version


class Runit:
    """One runsv per service; no loggers."""

    name = "runit"
    tree = TREE
    environment: dict[str, str] = {}  # noqa: RUF012 (never changed)
    notes = (
        "restarts at once what ran for a second or more; looks for new services every 5 seconds by polling",
        "no logger, cgroup or no-new-privileges for its services; a logger would be one more process for each",
    )

    def version(self) -> str:
        """Return the package's version."""
        if not (TREE / "usr/bin/runsvdir").exists():
            raise PeerMissingError("not there: runit isn't in the tree")
        return package_version("runit")

    def prepare(self, place: Place, services: int) -> list[str]:
        """Write a service directory for each service."""
        write_run_scripts(place, services)
        # runsvdir waits until the second in which its directory changed is over (runsvdir.c): make that long past.
        os.utime(place.outside / "scan", (0, 0))
        return ["/usr/bin/runsvdir", "-P", str(place.inside / "scan")]

    def reexecute(self, place: Place) -> list[str] | None:  # noqa: ARG002 (the same everywhere)
        """Return None: it can't, and would gain little, since each service has its own runsv."""
        return None
