"""A program of before becomes this one and goes back, and no service notices: the kept state and the carried code fit.

The older program is taken from the history of this repository; where that is not there, as in an unpacked archive, there is
nothing to compare with.
"""

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from tests.privileged.standalone.supervising import ROOT, Supervising

pytestmark = pytest.mark.privileged

BEFORE_THE_ROOMS = "4499bc980c"  # the last commit with one flat folder, and with the events' old names
SLEEP = ["/bin/sleep", "1000"]
NOTIFIES = """
import os, signal, socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""


class AcrossVersions(Supervising):
    """A supervisor whose program is replaced on the disk; it is asked by today's ``mwctl``."""

    @override
    def _command(self, module: str) -> list[str]:
        program = [str(ROOT / "agent")] if module.startswith("milkyway_agent.mwctl") else [str(self.program)]
        paths = [*program, str(ROOT / "formats"), *(path for path in sys.path if "site-packages" in path)]
        code = f"import sys; sys.path[:0] = {paths!r}; from {module} import main; sys.exit(main())"
        return [sys.executable, "-IS", "-c", code]

    def install(self, version: Path) -> None:
        """Put the packages in *version* in the place of those that are installed, as an upgrade does."""
        for package in ("milkyway_agent", "milkyway_formats"):
            fresh = self.program / f".{package}"
            shutil.copytree(version / package, fresh)
            if (self.program / package).exists():
                aside = self.program / f".{package}-aside"
                shutil.rmtree(aside, ignore_errors=True)
                (self.program / package).rename(aside)
            fresh.rename(self.program / package)


def _is_whole_history() -> bool:
    """Tell whether this is a checkout with all of its history: then the older program must be found."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--is-shallow-repository"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() == "false"


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the packages of before and of now, each in a directory."""
    before, now = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("now")
    command = ["git", "-C", str(ROOT), "archive", BEFORE_THE_ROOMS, "agent/milkyway_agent", "formats/milkyway_formats"]
    archive = subprocess.run(command, capture_output=True)
    if archive.returncode and not _is_whole_history():
        pytest.skip(f"there is no history here with {BEFORE_THE_ROOMS}")
    assert archive.returncode == 0, archive.stderr
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(before, filter="data")
    for house, package in (("agent", "milkyway_agent"), ("formats", "milkyway_formats")):
        (before / house / package).rename(before / package)
        shutil.copytree(ROOT / house / package, now / package, ignore=shutil.ignore_patterns("__pycache__"))
    return {"before": before, "now": now}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[AcrossVersions]:
    program = tmp_path / "program"
    program.mkdir()
    supervisor = AcrossVersions(tmp_path, program)
    try:
        yield supervisor
    finally:
        supervisor.kill()


@pytest.mark.parametrize(("first", "second"), [("before", "now"), ("now", "before")])
def test_a_program_of_one_version_becomes_the_other_and_goes_back(
    supervisor: AcrossVersions, versions: dict[str, Path], first: str, second: str
) -> None:
    supervisor.install(versions[first])
    supervisor.define("web", SLEEP)
    supervisor.define("needs-web", SLEEP, requires=["web"])
    supervisor.define("notifies", [sys.executable, "-c", NOTIFIES], readiness={"type": "notify"})
    supervisor.define("armed", ["/bin/true"], type="oneshot", readiness={"type": "exit"}, timers=[{"after_end_ms": 1000}])
    supervisor.define("backing-off", ["/bin/false"], restart={"delay_ms": 60_000, "delay_limit_ms": 60_000})
    supervisor.start()
    supervisor.wait_until(lambda: _is_settled(supervisor), "all of it")
    assert supervisor.ask("restart", "web")[0] == 0  # and so a cause that has another name in the other version
    supervisor.wait_until(lambda: _is_settled(supervisor), "all of it again")
    before = supervisor.services()
    for version in (second, first, second):
        supervisor.install(versions[version])
        supervisor.reexecute()
        after = supervisor.services()
        assert {name: (service["state"], service["pid"], service["restarts"]) for name, service in after.items()} == {
            name: (service["state"], service["pid"], service["restarts"]) for name, service in before.items()
        }
    assert supervisor.ask("restart", "needs-web")[0] == 0
    supervisor.wait_until(lambda: _is_settled(supervisor), "a service that the last one has started")
    assert supervisor.stop() == 0


def _is_settled(supervisor: Supervising) -> bool:
    services = supervisor.services()
    states = {name: service["state"] for name, service in services.items()}
    return (
        states
        == {
            "web": "started",
            "needs-web": "started",
            "notifies": "started",
            "armed": "armed",
            "backing-off": "stopped",
        }
        and services["backing-off"]["restarts"] == 1
    )
