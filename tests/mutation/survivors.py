"""The mutants of the engine, whether one survives its tests, and those that must: what they break, nobody could see."""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).parents[2]
SUPERVISOR = ROOT / "agent/milkyway_agent/supervisor"
MODULES = ("engine", "inbox", "dependents")
TESTS = ("tests/unit/agent/supervisor", "tests/unit/agent/core/test_service_life.py")
SECONDS = 120.0  # a mutant that goes on for ever is as good as dead
# Breaks that change nothing that anybody could see, and why.
EQUIVALENT = {
    "engine.forget: without self._awaiting.pop(record.definition.name, None)": "it is passed over: nobody hears of it",
    "engine.enter: without self._awaiting.pop(name, None)": "it is passed over: it awaits no permission any more",
    "engine.permit: only record is not None": "whether it may start is asked again when the question is heard",
    "inbox._make_ready: without record.queued = True": "it is found ready twice, and nothing waits the second time",
}


def mutants() -> list[Mutant]:
    """Return all mutants of the engine."""
    return [mutant for module in MODULES for mutant in mutants_of(SUPERVISOR / f"{module}.py")]


def survives(mutant: Mutant) -> bool:
    """Tell whether all tests of the engine pass with *mutant* in its place."""
    module = f"milkyway_agent.supervisor.{mutant.path.stem}"
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(mutant.text)
        file.flush()
        command = [sys.executable, "-m", "tests.mutation.runner", module, file.name, *TESTS]
        try:
            return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            return False
