"""MilkyWay's own supervisor: ``milkyway-agent --supervise DIR``, with the profile that every service has by default."""

import subprocess
from pathlib import Path

from bench.supervisor.peer import HOST, PeerMissingError, Place, service_name
from bench.supervisor.tree import ROOT

AGENT = ROOT / ".venv/bin/milkyway-agent"
MWCTL = ROOT / ".venv/bin/mwctl"


class MilkyWay:
    """``delay_ms: 0``: a service that ended is restarted at once, as with systemd's RestartSec=0."""

    name = "milkyway"
    notes = (
        "its default profile: a cgroup, a log pipe and no-new-privileges for each service",
        "its definitions were compiled beforehand, by milkyway-agent --check",
        "its restart delay is set to 0 (100 ms by default)",
    )
    tree: Path = HOST
    environment: dict[str, str] = {}  # noqa: RUF012 (never changed)

    def version(self) -> str:
        """Return the version of this project."""
        if not AGENT.exists():
            raise PeerMissingError(f"not there: {AGENT.relative_to(ROOT)}")
        lines = (ROOT / "pyproject.toml").read_text().splitlines()
        return next(line.split('"')[1] for line in lines if line.startswith("version = "))

    def prepare(self, place: Place, services: int) -> list[str]:
        """Write a definition for each service."""
        definitions = place.outside / "services"
        definitions.mkdir()
        for index in range(services):
            name = service_name(index)
            command = ", ".join(f'"{word}"' for word in place.service(index))
            (definitions / f"{name}.yaml").write_text(f"name: {name}\ncommand: [{command}]\nrestart: {{delay_ms: 0}}\n")
        # As with s6-rc-compile and systemd's generators, what people wrote is read before the start, not during it.
        if AGENT.exists():
            subprocess.run([AGENT, "--check", definitions], check=True, stdout=subprocess.DEVNULL)
        return [str(AGENT), "--supervise", str(place.inside / "services"), "--runtime", str(place.inside / "runtime")]

    def reexecute(self, place: Place) -> list[str] | None:
        """Ask the agent over its local API."""
        return [str(MWCTL), "--socket", str(place.inside / "runtime/mwctl.sock"), "reexec"]
