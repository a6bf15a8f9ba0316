"""What belongs to a start, for real: the default seccomp filter, accounts, and credentials in memory."""

import errno
import os
import platform
from pathlib import Path

import pytest

from milkyway_agent.launching import accounts, credentials, seccomp_filter
from milkyway_agent.launching.accounts import DYNAMIC, Account, UnknownAccountError
from milkyway_agent.launching.arguments import arguments_of
from milkyway_agent.launching.credentials import Secret, Storage
from milkyway_agent.system import mounts, processes
from milkyway_formats.errors import RefusedError
from tests.privileged.supervisor.supervised import launch

pytestmark = pytest.mark.privileged

PYTHON = "/usr/bin/python3"
NOBODY = 65534
CALLS = """
import ctypes, os, socket, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    return ctypes.get_errno() if libc.syscall(*arguments) < 0 else 0
def family(number):
    try:
        socket.socket(number, socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno
    return 0
NUMBERS = {name: int(number) for name, number in (word.split("=") for word in sys.argv[1:])}
print(*(call(NUMBERS[name], 0, 0, 0, 0, 0) for name in ("mount", "ptrace", "bpf", "unshare", "keyctl", "clone3")))
print(call(NUMBERS["clone"], 0x10000000, 0, 0, 0, 0), family(40), family(socket.AF_UNIX))
thread = threading.Thread(target=lambda: print("thread"))
thread.start(); thread.join()
print(subprocess.run(["/bin/echo", "child"], capture_output=True, text=True).stdout.strip())
"""


