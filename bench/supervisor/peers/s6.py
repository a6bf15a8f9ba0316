"""s6-svscan with a service directory per service (https://skarnet.org/software/s6/servicedir.html)."""

from bench.supervisor.peer import PeerMissingError, Place, service_name
from bench.supervisor.tree import TREE, package_version


class S6:
    """One s6-supervise per service; no loggers."""

    name = "s6"
    tree = TREE
    environment: dict[str, str] = {}  # noqa: RUF012 (never changed)
    notes = (
        "it waits a second after every death, however long the service ran: its restart gaps are mostly that (built in)",
        "no logger, cgroup or no-new-privileges for its services; a logger would be one more process for each",
    )

    def version(self) -> str:
        """Return the package's version."""
        if not (TREE / "usr/bin/s6-svscan").exists():
            raise PeerMissingError("not there: s6 isn't in the tree")
        return package_version("s6")

    def prepare(self, place: Place, services: int) -> list[str]:
        """Write a service directory for each service."""
        write_run_scripts(place, services)
        return ["/usr/bin/s6-svscan", "-c", str(max(1000, 2 * services)), str(place.inside / "scan")]

    def reexecute(self, place: Place) -> list[str] | None:  # noqa: ARG002 (the same everywhere)
        """Return None: it can't, and would gain little, since each service has its own s6-supervise."""
        return None


def write_run_scripts(place: Place, services: int) -> None:
    """Write ``scan/NAME/run`` for each service, which both s6 and runit read."""
    for index in range(services):
        directory = place.outside / "scan" / service_name(index)
        directory.mkdir(parents=True)
        run = directory / "run"
        run.write_text(f"#!/bin/sh\nexec {' '.join(place.service(index))}\n")
        run.chmod(0o755)
