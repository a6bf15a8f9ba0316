"""``milkyway-agent --supervise DIR`` as a user has it: started, asked, changed, re-executed, ended."""

import os
import resource
import select
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milkyway_agent.system import mounts, processes
from tests.privileged.standalone.supervising import ROOT, Supervising, supervising

pytestmark = pytest.mark.privileged

SLEEP = ["/bin/sleep", "1000"]


def children(pid: int) -> list[processes.Stat]:
    return [process for process in processes.processes() if process.parent == pid]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def started(one: Supervising, *names: str) -> bool:
    found = one.services()
    return all(found[name]["state"] == "started" for name in names)


def start_web(one: Supervising) -> int:
    """Define one service, web, start the supervisor; return the pid of web when it is started."""
    one.define("web", SLEEP)
    one.start()
    one.wait_until(lambda: started(one, "web"), "web")
    pid: int = one.services()["web"]["pid"]
    return pid


def test_it_starts_what_is_defined_answers_and_ends_with_nothing_left() -> None:
    with supervising() as one:
        one.define("first", SLEEP)
        one.define("second", SLEEP, requires=["first"])
        one.define("once", ["/bin/echo", "done"], type="oneshot", readiness={"type": "exit"})
        one.start()
        one.wait_until(lambda: started(one, "first", "second", "once"), "all of it")
        pids = [one.services()[name]["pid"] for name in ("first", "second")]
        assert "once: done" in one.printed()
        assert one.stop() == 0
        for pid in pids:
            assert not Path(f"/proc/{pid}").exists()


def test_a_plan_starts_the_same_as_no_plan() -> None:
    with supervising() as one:
        one.define("first", SLEEP)
        one.define("second", SLEEP, requires=["first"])
        for _ in range(2):  # the first start makes the plan, the second uses it
            one.start()
            one.wait_until(lambda: started(one, "first", "second"), "all of it")
            assert (one.definitions / ".plan").exists()
            assert one.stop() == 0
        one.define("third", SLEEP)  # the plan is stale now, and is not believed
        one.start()
        one.wait_until(lambda: started(one, "first", "second", "third"), "all of it")


def test_the_examples_run_and_their_web_server_is_found_well() -> None:
    with supervising() as one:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for file in (ROOT / "examples/supervise").glob("*.yaml"):
            (one.definitions / file.name).write_text(file.read_text().replace("8099", str(port)))
        assert f"type: http, port: {port}" in (one.definitions / "web.yaml").read_text()
        one.start()
        one.wait_until(lambda: started(one, "web", "clock"), "the longruns")
        asked = one.printed().count("GET / HTTP/1.0")
        one.wait_until(lambda: one.printed().count("GET / HTTP/1.0") > asked, "the probe")
        found = one.services()
        assert {name: service["state"] for name, service in found.items()} == {
            "web": "started", "clock": "started", "echo": "armed", "tidy": "armed",
        }  # fmt: skip
        assert found["web"]["restarts"] == 0
        assert one.stop() == 0


def test_what_can_not_be_used_is_refused_in_one_line_and_nothing_is_started() -> None:
    with supervising() as one:
        one.define("web", ["relative"])
        with pytest.raises(AssertionError, match="the supervisor has ended"):
            one.start()
        assert "cannot use service web: its command 'relative' is not an absolute path" in one.printed()
        assert "Traceback" not in one.printed()
        assert one.groups() == []


def test_a_service_that_is_killed_comes_back() -> None:
    with supervising() as one:
        one.define("web", SLEEP, restart={"delay_ms": 0})
        one.start()
        pid = one.wait_until(lambda: one.services()["web"]["pid"], "web")
        os.kill(pid, signal.SIGKILL)
        one.wait_until(lambda: one.services()["web"]["pid"] not in (0, pid), "its return")
        assert one.services()["web"]["restarts"] == 1


def test_a_changed_directory_restarts_what_changed_and_nothing_else() -> None:
    with supervising() as one:
        for name in ("same", "changed", "gone"):
            one.define(name, SLEEP)
        one.start()
        one.wait_until(lambda: started(one, "same", "changed", "gone"), "all of it")
        before = one.services()
        one.define("changed", ["/bin/sleep", "2000"])
        one.define("new", SLEEP)
        (one.definitions / "gone.yaml").unlink()
        os.kill(one.pid, signal.SIGHUP)
        one.wait_until(lambda: set(one.services()) == {"same", "changed", "new"}, "the new set")
        one.wait_until(lambda: started(one, "same", "changed", "new"), "all of it")
        after = one.services()
        assert after["same"]["pid"] == before["same"]["pid"]
        assert after["changed"]["pid"] != before["changed"]["pid"]
        one.define("broken", [])
        os.kill(one.pid, signal.SIGHUP)
        one.wait_until(lambda: "definitions refused" in one.printed(), "the refusal")
        assert one.services()["same"]["pid"] == before["same"]["pid"]


