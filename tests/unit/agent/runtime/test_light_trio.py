"""trio without what PID 1 does not use: it works, and leaves the standard library and other libraries as they were."""

import subprocess
import sys

BEGIN = """
import sys
sys.path += {paths!r}
from milkyway_agent.runtime import light_trio
import trio
"""
NOT_IMPORTED = """
left_out = {"ssl", "hmac", "subprocess", "ctypes.util", "logging", "typing_extensions", "ast", "dis"}
assert not left_out & set(sys.modules), left_out & set(sys.modules)

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0)
        return await trio.to_thread.run_sync(lambda: 7)

assert trio.run(main) == 7
"""
AS_THEY_WERE = """
import ctypes.util, ssl, logging
assert ctypes.util.__file__ and ssl.__file__
assert ctypes.util.find_library("c")
assert logging.getLogger("some").name == "some"
import inspect
assert inspect.signature(lambda a: a).parameters["a"].name == "a"
import attr, attrs, attr.validators, typing_extensions, msgspec
attr.validators.in_([1])(None, None, 1)
assert attrs.validators.instance_of and attr.converters.to_bool("yes") and typing_extensions.NotRequired
assert msgspec.json.schema(int) == {"type": "integer"}
assert msgspec.inspect.type_info(int)
assert msgspec.msgpack.decode(msgspec.msgpack.encode(7)) == 7
"""
FAILING_INSTRUMENT = """
class Failing(trio.abc.Instrument):
    def before_run(self):
        raise ZeroDivisionError("in an instrument")

trio.run(trio.sleep, 0, instruments=[Failing()])
"""
THREADS = """
import sys, threading
sys.setswitchinterval(1e-6)
inspect = trio._core._parking_lot.inspect
assert "ast" not in sys.modules
begun, failures = threading.Barrier(16), []

def ask(name):
    begun.wait()
    try:
        getattr(inspect, name)
        inspect.signature(ask)
    except BaseException as error:
        failures.append(repr(error))

names = ["getcoroutinestate", "iscoroutine", "CORO_CLOSED", "signature"] * 4
threads = [threading.Thread(target=ask, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
"""
NAMES = """
import inspect, re, types
import milkyway_agent.api.server, milkyway_agent.pid1.entry
import milkyway_agent.standalone.machine_api, milkyway_agent.standalone.supervision
names = set()
for module in list(sys.modules.values()):
    if module.__name__.startswith("milkyway_agent.") and module is not light_trio:
        names |= set(re.findall(r"\\btrio\\.([A-Za-z_]\\w*)", inspect.getsource(module)))
assert {"open_nursery", "open_tcp_stream", "to_thread"} <= names, names
missing = [name for name in names if "Left out" in (getattr(getattr(trio, name, None), "__doc__", "") or "")]
assert not missing, missing
"""
WRONG_OUTCOME = """
import outcome
try:
    outcome.Error("no exception")
except TypeError as error:
    print(error)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    code = BEGIN.format(paths=[path for path in sys.path if path]) + program
    return subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True)


def test_it_runs_and_imports_nothing_unused() -> None:
    done = run(NOT_IMPORTED)
    assert (done.returncode, done.stderr) == (0, "")


def test_later_imports_get_the_real_modules() -> None:
    done = run(AS_THEY_WERE)
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_that_use_a_module_that_was_put_off_at_the_same_time_all_get_the_whole_of_it() -> None:
    for _ in range(5):
        done = run(THREADS)
        assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_left_out_that_pid_1_or_the_supervisor_names() -> None:
    done = run(NAMES)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_trio_logs_is_logged() -> None:
    done = run(FAILING_INSTRUMENT)
    assert done.returncode == 0
    assert "ZeroDivisionError: in an instrument" in done.stderr


def test_what_is_no_exception_is_still_refused() -> None:
    done = run(WRONG_OUTCOME)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("error must be <class 'BaseException'>")
