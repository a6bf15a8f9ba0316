"""Which process this is: what each program imports, and in which order."""

import os
import subprocess
import sys

import pytest

CHECK = """
import sys
sys.path += {paths!r}
sys.argv = ["milkyway-agent", "--check-state", "{descriptor}"]
if {supervises}:
    sys.argv[1:1] = ["--supervise", "/nowhere"]
from milkyway_agent.__main__ import main
code = main()
print(code, *(name for name in {names!r} if name in sys.modules))
"""
PROGRAMS = {False: "milkyway_agent.pid1.entry", True: "milkyway_agent.standalone.supervision"}


@pytest.mark.parametrize("supervises", [False, True])
def test_a_program_that_is_asked_whether_it_can_take_over_imports_itself_whole_and_trio_lightly(supervises: bool) -> None:
    """What it imports then is also the code that is carried over; and PID 1 and the supervisor import it the same way."""
    descriptor = os.memfd_create("state")
    names = [*PROGRAMS.values(), "milkyway_agent.runtime.light_trio", "ssl", "subprocess"]
    paths = [path for path in sys.path if path]
    code = CHECK.format(paths=paths, descriptor=descriptor, supervises=supervises, names=names)
    done = subprocess.run([sys.executable, "-IS", "-c", code], pass_fds=[descriptor], capture_output=True, text=True)
    os.close(descriptor)
    assert done.stdout.split() == ["3", PROGRAMS[supervises], "milkyway_agent.runtime.light_trio"]
    assert done.stderr.startswith("cannot read the state: ")