def test_services_begin_with_the_limit_of_open_files_that_the_supervisor_began_with() -> None:
    """It raises its own, and starts further launchers after that; a successor has the raised one from its first moment on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with supervising() as one:
        names = [f"service-{number}" for number in range(24)]
        for name in names:
            one.define(name, ["/bin/sh", "-c", "echo limit $(ulimit -Sn); exec sleep 1000"])
        one.check()  # so that they are started early
        resource.setrlimit(resource.RLIMIT_NOFILE, (333, hard))
        try:
            one.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        one.wait_until(lambda: one.printed().count(": limit 333\n") == len(names), "all of them")
        for _ in range(2):
            one.reexecute()
        for name in names:
            os.kill(one.services()[name]["pid"], signal.SIGKILL)
        one.wait_until(lambda: one.printed().count(": limit 333\n") == 2 * len(names), "all of them again")


def test_no_service_notices_a_re_execution() -> None:
    with supervising() as one:
        for number in range(20):
            one.define(f"sleeper-{number}", SLEEP)
        one.define("talker", ["/bin/sh", "-c", "while :; do echo word; sleep 0.05; done"])
        one.define("backing-off", ["/bin/false"], restart={"delay_ms": 60_000, "delay_limit_ms": 60_000})
        one.define(
            "listening",
            ["/bin/cat"],
            listeners=[{"name": "in", "address": {"type": "unix-stream", "path": f"{one.runtime}/in"}}],
        )
        one.start()
        one.wait_until(lambda: started(one, "talker", "sleeper-19"), "all of it")
        one.wait_until(lambda: one.services()["backing-off"]["restarts"] == 1, "its failure")
        before = one.services()
        opened = descriptors(one.pid)
        inode = os.stat(one.runtime / "in").st_ino
        for _ in range(3):
            one.reexecute()
        after = one.services()
        assert {name: one["pid"] for name, one in after.items()} == {name: one["pid"] for name, one in before.items()}
        assert after["backing-off"]["state"] == "stopped"
        assert after["backing-off"]["restarts"] == 1
        assert after["listening"]["state"] == "armed"
        assert os.stat(one.runtime / "in").st_ino == inode
        one.wait_until(lambda: descriptors(one.pid) <= opened, "as many descriptors as before")
        assert "--code" in one.command_line(), "it imported what the check had imported"
        assert "Traceback" not in one.printed()
        words = one.printed().count("talker: word")
        one.wait_until(lambda: one.printed().count("talker: word") > words, "more words")
        pid = after["sleeper-3"]["pid"]
        os.kill(pid, signal.SIGKILL)
        one.wait_until(lambda: one.services()["sleeper-3"]["pid"] not in (0, pid), "its return under the new program")
        assert one.stop() == 0
        assert [child for child in children(os.getpid()) if child.name == "sleep"] == []


def test_no_connection_notices_a_re_execution_and_none_is_forgotten() -> None:
    with supervising() as one:
        path = f"{one.runtime}/echo"
        listener = {"name": "in", "address": {"type": "unix-stream", "path": path}, "accept": True, "connections": 1}
        one.define("echo", ["/bin/sh", "-c", "exec cat <&3 >&3"], listeners=[listener])
        one.start()
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for client in (first, second):
                client.settimeout(30)
                client.connect(path)
            for word in (b"before", b"after"):
                first.sendall(word)
                assert first.recv(64) == word
                if word == b"before":
                    one.reexecute()
            second.sendall(b"waiting")
            assert select.select([second], [], [], 0.1)[0] == []
            first.close()
            assert second.recv(64) == b"waiting", "there is room for it once the one before has ended"
            assert one.stop() == 0
            assert second.recv(64) == b""


def test_a_new_program_that_can_not_be_imported_is_not_executed() -> None:
    with supervising(own_program=True) as one:
        pid = start_web(one)
        (one.program / "milkyway_agent/runtime/reexecution.py").write_text(
            "raise ImportError('a new version that is broken')\n"
        )
        code, said = one.ask("reexec")
        assert code == 4
        assert "cannot re-execute: the new program can't take over, it ended with 1" in said
        assert one.services()["web"]["pid"] == pid


def test_a_new_program_that_fails_after_all_makes_room_for_the_old_one() -> None:
    with supervising(own_program=True) as one:
        pid = start_web(one)
        # As an upgrade does: the old package goes, another one has its name. It does well as long as nobody needs it.
        new = one.program / "milkyway_agent"
        new.rename(one.program.parent / "aside")
        shutil.copytree(ROOT / "agent/milkyway_agent", new)
        text = (new / "standalone/supervision.py").read_text()
        broken = "if '--adopt' in sys.argv:\n    raise ImportError('a new version that is broken where nobody looked')\n"
        (new / "standalone/supervision.py").write_text(text.replace("ORDERS = ", f"{broken}ORDERS = ", 1))
        assert one.ask("reexec")[0] == 0
        one.wait_until(lambda: "the one before it takes over again" in one.printed(), "its failure")
        one.wait_until(lambda: one.ask("services")[0] == 0, "the answer of the one before")
        assert one.services()["web"]["pid"] == pid
        assert one.held() > 0
        shutil.copy(ROOT / "agent/milkyway_agent/standalone/supervision.py", new / "standalone")
        one.reexecute()
        assert one.services()["web"]["pid"] == pid
        assert one.held() == 0, "the newest program is there again, and is not what runs"
        assert one.stop() == 0


def test_a_new_program_that_refuses_what_is_handed_over_makes_room_for_the_old_one() -> None:
    """It says that it can read the state, and can't use it after all."""
    with supervising(own_program=True) as one:
        pid = start_web(one)
        file = one.program / "milkyway_agent/standalone/supervision.py"
        text = file.read_text()
        assert text.count("state = read_state(") == 1
        aside = one.program / "milkyway_agent/aside.py"
        aside.write_text(text.replace("state = read_state(", "raise RefusedError('no') or read_state("))
        aside.replace(file)
        code, _ = one.ask("reexec")
        assert code == 0
        one.wait_until(lambda: "services go on, nothing supervises them" in one.printed(), "the end of both")
        assert os.path.exists(f"/proc/{pid}")
        one.wait_until(lambda: "Connection refused" in one.ask("services")[1], "its clients being refused, not kept waiting")


