"""How ``--supervise`` begins: with leftovers of an earlier one, with wrong arguments; and that no service suffers from that."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
import trio

from milkyway_agent.launching.control_groups import clear_group
from milkyway_agent.launching.program import make_group
from milkyway_agent.mwctl import client
from milkyway_agent.standalone import leftovers
from milkyway_agent.system import cgroups, processes
from tests.privileged.standalone.supervising import SECONDS, Supervising, supervising
from tests.privileged.supervisor.supervised import cgroup_root

pytestmark = pytest.mark.privileged

SLEEP = ["/bin/sleep", "1000"]


def pid_of(supervisor: Supervising, name: str) -> int:
    """Return the process of a service once it is started."""
    pid: int = supervisor.wait_until(
        lambda: supervisor.services()[name]["state"] == "started" and supervisor.services()[name]["pid"], name
    )
    return pid


def refused(supervisor: Supervising, *options: str) -> tuple[int, str]:
    """Start a supervisor that can't begin; return its exit code and what it printed, which has no traceback."""
    before = len(supervisor.printed())
    supervisor.start(*options, waits=False)
    code, said = supervisor.wait(), supervisor.printed()[before:]
    assert "Traceback" not in said
    return code, said


def test_a_second_supervisor_of_a_runtime_directory_is_refused_and_the_first_lives_on() -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP)
        supervisor.start()
        pid, first = pid_of(supervisor, "web"), supervisor.pid
        done = supervisor.run_second()
        assert done.returncode == 4
        assert f"process {first} supervises with {supervisor.runtime} already" in done.stderr
        assert "Traceback" not in done.stderr
        assert supervisor.services()["web"]["pid"] == pid
        supervisor.reexecute()
        assert supervisor.run_second().returncode == 4, "the lock outlives an execution"
        assert supervisor.services()["web"]["pid"] == pid


