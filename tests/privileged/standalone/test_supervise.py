"""``milkyway-agent --supervise DIR`` as a user sees it: started, asked, changed, re-executed, ended."""

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


def started(supervisor: Supervising, *names: str) -> bool:
    found = supervisor.services()
    return all(found[name]["state"] == "started" for name in names)


def start_web(supervisor: Supervising) -> int:
    """Define one service, web, start the supervisor; return the pid of web when it is started."""
    supervisor.define("web", SLEEP)
    supervisor.start()
    supervisor.wait_until(lambda: started(supervisor, "web"), "web")
    pid: int = supervisor.services()["web"]["pid"]
    return pid


def test_it_starts_what_is_defined_answers_and_ends_with_nothing_left() -> None:
    with supervising() as supervisor:
        supervisor.define("first", SLEEP)
        supervisor.define("second", SLEEP, requires=["first"])
        supervisor.define("once", ["/bin/echo", "done"], type="oneshot", readiness={"type": "exit"})
        supervisor.start()
        supervisor.wait_until(lambda: started(supervisor, "first", "second", "once"), "all of it")
        pids = [supervisor.services()[name]["pid"] for name in ("first", "second")]
        assert "once: done" in supervisor.printed()
        assert supervisor.stop() == 0
        for pid in pids:
            assert not Path(f"/proc/{pid}").exists()


def test_a_plan_starts_the_same_as_no_plan() -> None:
    with supervising() as supervisor:
        supervisor.define("first", SLEEP)
        supervisor.define("second", SLEEP, requires=["first"])
        for _ in range(2):  # the first start makes the plan, the second uses it
            supervisor.start()
            supervisor.wait_until(lambda: started(supervisor, "first", "second"), "all of it")
            assert (supervisor.definitions / ".plan").exists()
            assert supervisor.stop() == 0
        supervisor.define("third", SLEEP)  # the plan is stale now, and is not used
        supervisor.start()
        supervisor.wait_until(lambda: started(supervisor, "first", "second", "third"), "all of it")


def test_the_examples_run_and_their_web_server_is_found_well() -> None:
    with supervising() as supervisor:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for file in (ROOT / "examples/supervise").glob("*.yaml"):
            (supervisor.definitions / file.name).write_text(file.read_text().replace("8099", str(port)))
        assert f"type: http, port: {port}" in (supervisor.definitions / "web.yaml").read_text()
        supervisor.start()
        supervisor.wait_until(lambda: started(supervisor, "web", "clock"), "the longruns")
        asked = supervisor.printed().count("GET / HTTP/1.0")
        supervisor.wait_until(lambda: supervisor.printed().count("GET / HTTP/1.0") > asked, "the probe")
        found = supervisor.services()
        assert {name: service["state"] for name, service in found.items()} == {
            "web": "started", "clock": "started", "echo": "armed", "tidy": "armed",
        }  # fmt: skip
        assert found["web"]["restarts"] == 0
        assert supervisor.stop() == 0


def test_unusable_definitions_are_refused_in_one_line_and_nothing_is_started() -> None:
    with supervising() as supervisor:
        supervisor.define("web", ["relative"])
        with pytest.raises(AssertionError, match="the supervisor has ended"):
            supervisor.start()
        assert "cannot use service web: its command 'relative' is not an absolute path" in supervisor.printed()
        assert "Traceback" not in supervisor.printed()
        assert supervisor.groups() == []


def test_a_service_that_is_killed_comes_back() -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP, restart={"delay_ms": 0})
        supervisor.start()
        pid = supervisor.wait_until(lambda: supervisor.services()["web"]["pid"], "web")
        os.kill(pid, signal.SIGKILL)
        supervisor.wait_until(lambda: supervisor.services()["web"]["pid"] not in (0, pid), "its return")
        assert supervisor.services()["web"]["restarts"] == 1


