"""The launcher with real processes: what a child has and has not, and the errors when it can't be started."""

import errno
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from milkyway_agent.early.launcher import Launcher, NotStarted, Started, request
from milkyway_agent.launching.arguments import arguments_of
from milkyway_agent.system import cgroups, processes
from tests.privileged.supervisor.supervised import cgroup_root, launch

pytestmark = pytest.mark.privileged

SH = "/bin/sh"
NEXT = iter(range(1, 1 << 30))


@contextmanager
def launching() -> Iterator[Launcher]:
    launcher = Launcher(launch())
    try:
        yield launcher
    finally:
        launcher.close()


@contextmanager
def group(name: str = "launcher") -> Iterator[str]:
    path = f"{cgroup_root()}/milkyway-test-{name}-{os.getpid()}"
    try:
        yield path
    finally:
        if Path(path).exists():
            cgroups.kill(path)
            while cgroups.is_populated(path):
                os.sched_yield()
            cgroups.remove(path)


def answers(launcher: Launcher) -> list[Started | NotStarted]:
    """Wait until nothing is pending, and return the answers."""
    got: list[Started | NotStarted] = []
    while launcher.pending:
        assert select.select([launcher], [], [], 30)[0], "the launcher does not answer"
        got += launcher.results()
    return got


def start(launcher: Launcher, words: list[str], descriptors: dict[int, int] | None = None) -> Started:
    launcher.submit(next(NEXT), words, descriptors or {})
    (answer,) = answers(launcher)
    assert isinstance(answer, Started), answer.why
    return answer


def refused(launcher: Launcher, words: list[str]) -> NotStarted:
    launcher.submit(next(NEXT), words, {})
    (answer,) = answers(launcher)
    assert isinstance(answer, NotStarted)
    return answer


def ended(started: Started) -> int:
    try:
        return processes.reap(started.pidfd).code
    finally:
        os.close(started.pidfd)


