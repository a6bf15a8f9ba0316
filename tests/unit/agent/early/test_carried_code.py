"""A program that imports what another has imported: the same modules, without their files."""

import os
import subprocess
import sys

GATHERING = """
import os, sys
sys.path[:] = {paths!r}
from milkyway_agent.early import carried_code
import colorsys, milkyway_agent.core.restart
os.write({descriptor}, carried_code.gather())
"""
CARRYING = """
import sys
sys.path[:] = {paths!r}
import importlib.machinery, importlib.util, os
sys.path[:] = [path for path in sys.path if not os.path.exists(path + "/milkyway_agent")]
spec = importlib.util.spec_from_file_location("milkyway_agent.early.carried_code", {carried!r})
carried_code = importlib.util.module_from_spec(spec)
spec.loader.exec_module(carried_code)
carried_code.carry({descriptor})
import milkyway_agent.core.restart
restart = milkyway_agent.core.restart
assert type(restart.__loader__).__name__ == "Finder"
assert restart.__file__.endswith("milkyway_agent/core/restart.py"), restart.__file__
assert milkyway_agent.__path__ and milkyway_agent.core.restart is restart
assert restart.started.__module__ == "milkyway_agent.core.restart"
import milkyway_agent.core.shutdown  # it was not gathered
assert isinstance(milkyway_agent.core.shutdown.__loader__, importlib.machinery.SourceFileLoader)
carried_code.forget()
carried_code.forget()
assert not [finder for finder in sys.meta_path if type(finder).__name__ == "Finder"]
import colorsys  # it was gathered, and is imported from its file
assert isinstance(colorsys.__loader__, importlib.machinery.SourceFileLoader)
print("done")
"""


def run(program: str, descriptor: int, **values: str) -> str:
    paths = [path for path in sys.path if path]
    code = program.format(paths=paths, descriptor=descriptor, **values)
    done = subprocess.run([sys.executable, "-IS", "-c", code], pass_fds=[descriptor], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_program_imports_without_files_what_another_has_imported() -> None:
    import milkyway_agent.early.carried_code

    file = milkyway_agent.early.carried_code.__file__
    descriptor = os.memfd_create("code")
    try:
        run(GATHERING, descriptor)
        assert run(CARRYING, descriptor, carried=file) == "done\n"
    finally:
        os.close(descriptor)


def test_what_was_not_gathered_is_an_error_and_changes_nothing() -> None:
    program = """
import sys
sys.path[:] = {paths!r}
from milkyway_agent.early import carried_code
before = list(sys.meta_path)
try:
    carried_code.carry({descriptor})
except (EOFError, ValueError, TypeError) as error:
    assert sys.meta_path == before
    print(type(error).__name__)
"""
    for data in (b"", b"no code", b"N"):  # the last is marshal's None
        descriptor = os.memfd_create("code")
        try:
            os.write(descriptor, data)
            assert run(program, descriptor) in ("EOFError\n", "ValueError\n", "TypeError\n")
        finally:
            os.close(descriptor)