def test_a_changed_directory_restarts_what_changed_and_nothing_else() -> None:
    with supervising() as supervisor:
        for name in ("same", "changed", "gone"):
            supervisor.define(name, SLEEP)
        supervisor.start()
        supervisor.wait_until(lambda: started(supervisor, "same", "changed", "gone"), "all of it")
        before = supervisor.services()
        supervisor.define("changed", ["/bin/sleep", "2000"])
        supervisor.define("new", SLEEP)
        (supervisor.definitions / "gone.yaml").unlink()
        os.kill(supervisor.pid, signal.SIGHUP)
        supervisor.wait_until(lambda: set(supervisor.services()) == {"same", "changed", "new"}, "the new set")
        supervisor.wait_until(lambda: started(supervisor, "same", "changed", "new"), "all of it")
        after = supervisor.services()
        assert after["same"]["pid"] == before["same"]["pid"]
        assert after["changed"]["pid"] != before["changed"]["pid"]
        supervisor.define("broken", [])
        os.kill(supervisor.pid, signal.SIGHUP)
        supervisor.wait_until(lambda: "definitions refused" in supervisor.printed(), "the refusal")
        assert supervisor.services()["same"]["pid"] == before["same"]["pid"]


def test_services_begin_with_the_limit_of_open_files_that_the_supervisor_began_with() -> None:
    """It raises its own limit, and starts further launchers after that; a later program begins with the raised limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with supervising() as supervisor:
        names = [f"service-{number}" for number in range(24)]
        for name in names:
            supervisor.define(name, ["/bin/sh", "-c", "echo limit $(ulimit -Sn); exec sleep 1000"])
        supervisor.check()  # so that they are started early
        resource.setrlimit(resource.RLIMIT_NOFILE, (333, hard))
        try:
            supervisor.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        supervisor.wait_until(lambda: supervisor.printed().count(": limit 333\n") == len(names), "all of them")
        for _ in range(2):
            supervisor.reexecute()
        for name in names:
            os.kill(supervisor.services()[name]["pid"], signal.SIGKILL)
        supervisor.wait_until(lambda: supervisor.printed().count(": limit 333\n") == 2 * len(names), "all of them again")


def test_no_service_notices_a_re_execution() -> None:
    with supervising() as supervisor:
        for number in range(20):
            supervisor.define(f"sleeper-{number}", SLEEP)
        supervisor.define("talker", ["/bin/sh", "-c", "while :; do echo word; sleep 0.05; done"])
        supervisor.define("backing-off", ["/bin/false"], restart={"delay_ms": 60_000, "delay_limit_ms": 60_000})
        supervisor.define(
            "listening",
            ["/bin/cat"],
            listeners=[{"name": "in", "address": {"type": "unix-stream", "path": f"{supervisor.runtime}/in"}}],
        )
        supervisor.start()
        supervisor.wait_until(lambda: started(supervisor, "talker", "sleeper-19"), "all of it")
        supervisor.wait_until(lambda: supervisor.services()["backing-off"]["restarts"] == 1, "its failure")
        before = supervisor.services()
        opened = descriptors(supervisor.pid)
        inode = os.stat(supervisor.runtime / "in").st_ino
        for _ in range(3):
            supervisor.reexecute()
        after = supervisor.services()
        assert {name: supervisor["pid"] for name, supervisor in after.items()} == {
            name: supervisor["pid"] for name, supervisor in before.items()
        }
        assert after["backing-off"]["state"] == "stopped"
        assert after["backing-off"]["restarts"] == 1
        assert after["listening"]["state"] == "armed"
        assert os.stat(supervisor.runtime / "in").st_ino == inode
        supervisor.wait_until(lambda: descriptors(supervisor.pid) <= opened, "as many descriptors as before")
        assert "--code" in supervisor.command_line(), "it imported the code that the check had imported"
        assert "Traceback" not in supervisor.printed()
        words = supervisor.printed().count("talker: word")
        supervisor.wait_until(lambda: supervisor.printed().count("talker: word") > words, "more words")
        pid = after["sleeper-3"]["pid"]
        os.kill(pid, signal.SIGKILL)
        supervisor.wait_until(
            lambda: supervisor.services()["sleeper-3"]["pid"] not in (0, pid), "its return under the new program"
        )
        assert supervisor.stop() == 0
        assert [child for child in children(os.getpid()) if child.name == "sleep"] == []


def test_no_connection_notices_a_re_execution_and_none_is_forgotten() -> None:
    with supervising() as supervisor:
        path = f"{supervisor.runtime}/echo"
        listener = {"name": "in", "address": {"type": "unix-stream", "path": path}, "accept": True, "connections": 1}
        supervisor.define("echo", ["/bin/sh", "-c", "exec cat <&3 >&3"], listeners=[listener])
        supervisor.start()
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for client in (first, second):
                client.settimeout(30)
                client.connect(path)
            for word in (b"before", b"after"):
                first.sendall(word)
                assert first.recv(64) == word
                if word == b"before":
                    supervisor.reexecute()
            second.sendall(b"waiting")
            assert select.select([second], [], [], 0.1)[0] == []
            first.close()
            assert second.recv(64) == b"waiting", "there is room for it once the first has ended"
            assert supervisor.stop() == 0
            assert second.recv(64) == b""


def test_a_new_program_that_can_not_be_imported_is_not_executed() -> None:
    with supervising(own_program=True) as supervisor:
        pid = start_web(supervisor)
        (supervisor.program / "milkyway_agent/runtime/reexecution.py").write_text(
            "raise ImportError('a new version that is broken')\n"
        )
        code, said = supervisor.ask("reexec")
        assert code == 4
        assert "cannot re-execute: the new program can't take over, it ended with 1" in said
        assert supervisor.services()["web"]["pid"] == pid


def test_a_new_program_that_fails_after_all_makes_room_for_the_old_one() -> None:
    with supervising(own_program=True) as supervisor:
        pid = start_web(supervisor)
        # As in an upgrade: the old package goes, and a new one has its name. That works until it is needed.
        new = supervisor.program / "milkyway_agent"
        new.rename(supervisor.program.parent / "aside")
        shutil.copytree(ROOT / "agent/milkyway_agent", new)
        text = (new / "standalone/supervision.py").read_text()
        broken = "if '--adopt' in sys.argv:\n    raise ImportError('a new version that is broken in another place')\n"
        (new / "standalone/supervision.py").write_text(text.replace("ORDERS = ", f"{broken}ORDERS = ", 1))
        assert supervisor.ask("reexec")[0] == 0
        supervisor.wait_until(lambda: "the one before it takes over again" in supervisor.printed(), "its failure")
        supervisor.wait_until(lambda: supervisor.ask("services")[0] == 0, "the answer of the one before")
        assert supervisor.services()["web"]["pid"] == pid
        assert supervisor.held() > 0
        shutil.copy(ROOT / "agent/milkyway_agent/standalone/supervision.py", new / "standalone")
        supervisor.reexecute()
        assert supervisor.services()["web"]["pid"] == pid
        assert supervisor.held() == 0, "the newest program is there again, and is not what runs"
        assert supervisor.stop() == 0


def test_a_new_program_that_refuses_what_is_handed_over_makes_room_for_the_old_one() -> None:
    """It confirms that it can read the state, but then can't use it."""
    with supervising(own_program=True) as supervisor:
        pid = start_web(supervisor)
        file = supervisor.program / "milkyway_agent/standalone/supervision.py"
        text = file.read_text()
        assert text.count("state = read_state(") == 1
        aside = supervisor.program / "milkyway_agent/aside.py"
        aside.write_text(text.replace("state = read_state(", "raise RefusedError('no') or read_state("))
        aside.replace(file)
        code, _ = supervisor.ask("reexec")
        assert code == 0
        supervisor.wait_until(lambda: "services go on, nothing supervises them" in supervisor.printed(), "the end of both")
        assert os.path.exists(f"/proc/{pid}")
        supervisor.wait_until(
            lambda: "Connection refused" in supervisor.ask("services")[1], "its clients being refused, not kept waiting"
        )


