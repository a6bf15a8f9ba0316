"""supervisord from PyPI (https://supervisord.org/configuration.html), on the machine's own Python, like MilkyWay."""

import subprocess
from pathlib import Path

from bench.supervisor.peer import HOST, PeerMissingError, Place, service_name
from bench.supervisor.tree import SUPERVISORD


class Supervisord:
    """Its defaults, except that a service is restarted whatever its exit status."""

    name = "supervisord"
    tree: Path = HOST
    environment: dict[str, str] = {}  # noqa: RUF012 (never changed)
    notes = (
        "checks once a second for what ended, so its restart gaps are mostly that tick; two log files per service by default",
        "no cgroup or no-new-privileges for its services",
    )

    def version(self) -> str:
        """Return the installed version."""
        program = SUPERVISORD / "bin/supervisord"
        if not program.exists():
            raise PeerMissingError("not there: supervisord isn't in its virtual environment")
        return subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()

    def prepare(self, place: Place, services: int) -> list[str]:
        """Write its configuration with a section for each service."""
        (place.outside / "logs").mkdir()
        lines = [
            "[supervisord]", "nodaemon = true", "user = root", f"minfds = {max(1024, services * 8)}",
            f"logfile = {place.inside}/supervisord.log", f"pidfile = {place.inside}/pid", f"childlogdir = {place.inside}/logs",
        ]  # fmt: skip
        for index in range(services):
            command = " ".join(place.service(index))
            lines += [f"[program:{service_name(index)}]", f"command = {command}", "autorestart = true"]
        (place.outside / "supervisord.conf").write_text("\n".join(lines) + "\n")
        return [str(SUPERVISORD / "bin/supervisord"), "-c", str(place.inside / "supervisord.conf")]

    def reexecute(self, place: Place) -> list[str] | None:  # noqa: ARG002 (the same everywhere)
        """Return None: it can only stop everything and start again."""
        return None