def test_an_internal_failure_is_a_re_execution_and_no_service_notices() -> None:
    with supervising(own_program=True) as one:
        file = one.program / "milkyway_agent/standalone/supervision.py"
        text = file.read_text()
        assert "await self._read_again()" in text
        file.write_text(text.replace("await self._read_again()", "raise SystemExit('a bug of the supervisor')"))
        one.define("web", SLEEP)
        one.define("backing-off", ["/bin/false"], restart={"delay_ms": 60_000, "delay_limit_ms": 60_000})
        one.start()
        one.wait_until(lambda: started(one, "web") and one.services()["backing-off"]["restarts"] == 1, "all of it")
        before = one.services()
        os.kill(one.pid, signal.SIGHUP)
        one.wait_until(lambda: "supervisor re executed" in one.printed(), "its new life")
        assert "supervisor failed" in one.printed()
        after = one.wait_until(lambda: one.ask("services")[0] == 0 and one.services(), "its answer")
        assert after["web"]["pid"] == before["web"]["pid"]
        assert after["backing-off"]["restarts"] == 1
        assert one.stop() == 0


def test_a_damaged_state_is_refused() -> None:
    import subprocess
    import sys

    paths = [str(ROOT / "agent"), str(ROOT / "formats"), *(path for path in sys.path if "site-packages" in path)]
    code = f"import sys; sys.path[:0] = {paths!r}; from milkyway_agent.__main__ import main; sys.exit(main())"
    descriptor = os.memfd_create("damaged")
    os.write(descriptor, b'{"format":"milkyway.supervisor/1","definitions":[],"services":[{"name":1}]}')
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code, "--check-state", str(descriptor)],
        pass_fds=[descriptor],
        capture_output=True,
        text=True,
    )
    os.close(descriptor)
    assert done.returncode == 3
    assert done.stderr.startswith("cannot read the state: ")
    assert "Traceback" not in done.stderr


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Have *directory* read-only inside, also for root."""
    mounts.mount(str(directory), str(directory), "", mounts.MS_BIND)
    try:
        mounts.remount(str(directory), mounts.MS_BIND | mounts.MS_RDONLY)
        yield
    finally:
        mounts.umount2(str(directory), 0)


@pytest.mark.parametrize("planned", [True, False])
def test_definitions_that_can_not_be_written_have_their_plan_beside_them_or_in_the_runtime_directory(planned: bool) -> None:
    with supervising() as one:
        one.define("web", SLEEP)
        if planned:
            one.check()
        with read_only(one.definitions):
            one.start()
            one.wait_until(lambda: started(one, "web"), "web")
            assert (one.runtime / ".plan").exists() != planned
            assert one.stop() == 0


def test_where_nothing_can_be_written_nothing_is_started_and_one_line_says_so() -> None:
    with supervising() as one:
        one.define("web", SLEEP)
        one.check()
        one.runtime.mkdir()
        with read_only(one.definitions), read_only(one.runtime):
            one.start(waits=False)
            assert one.wait() == 4
        assert one.printed() == f"cannot supervise {one.definitions}: Read-only file system: {one.runtime}/lock\n"
        assert one.groups() == []


def test_a_plan_that_can_be_written_nowhere_is_said_in_one_line() -> None:
    with supervising() as one:
        one.define("web", SLEEP)
        with read_only(one.definitions):
            code, said = one.check()
        assert code == 4
        assert said == f"cannot write {one.definitions}/.plan: Read-only file system\n"


def test_an_order_to_end_that_comes_with_the_first_service_is_heeded(tmp_path: Path) -> None:
    """The first services run before anything of the supervisor is there that could take a signal."""
    with supervising() as one:
        fifo = tmp_path / "runs"
        os.mkfifo(fifo, 0o666)
        tmp_path.chmod(0o755)
        one.define("web", ["/bin/sh", "-c", f"echo $$ > {fifo}; exec sleep 1000"])
        assert one.check()[0] == 0
        one.start(waits=False)
        with fifo.open() as told:
            service = int(told.readline())
        assert one.stop() == 0
        assert not Path(f"/proc/{service}").exists()