def test_what_a_killed_supervisor_has_left_is_asked_to_end_before_it_is_started_again(tmp_path: Path) -> None:
    with supervising() as supervisor:
        # Its output is not read any more: a shell that reports the end of its child would be killed (SIGPIPE).
        on_term = f"trap 'echo asked >>{tmp_path}/asked; exit' TERM"
        script = f"exec 2>/dev/null; {on_term}; echo $$ >>{tmp_path}/lives; while :; do sleep 0.1; done"
        supervisor.define("web", ["/bin/sh", "-c", script])
        supervisor.start()
        left, groups = pid_of(supervisor, "web"), supervisor.groups()
        os.kill(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
        assert Path(f"/proc/{left}").exists(), "services outlive their supervisor"
        supervisor.start()
        assert pid_of(supervisor, "web") != left
        assert not any(process.pid == left and process.state != "Z" for process in processes.processes()), "it has no parent"
        assert "a supervisor was killed; its services are ended first: web" in supervisor.printed()
        assert (tmp_path / "asked").read_text() == "asked\n"
        assert len((tmp_path / "lives").read_text().split()) == 2
        assert not any(Path(group).exists() for group in groups)


@contextmanager
def left_in(name: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yield a directory of groups called *name*, with a process that ignores SIGTERM in one of them."""
    base = f"{cgroup_root()}/{name}"
    group = f"{base}/deaf"
    make_group(group)
    deaf = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"], stdout=subprocess.PIPE)
    try:
        cgroups.attach(group, deaf.pid)
        assert deaf.stdout is not None
        with deaf.stdout:
            deaf.stdout.readline()
        yield base, deaf
    finally:
        deaf.kill()
        deaf.wait()
        trio.run(clear_group, group)
        trio.run(clear_group, base)


def test_a_service_that_is_left_and_does_not_heed_is_killed() -> None:
    with left_in(f"services-test-{os.getpid()}") as (base, deaf):
        leftovers.end(base, 0.05)
        assert deaf.wait(SECONDS) == -signal.SIGKILL
        assert not Path(base).exists()


def test_a_group_that_is_no_supervisors_is_not_touched() -> None:
    with left_in(f"test-{os.getpid()}") as (base, deaf):
        leftovers.end(base, 0.05)
        assert deaf.poll() is None


def test_a_program_that_takes_over_needs_no_lock() -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP)
        supervisor.start()
        pid = pid_of(supervisor, "web")
        (supervisor.runtime / "lock").unlink()
        (supervisor.runtime / "lock").mkdir()
        supervisor.reexecute()
        assert supervisor.services()["web"]["pid"] == pid


def test_with_a_plan_nothing_is_started_that_is_not_wanted() -> None:
    with supervising() as supervisor:
        for name in ("needed", "other"):
            supervisor.define(name, SLEEP)
        (supervisor.definitions / "default.yaml").write_text("{name: default, type: bundle, requires: [needed]}")
        assert supervisor.check()[0] == 0
        for options in ((), ("--start", "default"), ("--start", "needed")):
            supervisor.start(*options)
            pid_of(supervisor, "needed")
            assert supervisor.services()["other"]["state"] == "stopped"
            assert "other: service process started" not in supervisor.printed()
            assert supervisor.stop() == 0
        (supervisor.definitions / "default.yaml").unlink()
        assert supervisor.check()[0] == 0
        supervisor.start("--start", "needed")
        pid_of(supervisor, "needed")
        assert supervisor.services()["other"]["state"] == "stopped"


def test_a_bundle_and_its_part_that_are_removed_together_fail_nothing() -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP)
        supervisor.define("part", ["/bin/true"], type="oneshot", readiness={"type": "exit"})
        (supervisor.definitions / "all.yaml").write_text("{name: all, type: bundle, wants: [part]}")
        supervisor.start()
        supervisor.wait_until(lambda: supervisor.services()["all"]["state"] == "started", "the bundle")
        for name in ("all", "part"):
            (supervisor.definitions / f"{name}.yaml").unlink()
        os.kill(supervisor.pid, signal.SIGHUP)
        supervisor.wait_until(lambda: list(supervisor.services()) == ["web"], "what is left")
        assert "failed" not in supervisor.printed()


def test_why_definitions_are_refused_is_in_the_log_and_an_editors_files_are_none() -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP)
        (supervisor.definitions / ".#web.yaml").symlink_to("nobody@nowhere.1")
        supervisor.start()
        pid = pid_of(supervisor, "web")
        supervisor.define("web", SLEEP, colour="red")
        os.kill(supervisor.pid, signal.SIGHUP)
        supervisor.wait_until(lambda: "definitions refused" in supervisor.printed(), "the refusal")
        assert f"definitions refused: why='cannot read {supervisor.definitions}/web.yaml: line 1: " in supervisor.printed()
        assert "unknown field `colour`" in supervisor.printed()
        assert supervisor.services()["web"]["pid"] == pid


def test_a_service_that_has_failed_is_found_among_what_went_wrong() -> None:
    with supervising() as supervisor:
        supervisor.define("web", ["/bin/false"], restart={"when": "never"})
        supervisor.start()
        supervisor.wait_until(lambda: supervisor.services()["web"]["state"] == "failed", "its failure")
        code, said = supervisor.ask("logs", "--priority", "err")
        assert code == 0
        assert "service failed" in said


def test_a_start_that_cannot_come_is_answered_at_once_and_says_why() -> None:
    with supervising() as supervisor:
        supervisor.define("bad", ["/bin/false"], type="oneshot", readiness={"type": "exit"}, restart={"when": "never"})
        supervisor.define("needs", SLEEP, requires=["bad"])
        supervisor.define("where", SLEEP, conditions=[{"type": "path-exists", "path": "/nowhere"}])
        supervisor.start()
        supervisor.wait_until(lambda: supervisor.services()["bad"]["state"] == "failed", "its failure")
        for verb in ("start", "restart"):
            code, said = supervisor.ask(verb, "needs")
            assert (code, "cannot start needs: requires bad, which is failed" in said) == (4, True), said
            code, said = supervisor.ask(verb, "where")
            assert (code, "cannot start where: " in said and "/nowhere" in said) == (4, True), said


def test_an_order_to_end_does_not_wait_for_a_change_of_definitions() -> None:
    with supervising() as supervisor:
        deaf = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
        supervisor.define("deaf", deaf, stop={"timeout_ms": 3000})
        supervisor.define("web", SLEEP)
        supervisor.start()
        pid_of(supervisor, "deaf")
        supervisor.define("deaf", [*deaf[:2], f"{deaf[2]} # changed"], stop={"timeout_ms": 3000})
        supervisor.define("new", SLEEP)
        os.kill(supervisor.pid, signal.SIGHUP)
        supervisor.wait_until(
            lambda: "deaf: service state changed: was=started now=restarting" in supervisor.printed(), "the change"
        )
        assert supervisor.stop() == 0
        printed = supervisor.printed()
        assert printed.index("end asked") < printed.index("deaf: service killed: after_ms=3000")
        assert printed.count("deaf: service process started") == 1
        assert "new: service process started" not in printed, "nothing would stop it"


def test_a_directory_that_is_away_for_a_moment_costs_nothing() -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP)
        supervisor.start()
        pid = pid_of(supervisor, "web")
        away = supervisor.definitions.rename(supervisor.definitions.with_name("away"))
        supervisor.reexecute()
        os.kill(supervisor.pid, signal.SIGHUP)
        supervisor.wait_until(lambda: "definitions refused" in supervisor.printed(), "the refusal")
        assert "Traceback" not in supervisor.printed()
        away.rename(supervisor.definitions)
        supervisor.reexecute()
        assert supervisor.services()["web"]["pid"] == pid


def test_a_request_during_a_re_execution_waits_and_is_answered() -> None:
    with supervising() as supervisor, ThreadPoolExecutor(4) as askers:
        supervisor.define("web", SLEEP)
        supervisor.start()
        pid = pid_of(supervisor, "web")
        over = Event()

        def ask_without_pause() -> int:
            answered = 0
            while not over.is_set():
                assert ask_quickly(supervisor) == 200
                answered += 1
            return answered

        asking = [askers.submit(ask_without_pause) for _ in range(4)]
        try:
            for _ in range(3):
                assert supervisor.ask("reexec")[0] == 0
                assert supervisor.ask("services")[0] == 0
        finally:
            over.set()
        assert all(each.result() for each in asking)
        supervisor.wait_until(lambda: supervisor.printed().count("supervisor re executed") == 3, "the third")
        assert supervisor.services()["web"]["pid"] == pid


def ask_quickly(supervisor: Supervising) -> int:
    """Ask for the services, without starting a program for it; return the status."""
    reply = client.ask(str(supervisor.runtime / "mwctl.sock"), "GET", "/v1/services")
    with reply.body:
        reply.read()
    return reply.status


def test_relative_directories_are_those_of_where_it_began() -> None:
    with supervising() as supervisor:
        supervisor.define("told", ["/bin/sh", "-c", "echo at $NOTIFY_SOCKET; exec sleep 1000"], readiness={"type": "notify"})
        relative = os.path.relpath(supervisor.runtime)
        supervisor.start("--runtime", relative)
        supervisor.wait_until(lambda: f"told: at {Path.cwd()}/{relative}/notify/" in supervisor.printed(), "its word")


def test_timers_keep_their_times_in_the_directory_of_the_options(tmp_path: Path) -> None:
    timers = [{"calendar": ["*-*-* *:*:*"], "persistent": True}]
    with supervising() as supervisor:
        supervisor.define("job", ["/bin/true"], type="oneshot", readiness={"type": "exit"}, timers=timers)
        supervisor.start("--state", str(tmp_path / "volume/state"))
        stamps = tmp_path / "volume/state/timer-stamps"
        supervisor.wait_until(lambda: stamps.exists() and b"job" in stamps.read_bytes(), "the first time")
        moved = tmp_path / "volume/elsewhere"
        stamps.parent.rename(moved)
        supervisor.reexecute()
        supervisor.wait_until(lambda: stamps.exists() and b"job" in stamps.read_bytes(), "a further time")
        assert not (supervisor.definitions / ".state").exists()


def test_wrong_arguments_are_reported_in_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP)
        assert supervisor.check()[0] == 0  # with a plan its services are started before anything is checked
        (tmp_path / "file").touch()
        code, said = refused(supervisor, "--logs", f"{tmp_path}/file")
        assert (code, f"cannot keep logs in {tmp_path}/file: " in said) == (4, True)
        assert supervisor.groups() == []
        code, said = refused(supervisor, "--state", f"{tmp_path}/file/below")
        assert (code, f"cannot keep the times of timers in {tmp_path}/file/below: " in said) == (4, True)
        assert supervisor.groups() == []
        code, said = refused(supervisor, "--start", "nosuch", "--start", "web")
        assert (code, f"cannot start nosuch: {supervisor.definitions} defines no such service" in said) == (3, True)
        assert supervisor.groups() == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"user": 1000}, "cannot use service web: user is for services of layers"),
        ({"scratch": [{"path": "/var/cache"}]}, "cannot use service web: scratch is for services of layers"),
        ({"domain": "worker"}, "cannot use service web: domain is for services of layers"),
        ({"timers": [{"calendar": ["*/15"]}]}, "cannot use service web: cannot read times '*/15'"),
        (
            {"listeners": [{"name": "in", "address": {"type": "tcp", "port": 80, "address": "localhost"}}]},
            "cannot use service web: cannot open listener in (TCP localhost:80): 'localhost' is no IP address",
        ),
        (
            {"listeners": [{"name": name, "address": {"type": "udp", "port": 53}} for name in ("in", "too")]},
            "cannot use service web: its listeners in and too have the same address",
        ),
    ],
)
def test_what_means_nothing_here_is_refused_by_name(fields: dict[str, object], why: str) -> None:
    with supervising() as supervisor:
        supervisor.define("web", SLEEP, **fields)
        code, said = supervisor.check()
        assert (code, why in said) == (3, True), said


def test_first_processes_of_different_namespaces_have_different_groups() -> None:
    script = "from milkyway_agent.early import start as early; print(early._number())"
    said = [
        subprocess.run(["unshare", "--pid", "--fork", sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    numbers = {answer.stdout.strip() for answer in said}
    assert all(number.startswith("1-") for number in numbers)
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip().isdigit()
