"""dinit in container mode (dinit(8), dinit-service(5)). Trixie has no package: measured where the tree has one all the same."""

from bench.supervisor.peer import PeerMissingError, Place, service_name
from bench.supervisor.tree import ROOT, TREE, package_version

PROGRAM = TREE / "usr/sbin/dinit"


class Dinit:
    """Its defaults, but that a service is started again however it ended."""

    name = "dinit"
    tree = TREE
    environment: dict[str, str] = {}  # noqa: RUF012 (never changed)
    notes = (
        "restart-delay (200 ms by default) is counted from the start before, so it holds up no service that ran longer",
        "no log (log-type = none is its default), cgroup or no-new-privileges for its services",
    )

    def version(self) -> str:
        """Return the package's version, if there is one."""
        if not PROGRAM.exists():
            raise PeerMissingError(f"not there: trixie has no package; one at {PROGRAM.relative_to(ROOT)} is used")
        return package_version("dinit") or "no package"

    def prepare(self, place: Place, services: int) -> list[str]:
        """Write a description for each service and one that waits for all."""
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
        """It can't."""
        return None
