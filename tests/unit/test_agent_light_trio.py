"""trio without what PID 1 has no use for: it works, and leaves the standard library as it was."""

import subprocess
import sys

PROGRAM = """
import sys
sys.path += {paths!r}
from milkyway_agent import light_trio
import trio
assert not {{"ssl", "hmac", "subprocess", "ctypes.util"}} & set(sys.modules), sorted(sys.modules)

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0)
        return await trio.to_thread.run_sync(lambda: 7)

assert trio.run(main) == 7
import ctypes.util, ssl
assert ctypes.util.__file__ and ssl.__file__
assert ctypes.util.find_library("c")
"""


def test_it_runs_and_takes_along_neither_tls_nor_subprocesses() -> None:
    program = PROGRAM.format(paths=[path for path in sys.path if path])
    done = subprocess.run([sys.executable, "-IS", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
