"""systemd as PID 1 of a container (https://systemd.io/CONTAINER_INTERFACE/), stock except for a variant's restart delay."""

from bench.supervisor.peer import PeerMissingError, Place, service_name
from bench.supervisor.tree import TREE, package_version


class Systemd:
    """*restart_delay*: RestartSec= of every unit; None leaves systemd's default."""

    tree = TREE
    # The colon at the end stands for the usual places.
    environment = {"SYSTEMD_UNIT_PATH": "/bench/units:"}  # noqa: RUF012 (never changed)

    def __init__(self, name: str, restart_delay: str | None) -> None:
        self.name = name
        self._restart = "Restart=always\n" + (f"RestartSec={restart_delay}\n" if restart_delay else "")
        delay = f"RestartSec={restart_delay}" if restart_delay else "its default restart delay is RestartSec=100ms"
        self.notes = (
            f"{delay}; boots its stock sysinit.target with a journal first, which is in every time from its exec, "
            "but not in `first to last`; the journal's process counts as its own",
        )

    def version(self) -> str:
        """Return the package's version."""
        if not (TREE / "usr/lib/systemd/systemd").exists():
            raise PeerMissingError("not there: systemd isn't in the tree")
        return package_version("systemd")

    def prepare(self, place: Place, services: int) -> list[str]:
        """Write a unit for each service and a target that wants them."""
        units = place.outside / "units"
        wants = units / "bench.target.wants"
        wants.mkdir(parents=True)
        (units / "bench.target").write_text("[Unit]\nDescription=All services\n")
        # Even an essential tree has a timer that would back up dpkg's database in the middle of a round.
        (units / "timers.target").symlink_to("/dev/null")
        for index in range(services):
            name = f"{service_name(index)}.service"
            command = " ".join(place.service(index))
            (units / name).write_text(f"[Unit]\nDescription=Trivial\n[Service]\nExecStart={command}\n{self._restart}")
            (wants / name).symlink_to(f"../{name}")
        return ["/usr/lib/systemd/systemd", "--unit=bench.target"]

    def reexecute(self, place: Place) -> list[str] | None:  # noqa: ARG002 (the same everywhere)
        """Return the command that asks over its private socket."""
        return ["/usr/bin/systemctl", "daemon-reexec"]
