"""``milkyway-agent --supervise`` as a process, with a directory of definitions, for the tests beside it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from milkyway_agent.system import cgroups
from tests.privileged.supervisor.supervised import launch

ROOT = Path(__file__).parents[3]
SECONDS = 30.0


class Supervising:
    """One supervisor. *program*: the directory with ``milkyway_agent``, so that a test can change it."""

    def __init__(self, place: Path, program: Path) -> None:
        self.definitions = place / "services"
        self.runtime = place / "runtime"
        self.program = program
        self.definitions.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self._printed = place / "printed"

    @property
    def pid(self) -> int:
        """The supervisor's process."""
        assert self._process is not None, "it was started"
        return self._process.pid

    def define(self, name: str, command: Sequence[str], **fields: object) -> None:
        """Write a definition (JSON is YAML)."""
        (self.definitions / f"{name}.yaml").write_text(json.dumps({"name": name, "command": list(command), **fields}))

    def start(self, *options: str, waits: bool = True) -> None:
        """Start the supervisor; return when it answers, or at once if not *waits*."""
        with self._printed.open("ab") as printed:
            self._process = subprocess.Popen(
                [*self._start_command(), *options],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=self._environment(),
            )
        if waits:
            self.wait_until(lambda: self.ask("services")[0] == 0, "its answer")

    def run_second(self) -> subprocess.CompletedProcess[str]:
        """Start another supervisor with the same directories beside the first; return the outcome."""
        return subprocess.run(
            self._start_command(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment(),
            timeout=SECONDS,
        )

    def _start_command(self) -> list[str]:
        options = ["--supervise", str(self.definitions), "--runtime", str(self.runtime), "--verbose"]
        return [*self._command("milkyway_agent.__main__"), *options]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "MILKYWAY_LAUNCH": launch()}

    def check(self) -> tuple[int, str]:
        """Check the definitions and write their plan; return the exit code and what was printed."""
        command = [*self._command("milkyway_agent.__main__"), "--check", str(self.definitions)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def ask(self, *arguments: str) -> tuple[int, str]:
        """Run ``mwctl`` with *arguments* against it; return its exit code and what it printed."""
        command = [*self._command("milkyway_agent.mwctl.command"), "--socket", str(self.runtime / "mwctl.sock"), *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def services(self) -> dict[str, dict[str, Any]]:
        """Return all services by name, as ``mwctl services --json`` shows them."""
        code, said = self.ask("services", "--json")
        assert code == 0, said
        return {service["name"]: service for service in json.loads(said)["services"]}

    def printed(self) -> str:
        """Return what it has printed so far."""
        return self._printed.read_text(errors="replace") if self._printed.exists() else ""

    def wait_until(self, what: Any, why: str) -> Any:
        """Poll until *what* returns something true, and return that."""
        deadline = time.monotonic() + SECONDS
        while not (found := what()):
            assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {why}\n{self.printed()[-3000:]}"
            assert self._process is None or self._process.poll() is None, f"the supervisor has ended\n{self.printed()[-3000:]}"
            os.sched_yield()
        return found

    def reexecute(self) -> None:
        """Make it re-execute itself; return when the new program answers."""
        before = self.printed().count("supervisor re executed")
        code, said = self.ask("reexec")
        assert code == 0, said
        self.wait_until(lambda: self.printed().count("supervisor re executed") > before, "its new life")
        self.wait_until(lambda: self.ask("services")[0] == 0, "its answer")

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(SECONDS)

    def wait(self) -> int:
        """Return its exit code when it has ended by itself."""
        assert self._process is not None
        return self._process.wait(SECONDS)

    def command_line(self) -> list[str]:
        """Return its command line."""
        return Path(f"/proc/{self.pid}/cmdline").read_text().split("\0")

    def held(self) -> int:
        """Return how often its command line has descriptors of a program whose files were replaced."""
        return sum(word.count("/proc/self/fd/") for word in self.command_line())

    def groups(self) -> list[str]:
        """Return the control groups of its services that exist, and those above them."""
        mounts = [path for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if Path(path, "cgroup.procs").exists()]
        return [str(group) for mount in mounts for group in Path(mount).rglob(f"services-{self.pid}")]

    def kill(self) -> None:
        """End it and what it has started, which is found by control group or session."""
        if self._process is not None and self._process.poll() is None:
            pids = (
                [service["pid"] for service in self.services().values() if service["pid"]]
                if self.ask("services")[0] == 0
                else []
            )
            self._process.kill()
            self._process.wait()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._remove_groups()

    def _remove_groups(self) -> None:
        with suppress(FileNotFoundError):  # another group was removed while we looked
            for services in self.groups():
                for group in cgroups.children(services):
                    _end_group(group)
                cgroups.remove(services)

    def _command(self, module: str) -> list[str]:
        paths = [str(self.program), str(ROOT / "formats"), *(path for path in sys.path if "site-packages" in path)]
        code = f"import sys; sys.path[:0] = {paths!r}; from {module} import main; sys.exit(main())"
        return [sys.executable, "-IS", "-c", code]


def _end_group(group: str) -> None:
    """Kill what is left in *group*, and remove it."""
    cgroups.kill(group)
    while cgroups.is_populated(group):
        os.sched_yield()
    cgroups.remove(group)


@contextmanager
def supervising(*, own_program: bool = False) -> Iterator[Supervising]:
    """Yield a supervisor that is not started yet; *own_program*: with a copy of the agent that the test may change."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        program = ROOT / "agent"
        if own_program:
            program = place / "agent"
            shutil.copytree(ROOT / "agent/milkyway_agent", program / "milkyway_agent")
        supervisor = Supervising(place, program)
        try:
            yield supervisor
        finally:
            supervisor.kill()