def test_an_internal_failure_is_a_re_execution_and_no_service_notices() -> None:
    with supervising(own_program=True) as supervisor:
        file = supervisor.program / "milkyway_agent/standalone/supervision.py"
        text = file.read_text()
        assert "await self._read_again()" in text
        file.write_text(text.replace("await self._read_again()", "raise SystemExit('a bug of the supervisor')"))
        supervisor.define("web", SLEEP)
        supervisor.define("backing-off", ["/bin/false"], restart={"delay_ms": 60_000, "delay_limit_ms": 60_000})
        supervisor.start()
        supervisor.wait_until(
            lambda: started(supervisor, "web") and supervisor.services()["backing-off"]["restarts"] == 1, "all of it"
        )
        before = supervisor.services()
        os.kill(supervisor.pid, signal.SIGHUP)
        supervisor.wait_until(lambda: "supervisor re executed" in supervisor.printed(), "its new life")
        assert "supervisor failed" in supervisor.printed()
        after = supervisor.wait_until(lambda: supervisor.ask("services")[0] == 0 and supervisor.services(), "its answer")
        assert after["web"]["pid"] == before["web"]["pid"]
        assert after["backing-off"]["restarts"] == 1
        assert supervisor.stop() == 0


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
    """Make *directory* read-only inside, also for root."""
    mounts.mount(str(directory), str(directory), "", mounts.MS_BIND)
    try:
        mounts.remount(str(directory), mounts.MS_BIND | mounts.MS_RDONLY)
        yield
    finally:
        mounts.umount2(str(directory), 0)