def run(words: list[str], descriptors: dict[int, int] | None = None) -> str:
    """Run the launcher once, by itself; return what was written. Its exit status must be 0."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    given = {1: writing, 2: writing, **(descriptors or {})}
    pidfd = processes.pidfd_open(processes.spawn([launch(), *words], {"PATH": "/usr/bin:/bin"}, given))
    os.close(writing)
    with open(reading) as pipe:  # noqa: PTH123 (a descriptor)
        text = pipe.read()
    code = processes.reap(pidfd).code
    os.close(pidfd)
    assert code == 0, text
    return text


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_refused_call_gets_its_errno_and_all_else_works(tmp_path: Path, no_new_privileges: bool) -> None:
    machine = platform.machine()
    (tmp_path / "default").write_bytes(seccomp_filter.default_filter(machine))
    numbers = [f"{name}={number}" for name, number in seccomp_filter.numbers(machine).items()]
    words = arguments_of(
        [PYTHON, "-c", CALLS, *numbers],
        user=NOBODY,
        seccomp=str(tmp_path / "default"),
        no_new_privileges=no_new_privileges,
    )
    lines = run(words).split("\n")
    assert lines[0].split() == [str(errno.EPERM)] * 5 + [str(errno.ENOSYS)]
    assert lines[1].split() == [str(errno.EPERM), str(errno.EAFNOSUPPORT), "0"]
    assert lines[2:4] == ["thread", "child"]


def test_without_the_filter_such_a_call_reaches_the_kernel() -> None:
    number = seccomp_filter.numbers(platform.machine())
    script = f"import ctypes; libc = ctypes.CDLL(None); print(libc.syscall({number['unshare']}, 0))"
    assert run(arguments_of([PYTHON, "-c", script], user=NOBODY)) == "0\n"


def test_a_filter_that_the_kernel_finds_wrong_is_an_error_of_the_start(tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(b"\xff" * 8)
    with pytest.raises(AssertionError, match="launch: cannot filter system calls: Invalid argument"):
        run(arguments_of(["/bin/true"], seccomp=str(tmp_path / "wrong")))


def test_an_ordinary_users_launcher_needs_no_rights_where_none_can_be_gained() -> None:
    """It may not shrink the bounding set: with no_new_privs that does not matter, and without it that is an error."""
    program = os.open(launch(), os.O_PATH)  # its directory belongs to root
    try:
        inner = arguments_of(["/bin/grep", "NoNewPrivs", "/proc/self/status"])
        outer = arguments_of(["/proc/self/fd/9", *inner], user=NOBODY, no_new_privileges=False)
        assert run(outer, {9: program}).split() == ["NoNewPrivs:", "1"]
        outer.remove("--no-new-privs")
        with pytest.raises(AssertionError, match="launch: cannot drop capability 0: Operation not permitted"):
            run(outer, {9: program})
    finally:
        os.close(program)


def test_accounts_are_found_by_name_and_by_number() -> None:
    assert accounts.resolve("root")[:2] == (0, (0,))
    assert accounts.resolve("0") == accounts.resolve("root")
    assert accounts.resolve("nobody").user == NOBODY
    assert accounts.resolve("4000000000") == Account(4000000000, (4000000000,))
    for unknown in ("no-such-account", "", "4294967295", "a\0b", "٣"):
        with pytest.raises(UnknownAccountError, match="cannot run as"):
            accounts.resolve(unknown)


def test_a_user_that_a_process_has_is_busy() -> None:
    user = DYNAMIC[77]
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = processes.spawn([launch(), *arguments_of(["/bin/cat"], user=user)], {}, {0: reading})
    pidfd = processes.pidfd_open(pid)
    try:
        while Path(f"/proc/{pid}/comm").read_text() != "cat\n":
            os.sched_yield()
        assert user in accounts.busy_users()
    finally:
        os.close(writing)
        assert processes.reap(pidfd).code == 0
        for descriptor in (pidfd, reading):
            os.close(descriptor)
    assert user not in accounts.busy_users()


def secret(directory: Path, name: str, text: str) -> Secret:
    (directory / f"source-{name}").write_text(text)
    return Secret(name, str(directory / f"source-{name}"))


def test_a_secret_is_readable_by_its_user_alone_from_memory_that_is_not_swapped(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    place = str(tmp_path / "of" / "web")
    try:
        kept = credentials.place(place, [secret(tmp_path, "key", "s3cret"), secret(tmp_path, "empty", "")], NOBODY, NOBODY)
        assert kept in (Storage.TMPFS, Storage.RAMFS)
        Path(place).parent.chmod(0o755)
        (mount,) = (mount for mount in mounts.mountinfo() if mount.target == place)
        assert mount.fstype == kept.name.lower()
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount.options.split(","))
        found = {name: Path(place, name).stat() for name in os.listdir(place)}
        assert {name: (entry.st_uid, entry.st_mode & 0o7777) for name, entry in found.items()} == dict.fromkeys(
            ("key", "empty"), (NOBODY, 0o400)
        )
        script = f"cat {place}/key; echo; touch {place}/new"
        assert run(arguments_of(["/bin/sh", "-c", f"{script} 2>/dev/null || echo refused"], user=NOBODY)) == "s3cret\nrefused\n"
        with pytest.raises(AssertionError, match="Permission denied"):
            run(arguments_of(["/bin/cat", f"{place}/key"], user=NOBODY - 1))
        # when placed again, the old ones are gone
        assert credentials.place(place, [secret(tmp_path, "other", "x")], NOBODY, NOBODY) is kept
        assert os.listdir(place) == ["other"]
    finally:
        for _ in range(2):
            credentials.remove(place)
    assert not Path(place).exists()
    assert not mounts.is_mounted(place)


def test_where_mounting_is_not_permitted_there_is_a_directory_and_the_answer_says_so(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    key = secret(own, "key", "s3cret")
    os.chown(own, NOBODY, NOBODY)
    os.chown(key.source, NOBODY, NOBODY)
    child = os.fork()
    if child == 0:  # its own answer is its exit status
        try:
            os.chdir(own)
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            kept = credentials.place("c", [Secret("key", "source-key")], NOBODY, NOBODY)
            fine = (
                kept is Storage.DIRECTORY
                and Path("c/key").read_text() == "s3cret"
                and Path("c").stat().st_mode & 0o777 == 0o500
            )
            credentials.remove("c")
            os._exit(0 if fine and not Path("c").exists() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_secret_that_is_missing_or_too_large_leaves_nothing_behind(tmp_path: Path) -> None:
    large = secret(tmp_path, "large", "x" * (credentials.MOST_BYTES + 1))
    for wrong, why in ((Secret("none", "/none"), "No such file"), (large, "larger than"), (Secret("d", "/"), "Is a directory")):
        with pytest.raises(RefusedError, match=f"cannot give {wrong.name}: .*{why}"):
            credentials.place(str(tmp_path / "c"), [secret(tmp_path, "key", "x"), wrong], 0, 0)
        assert not (tmp_path / "c").exists()