def said(launcher: Launcher, script: str, **options: Any) -> str:
    """Run *script* in a shell, with both outputs in a pipe; return what it wrote. Its exit status must be 0."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with open(reading) as pipe:  # noqa: PTH123 (a descriptor)
        try:
            child = start(launcher, arguments_of([SH, "-c", script], **options), {1: writing, 2: writing})
        finally:
            os.close(writing)
        text = pipe.read()
    assert ended(child) == 0, text
    return text.strip()


def status_line(text: str, name: str) -> str:
    return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(f"{name}:"))


def test_a_child_is_ours_and_leads_a_session_of_its_own() -> None:
    with launching() as launcher:
        child = start(launcher, arguments_of(["/bin/sleep", "1000"]))
        found = {process.pid: process for process in processes.processes()}[child.pid]
        assert (found.name, found.parent, os.getsid(child.pid)) == ("sleep", os.getpid(), child.pid)
        processes.pidfd_send_signal(child.pidfd, signal.SIGTERM)
        assert ended(child) == -signal.SIGTERM


def test_the_environment_of_a_request_does_not_leak_into_the_next() -> None:
    """The launcher reads all requests into the same memory: without a terminator, a string would run into the last request."""
    many = {f"SECRET{number}": "x" * 300 for number in range(20)}
    with launching() as launcher:
        assert said(launcher, "env", environment=many).count("SECRET") == 20
        alone = said(launcher, "env", environment={"B": "1"})
        assert {line.partition("=")[0] for line in alone.splitlines()} <= {"B", "PATH", "LANG", "PWD", "SHLVL", "_"}
        assert "SECRET" not in said(launcher, "env", environment={"A": "1", "B": "2", "C": "3"})
        assert "SECRET" not in said(launcher, "env", listen_pid=True)
        assert "SECRET" not in said(launcher, "env")


def test_a_child_is_born_in_its_group_which_is_made_with_its_limits() -> None:
    with launching() as launcher, group() as path:
        text = said(launcher, "cat /proc/self/cgroup", cgroup=path, make_cgroup=True, cgroup_files={"cgroup.max.depth": "3"})
        assert f"0::/{Path(path).name}" in text.splitlines()
        assert Path(path, "cgroup.max.depth").read_text() == "3\n"
        assert said(launcher, "true", cgroup=path, make_cgroup=True) == ""  # it exists already


def test_a_child_with_a_group_of_version_1_joins_it_by_itself() -> None:
    """clone3 takes only a group of version 2, so this is the way of kernels and containers without CLONE_INTO_CGROUP."""
    path = f"/sys/fs/cgroup/pids/milkyway-test-{os.getpid()}"
    with launching() as launcher:
        try:
            text = said(launcher, "cat /proc/self/cgroup", cgroup=path, make_cgroup=True)
            assert any(line.endswith(f":pids:/{Path(path).name}") for line in text.splitlines())
        finally:
            cgroups.remove(path)


def test_a_file_that_a_group_must_have_and_one_that_it_may_have() -> None:
    with launching() as launcher, group() as path:
        assert said(launcher, "true", cgroup=path, make_cgroup=True, cgroup_files_if_there={"none.max": "1"}) == ""
        words = arguments_of(["/bin/true"], cgroup=path, cgroup_files={"none.max": "1"})
        answer = refused(launcher, words)
        assert (answer.errno, answer.why) == (errno.ENOENT, f"cannot open {path}/none.max: No such file or directory")
        words = arguments_of(["/bin/true"], cgroup=path, cgroup_files_if_there={"cgroup.max.depth": "deep"})
        assert refused(launcher, words).why == f"cannot write to {path}/cgroup.max.depth: Invalid argument"


def test_a_group_that_is_not_there_is_named() -> None:
    with launching() as launcher:
        answer = refused(launcher, arguments_of(["/bin/true"], cgroup=f"{cgroup_root()}/milkyway-none"))
        assert answer.errno == errno.ENOENT
        assert answer.why == f"cannot open {cgroup_root()}/milkyway-none/cgroup.procs: No such file or directory"


@pytest.mark.parametrize(
    ("command", "number", "why"),
    [
        ("/bin/none", errno.ENOENT, "cannot execute /bin/none: No such file or directory"),
        ("/etc/passwd", errno.EACCES, "cannot execute /etc/passwd: Permission denied"),
        ("/", errno.EACCES, "cannot execute /: Permission denied"),
        ("true", errno.EINVAL, "cannot find the program: its absolute path follows --"),
    ],
)
def test_why_a_program_cannot_be_executed_is_reported_precisely(command: str, number: int, why: str) -> None:
    with launching() as launcher:
        answer = refused(launcher, arguments_of([command]))
        assert (answer.errno, answer.why) == (number, why)
        assert said(launcher, "echo and on") == "and on"


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (["--user", "x:1"], "cannot read x: not a number from 0 to 4294967294"),
        (["--user", "4294967295:1"], "cannot read 4294967295: not a number from 0 to 4294967294"),
        (["--user", "1"], "cannot read 1: there is no name before a :"),
        (["--nice", "20"], "cannot read 20: not a number from -20 to 19"),
        (["--umask", "0789"], "cannot read 0789: not a number from 0 to 511"),
        (["--rlimit", "files=3"], "cannot limit files: Invalid argument"),
        (["--directory", "/none"], "cannot enter /none: No such file or directory"),
        (["--seccomp", "9"], "cannot read the seccomp filter 9: Bad file descriptor"),
        (["--seccomp", "/none"], "cannot open /none: No such file or directory"),
        (["--keep-caps", "0x4000000000000000"], "cannot keep capability 62: Invalid argument"),
        (["--env", "=1"], "cannot read =1: there is no name before a ="),
        (["--cgroup-make"], "cannot find  of the cgroup: no such place"),
        (["--all"], "cannot read option --all"),
        (["--user"], "cannot read option --user"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_runs(option: list[str], why: str) -> None:
    with launching() as launcher:
        words = arguments_of(["/bin/true"])
        # the last has no argument to take
        assert refused(launcher, [*option, *words] if option != ["--user"] else option).why == why
        assert processes_of_ours() == {launcher.pid}


def processes_of_ours() -> set[int]:
    return {process.pid for process in processes.processes() if process.parent == os.getpid()}


def test_a_child_has_only_the_descriptors_it_was_given() -> None:
    reading, writing = os.pipe()  # inheritable descriptors of ours, which must not be found in the child
    os.set_inheritable(reading, True)
    os.set_inheritable(writing, True)
    try:
        with launching() as launcher:
            listed = said(launcher, "ls /proc/self/fd")
            assert listed.split() == ["0", "1", "2", "3"]  # 3 is ls's own, of the directory
    finally:
        os.close(reading)
        os.close(writing)


def test_descriptors_get_the_numbers_that_were_asked_for_even_swapped() -> None:
    """The targets run through the numbers at which the launcher receives and moves them, downwards and upwards."""
    targets = [13, 3, 12, 4, 11, 10, 9, 255]
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in targets]
    with launching() as launcher:
        script = "for each in $0; do echo $each >/proc/self/fd/$each; done; ls /proc/self/fd >/proc/self/fd/255"
        words = arguments_of([SH, "-c", script, " ".join(map(str, targets))])
        child = start(launcher, words, {target: pipe[1] for target, pipe in zip(targets, pipes, strict=True)})
        assert ended(child) == 0
    texts = []
    for reading, writing in pipes:
        os.close(writing)
        texts.append(os.read(reading, 4096).decode().split())
        os.close(reading)
    assert [text[0] for text in texts] == list(map(str, targets))
    # ls has the directory open besides, and the shell's 1 is a pipe
    assert set(texts[-1][1:]) - {"5"} == {"0", "1", "2", *map(str, targets)}


def test_signals_are_as_they_were_born() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with launching() as launcher:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            child = start(launcher, arguments_of(["/bin/cat", "/proc/self/status"]), {1: writing})
            os.close(writing)
            with open(reading) as pipe:  # noqa: PTH123 (a descriptor)
                text = pipe.read()
            ended(child)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGHUP, previous)
    assert int(status_line(text, "SigBlk"), 16) == 0
    # 32 and 33 belong to the C library: the process that started us may have left them ignored
    assert int(status_line(text, "SigIgn"), 16) & ~(3 << 31) == 0


def test_a_child_is_the_user_it_should_be_with_the_rights_it_should_have() -> None:
    with launching() as launcher:
        text = said(launcher, "cat /proc/self/status", user=65531, groups=[65530, 7, 8], capabilities=["net_raw", "chown"])
        assert status_line(text, "Uid").split() == ["65531"] * 4
        assert status_line(text, "Gid").split() == ["65530"] * 4
        assert status_line(text, "Groups").split() == ["7", "8"]
        # With no_new_privs the bounding set has no effect any more, and is left as it is.
        assert {status_line(text, f"Cap{name}") for name in ("Inh", "Prm", "Eff", "Amb")} == {f"{0x2001:016x}"}
        assert status_line(text, "NoNewPrivs") == "1"
        text = said(launcher, "cat /proc/self/status", no_new_privileges=False)
        assert (status_line(text, "NoNewPrivs"), int(status_line(text, "CapBnd"), 16)) == ("0", 0)
        assert status_line(text, "Uid").split() == ["0"] * 4
        # the launcher, in whose memory the children ran, is unchanged
        own = Path(f"/proc/{launcher.pid}/status").read_text()
        assert (status_line(own, "Uid").split()[0], status_line(own, "NoNewPrivs")) == ("0", "0")
        assert int(status_line(own, "CapEff"), 16) != 0


def test_a_child_has_the_priorities_and_limits_it_should_have() -> None:
    script = "umask; nice; cat /proc/self/oom_score_adj; nproc; ulimit -Sn; ulimit -Hn; ulimit -c; pwd; echo $A-$PATH"
    with launching() as launcher:
        text = said(
            launcher, script, umask=0o027, nice=5, oom_score=500, processors=[0], limits={"nofile": 77, "core": 0},
            directory="/usr", environment={"A": "b c=d", "PATH": "/bin:/usr/bin"},
        )  # fmt: skip
        assert text.split("\n") == ["0027", "5", "500", "1", "77", "77", "0", "/usr", "b c=d-/bin:/usr/bin"]
        assert said(launcher, "umask; nice; echo $A").split("\n") == [f"{current_umask():04o}", "0"]
        # the child shares the launcher's memory but not its score (the kernel has an exception for vfork)
        assert Path(f"/proc/{launcher.pid}/oom_score_adj").read_text() == Path("/proc/self/oom_score_adj").read_text()


def test_a_child_runs_wherever_we_do() -> None:
    """The launcher binds itself and its child to one processor, but only until the child executes its program."""
    with launching() as launcher:
        own = Path("/proc/self/status").read_text()
        for text in (said(launcher, "cat /proc/self/status"), Path(f"/proc/{launcher.pid}/status").read_text()):
            assert status_line(text, "Cpus_allowed_list") == status_line(own, "Cpus_allowed_list")


def current_umask() -> int:
    return int(status_line(Path("/proc/self/status").read_text(), "Umask"), 8)


def test_a_child_has_the_namespaces_it_should_have() -> None:
    kinds = {"mount": "mnt", "network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
    with launching() as launcher:
        for name, kind in kinds.items():
            inside = said(launcher, f"readlink /proc/self/ns/{kind}", namespaces=[name])
            assert inside != os.readlink(f"/proc/self/ns/{kind}"), name
        assert said(launcher, "readlink /proc/self/ns/net; readlink /proc/self/ns/pid").split() == [
            os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/pid"),
        ]  # fmt: skip
        assert said(launcher, "echo $$; ls /proc | grep -c '^[0-9]'", namespaces=["pid", "mount"]).split()[0] == "1"


def test_a_child_learns_its_own_pid_where_it_listens() -> None:
    with launching() as launcher:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        words = arguments_of([SH, "-c", "echo $$ $LISTEN_PID $LISTEN_FDS"], listen_pid=True, environment={"LISTEN_FDS": "1"})
        child = start(launcher, words, {1: writing, 3: reading})
        assert ended(child) == 0
        assert os.read(reading, 100).split() == [str(child.pid).encode(), str(child.pid).encode(), b"1"]
        os.close(reading)
        os.close(writing)


def test_children_outlive_the_launcher_and_the_next_start_has_another() -> None:
    with launching() as launcher:
        child = start(launcher, arguments_of(["/bin/sleep", "1000"]))
        watched, first = launcher.fileno(), launcher.pid
        os.kill(first, signal.SIGKILL)
        assert select.select([launcher], [], [], 30)[0]
        assert launcher.results() == []
        assert not processes.has_ended(child.pidfd)
        assert said(launcher, "echo again") == "again"
        assert (launcher.fileno(), launcher.pid != first) == (watched, True)
        processes.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL


def test_a_launcher_killed_in_the_middle_answers_what_was_asked_of_it() -> None:
    with launching() as launcher:
        os.kill(launcher.pid, signal.SIGSTOP)
        for number in (1, 2, 3):
            launcher.submit(number, arguments_of(["/bin/true"]), {})
        os.kill(launcher.pid, signal.SIGKILL)
        got = answers(launcher)
        assert [(answer.number, type(answer)) for answer in got] == [(1, NotStarted), (2, NotStarted), (3, NotStarted)]
        assert {answer.why for answer in got if isinstance(answer, NotStarted)} == {"cannot start it: the launcher ended"}
        assert processes_of_ours() == set()
        assert said(launcher, "echo again") == "again"


def test_requests_for_which_there_is_no_room_wait_their_turn() -> None:
    with launching() as launcher:
        os.kill(launcher.pid, signal.SIGSTOP)
        words = arguments_of([SH, "-c", "exit 3", "x" * 100_000])
        numbers = list(range(200))
        reading, writing = os.pipe2(os.O_CLOEXEC)
        for number in numbers:
            launcher.submit(number, words, {1: writing})
        os.close(writing)  # the launcher has its own
        os.kill(launcher.pid, signal.SIGCONT)
        got = answers(launcher)
        assert [answer.number for answer in got] == numbers
        assert {ended(answer) for answer in got if isinstance(answer, Started)} == {3}
        assert os.read(reading, 1) == b""  # and no process holds a copy any more
        os.close(reading)


def test_a_request_that_cannot_be_sent_fails_at_once() -> None:
    with launching() as launcher:
        with pytest.raises(OSError, match="NUL"):
            launcher.submit(1, arguments_of(["/bin/true", "a\0b"]), {})
        with pytest.raises(OSError, match="Bad file descriptor"):
            launcher.submit(1, arguments_of(["/bin/true"]), {1: 9999})
        assert launcher.pending == 0
    with pytest.raises(OSError, match="No such file"):
        Launcher("/none")


def test_a_message_that_is_none_is_refused_and_the_next_is_served() -> None:
    with launching() as launcher:
        whole = request(1, ["--", "/bin/true"], [])
        # cut short in its head and in its arguments, and with a descriptor announced that does not come
        for message in (b"\1\0\0\0", whole[:8], whole[:-1], request(1, ["--", "/bin/true"], [1])):
            assert launcher._send(1, message, [])
            (answer,) = answers(launcher)
            assert isinstance(answer, NotStarted)
            assert answer.why == "cannot read the request: it is not whole"
        assert said(launcher, "echo and on") == "and on"


def test_a_thousand_starts_leave_no_zombie_and_no_descriptor() -> None:
    with launching() as launcher, group() as path:
        assert said(launcher, "true") == ""  # by now it has closed what it inherited
        own, its = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{launcher.pid}/fd"))
        reading, writing = os.pipe2(os.O_CLOEXEC)
        for number in range(1000):
            command = ["/bin/true"] if number % 10 else ["/bin/none"]
            launcher.submit(number, arguments_of(command, cgroup=path, make_cgroup=True), {1: writing, 2: writing})
        got = answers(launcher)
        assert [answer.number for answer in got] == list(range(1000))
        assert sum(isinstance(answer, NotStarted) for answer in got) == 100
        assert {ended(answer) for answer in got if isinstance(answer, Started)} == {0}
        os.close(reading)
        os.close(writing)
        assert processes_of_ours() == {launcher.pid}
        assert (len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{launcher.pid}/fd"))) == (own, its)
    assert processes_of_ours() == set()


def test_alone_it_becomes_the_program_or_says_why_not() -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    for words in (
        arguments_of([SH, "-c", "echo $0 $A"], environment={"A": "1"}, nice=3),
        arguments_of(["/none"]),
        ["--pid-private", "--", "/bin/true"],
    ):
        pid = processes.spawn([launch(), *words], {}, {1: writing, 2: writing})
        os.waitpid(pid, 0)
    assert os.read(reading, 4096).decode().splitlines() == [
        "/bin/sh 1", "launch: cannot execute /none: No such file or directory", "launch: cannot make pids: Invalid argument",
    ]  # fmt: skip
    os.close(reading)
    os.close(writing)
