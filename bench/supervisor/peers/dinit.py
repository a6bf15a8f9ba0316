"""dinit in container mode (dinit(8), dinit-service(5)). Trixie has no package: it is measured if the tree has it anyway."""

from bench.supervisor.peer import PeerMissingError, Place, service_name
from bench.supervisor.tree import ROOT, TREE, package_version

PROGRAM = TREE / "usr/sbin/dinit"


class Dinit:
    """Its defaults, except that a service is restarted however it ended."""

    name = "dinit"
    tree = TREE
    environment: dict[str, str] = {}  # noqa: RUF012 (never changed)
    notes = (
        "restart-delay (200 ms by default) counts from the previous start, so it delays no service that ran longer",
        "no log (log-type = none is its default), cgroup or no-new-privileges for its services",
    )

    def version(self) -> str:
        """Return the package's version, if there is one."""
        if not PROGRAM.exists():
            raise PeerMissingError(f"not there: trixie has no package; a program at {PROGRAM.relative_to(ROOT)} would be used")
        return package_version("dinit") or "no package"

    def prepare(self, place: Place, services: int) -> list[str]:
        """Write a description for each service, and for one that waits for all."""
        directory = place.outside / "dinit.d"
        wanted = directory / "boot.d"
        wanted.mkdir(parents=True)
        (directory / "boot").write_text("type = internal\nwaits-for.d = boot.d\n")
        for index in range(services):
            name = service_name(index)
            command = " ".join(place.service(index))
            (directory / name).write_text(f"type = process\ncommand = {command}\nrestart = true\n")
            (wanted / name).symlink_to(f"../{name}")
        return ["/usr/sbin/dinit", "--container", "--services-dir", str(place.inside / "dinit.d")]

    def reexecute(self, place: Place) -> list[str] | None:  # noqa: ARG002 (the same everywhere)
        """Return None: it can't."""
        return None
