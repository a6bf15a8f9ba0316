"""Each kernel call, made for real: it does and undoes, and names the path when it fails."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from milkyway_agent.core.stack import overlay_options
from milkyway_agent.system import (
    cgroups,
    interfaces,
    kernel,
    loop,
    memory,
    mounts,
    processes,
    reaper,
    selinux,
    sockets,
)
from tests.fakes import namespaces

pytestmark = pytest.mark.privileged


def cgroup2() -> str:
    return next(mount.target for mount in mounts.mountinfo() if mount.fstype == "cgroup2")


def run_child(script: str, descriptors: dict[int, int] | None = None) -> int:
    pidfd = processes.pidfd_open(processes.spawn(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, descriptors))
    try:
        return processes.reap(pidfd).code
    finally:
        os.close(pidfd)


def test_mounting_and_unmounting(tmp_path: Path) -> None:
    target = str(tmp_path)
    mounts.mount("tmpfs", target, "tmpfs", mounts.MS_NOSUID | mounts.MS_NOEXEC, "size=64k,mode=700")
    try:
        found = [mount for mount in mounts.mountinfo() if mount.target == target]
        assert [mount.fstype for mount in found] == ["tmpfs"]
        assert {"nosuid", "noexec"} <= set(found[0].options.split(","))
        assert mounts.is_mounted(target)
        mounts.remount(target, mounts.MS_BIND | mounts.MS_RDONLY)
        with pytest.raises(OSError, match="Read-only file system"):
            (tmp_path / "new").write_text("")
    finally:
        mounts.umount2(target)
    assert not mounts.is_mounted(target)


def test_a_failing_mount_names_its_target(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such device") as caught:
        mounts.mount("none", str(tmp_path), "nosuchfs")
    assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, str(tmp_path))


def test_a_stack_without_upperdir_is_read_only_and_the_topmost_wins(tmp_path: Path) -> None:
    for name in ("top", "bottom", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "top/file").write_text("top")
    (tmp_path / "bottom/file").write_text("bottom")
    (tmp_path / "bottom/other").write_text("other")
    merged = tmp_path / "merged"
    mounts.mount("overlay", str(merged), "overlay", 0, overlay_options((str(tmp_path / "top"), str(tmp_path / "bottom"))))
    try:
        assert (merged / "file").read_text() == "top"
        assert (merged / "other").read_text() == "other"
        with pytest.raises(OSError, match="Read-only file system"):
            (merged / "file").write_text("")
    finally:
        mounts.umount2(str(merged))


def test_a_file_becomes_a_read_only_block_device_that_disappears_with_its_last_user(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"milkyway".ljust(8192, b"\0"))
    flags = loop.LO_FLAGS_READ_ONLY | loop.LO_FLAGS_AUTOCLEAR | loop.LO_FLAGS_DIRECT_IO
    device, opened = loop.configure(loop.get_free(), str(image), flags)
    name = Path(device).name
    assert os.pread(opened, 8, 0) == b"milkyway"
    assert Path(f"/sys/block/{name}/ro").read_text().strip() == "1"
    assert Path(f"/sys/block/{name}/loop/backing_file").read_text().strip() == str(image)
    writing = os.open(device, os.O_WRONLY)
    with pytest.raises(PermissionError):
        os.pwrite(writing, b"x", 0)
    os.close(writing)
    os.close(opened)
    assert not Path(f"/sys/block/{name}/loop").exists()


def test_a_loop_device_over_a_missing_file_names_it() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        loop.configure(loop.get_free(), "/nonexistent", loop.LO_FLAGS_READ_ONLY)
    assert caught.value.filename == "/nonexistent"


def test_a_group_is_made_filled_killed_and_removed() -> None:
    group = f"{cgroup2()}/milkyway-test-{os.getpid()}-calls"
    cgroups.create(group)
    try:
        assert not cgroups.is_populated(group)
        pid = processes.spawn(["/bin/sleep", "1000"], {})
        pidfd = processes.pidfd_open(pid)
        cgroups.attach(group, pid)
        assert cgroups.processes(group) == [pid]
        assert cgroups.is_populated(group)
        assert cgroups.of_process(pid) == f"/{Path(group).name}"
        with pytest.raises(OSError, match="busy") as caught:
            cgroups.remove(group)
        assert caught.value.filename == group
        cgroups.kill(group)
        assert processes.reap(pidfd) == (pid, -signal.SIGKILL)
        os.close(pidfd)
        assert not cgroups.is_populated(group)
        cgroups.create(f"{group}/below")
        assert cgroups.children(group) == [f"{group}/below"]
        cgroups.remove(f"{group}/below")
    finally:
        cgroups.remove(group)


def test_a_child_gets_the_descriptors_it_is_given_under_its_own_numbers() -> None:
    """Even where the numbers cross: 3 becomes 4 while 4 becomes 3."""
    first, second = os.memfd_create("first"), os.memfd_create("second")
    crossing = {first: second, second: first}
    os.write(first, b"first")
    os.write(second, b"second")
    os.lseek(first, 0, os.SEEK_SET)
    os.lseek(second, 0, os.SEEK_SET)
    out = os.memfd_create("out")
    assert run_child(f"cat /proc/self/fd/{second} /proc/self/fd/{first}", {1: out, **crossing}) == 0
    assert os.pread(out, 100, 0) == b"firstsecond"
    for descriptor in (first, second, out):
        os.close(descriptor)


def test_a_child_has_nothing_else_open_and_no_signal_ignored() -> None:
    secret = os.memfd_create("secret")
    out = os.memfd_create("out")
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        assert run_child("ls -l /proc/self/fd | grep -c secret; grep -E 'SigIgn|SigBlk' /proc/self/status", {1: out}) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
    words = os.pread(out, 1000, 0).decode().split()
    assert words[0] == "0"
    # The C library leaves the two signals that it uses itself ignored in whatever it spawns (spawni.c).
    internal = 1 << 31 | 1 << 32
    assert [int(mask, 16) & ~internal for mask in words[2::2]] == [0, 0]
    os.close(secret)
    os.close(out)


def test_a_child_leads_a_session_of_its_own() -> None:
    pid = processes.spawn(["/bin/sleep", "1000"], {})
    pidfd = processes.pidfd_open(pid)
    assert os.getsid(pid) == pid
    assert not processes.has_ended(pidfd)
    processes.pidfd_send_signal(pidfd, signal.SIGTERM)
    assert processes.reap(pidfd) == (pid, -signal.SIGTERM)
    with pytest.raises(ProcessLookupError):
        processes.pidfd_send_signal(pidfd, signal.SIGTERM)
    os.close(pidfd)


def test_an_ended_child_is_seen_without_being_reaped() -> None:
    pid = processes.spawn(["/bin/sh", "-c", "exit 9"], {})
    pidfd = processes.pidfd_open(pid)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    assert reaper.first_ended() == pid
    assert processes.has_ended(pidfd)
    assert pid in processes.children(os.getpid())
    assert [zombie.pid for zombie in reaper.zombies(os.getpid())] == [pid]
    assert reaper.zombies(os.getpid(), spared={pid}) == []
    assert processes.reap(pidfd) == (pid, 9)
    assert reaper.reap(pid) is None, "it was reaped already"
    os.close(pidfd)


def test_this_process_is_among_all() -> None:
    ours = next(process for process in processes.processes() if process.pid == os.getpid())
    assert ours.parent == os.getppid()
    assert 1_000_000 < processes.pss_bytes(os.getpid()) < 10**10


def test_a_listener_is_found_with_its_user() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert processes.listening_users("self", port) == {os.getuid()}
    assert processes.listening_users("self", port) == set()
    assert processes.listening_users(2**22 + 1, 80) == set(), "a process that has ended listens to nothing"


def test_a_socket_is_closed_to_others_until_its_mode_is_set(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with sockets.listen(path, 0o660):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    with sockets.listen(path, 0o600):
        pass  # a socket that was left there does no harm


def test_a_datagram_comes_with_its_sender(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with sockets.datagram(path, 0o666) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"READY=1", path)
        data, ancillary, _, _ = server.recvmsg(100, socket.CMSG_SPACE(12))
        sender = sockets.sender(ancillary)
        assert (data, sender) == (b"READY=1", (os.getpid(), os.getuid(), os.getgid()))
    assert sockets.sender([]) is None


def test_a_new_network_namespace_has_a_loopback_that_can_be_brought_up() -> None:
    pid = os.fork()
    if not pid:
        try:
            namespaces.unshare(namespaces.CLONE_NEWNET)
            before = interfaces.flags("lo") & interfaces.IFF_UP
            interfaces.set_up("lo")
            os._exit(0 if interfaces.names() == ["lo"] and not before and interfaces.flags("lo") & interfaces.IFF_UP else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_missing_interface_is_named() -> None:
    with pytest.raises(OSError, match="nosuch0"):
        interfaces.flags("nosuch0")


def test_memory_can_be_locked() -> None:
    pid = os.fork()
    if not pid:
        try:
            memory.mlockall(memory.MCL_CURRENT)
            os._exit(0 if "VmLck:\t       0 kB" not in Path("/proc/self/status").read_text() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_clocks_and_the_boot_id() -> None:
    assert kernel.boottime_ms() > 0
    assert kernel.realtime_ms() > 1_700_000_000_000
    assert len(kernel.boot_id()) == 36


def test_a_missing_module_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"/nonexistent\.ko"):
        kernel.finit_module("/nonexistent.ko")


def test_a_file_that_is_no_module_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "not.ko"
    path.write_bytes(b"no module")
    with pytest.raises(OSError, match=r"not\.ko"):
        kernel.finit_module(str(path))


def test_without_selinux_a_process_has_no_context() -> None:
    if selinux.is_enabled():
        pytest.skip("this machine has SELinux")
    assert selinux.getcon() == ""
    with pytest.raises(FileNotFoundError):
        selinux.getcon(2**22 + 1)


def test_a_process_may_have_any_bytes_as_its_name() -> None:
    """A name that is not text must not keep the agent from seeing all other processes."""
    code = "import sys, ctypes; ctypes.CDLL(None).prctl(15, b'\\xff\\xfe odd)', 0, 0, 0); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()
        assert next(process.name for process in processes.processes() if process.pid == odd.pid) == "\\xff\\xfe odd)"
        odd.communicate()