@pytest.mark.parametrize("planned", [True, False])
def test_definitions_that_can_not_be_written_have_their_plan_beside_them_or_in_the_runtime_directory(planned: bool) -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP)
        if planned:
            supervisor.check()
        with read_only(supervisor.definitions):
            supervisor.start()
            supervisor.wait_until(lambda: started(supervisor, "web"), "web")
            assert (supervisor.runtime / ".plan").exists() != planned
            assert supervisor.stop() == 0


def test_where_nothing_can_be_written_nothing_is_started_and_that_is_reported_in_one_line() -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP)
        supervisor.check()
        supervisor.runtime.mkdir()
        with read_only(supervisor.definitions), read_only(supervisor.runtime):
            supervisor.start(waits=False)
            assert supervisor.wait() == 4
        assert (
            supervisor.printed()
            == f"cannot supervise {supervisor.definitions}: Read-only file system: {supervisor.runtime}/lock\n"
        )
        assert supervisor.groups() == []


def test_a_plan_that_can_be_written_nowhere_is_reported_in_one_line() -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP)
        with read_only(supervisor.definitions):
            code, said = supervisor.check()
        assert code == 4
        assert said == f"cannot write {supervisor.definitions}/.plan: Read-only file system\n"


def test_an_order_to_end_that_comes_with_the_first_service_is_heeded(tmp_path: Path) -> None:
    """The first services run before the supervisor can receive a signal."""
    with supervising() as supervisor:
        fifo = tmp_path / "runs"
        os.mkfifo(fifo, 0o666)
        tmp_path.chmod(0o755)
        supervisor.define("web", ["/bin/sh", "-c", f"echo $$ > {fifo}; exec sleep 1000"])
        assert supervisor.check()[0] == 0
        supervisor.start(waits=False)
        with fifo.open() as told:
            service = int(told.readline())
        assert supervisor.stop() == 0
        assert not Path(f"/proc/{service}").exists()
