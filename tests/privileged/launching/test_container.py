"""Services of layers in real containers: crun, overlayfs, seccomp, namespaces; without SELinux, which test machines lack."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from milkyway_agent.core import stack
from milkyway_agent.core.effects import MakeGroup, MountStack, RunServices
from milkyway_agent.core.uid_range import RANGE, first_uid
from milkyway_agent.deployments.services import ServicePlane
from milkyway_agent.deployments.stacks import StackPlane
from milkyway_agent.launching.container import BUNDLES, CRUN_STATE, ContainerStarter
from milkyway_agent.launching.control_groups import clear_group
from milkyway_agent.launching.oci_config import Host
from milkyway_agent.launching.program import make_group
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.system import mounts
from milkyway_formats.deployment import Deployment
from milkyway_formats.errors import UnavailableError
from milkyway_formats.grants import Grant, HoldCapability, Listen
from milkyway_formats.service import ReadyByExit, ReadyByNotify, ReadyByTcp, Restart, Scratch, Service, Stop
from tests.fakes.manifests import manifest_of, pin_of
from tests.privileged.supervisor.supervised import Supervised, cgroup_root, heard_through, supervised

pytestmark = pytest.mark.privileged

ID = "test_web_4711"
MANIFEST = manifest_of("test/web")
# The cgroup v2 hierarchy of this machine may be elsewhere, beside version 1: show crun what it finds on a server.
CRUN = """#!/bin/sh
exec unshare --mount --propagation private sh -c 'mount -t cgroup2 none /sys/fs/cgroup && exec crun "$@"' crun "$@"
"""
# The first `start` hangs: the agent fails meanwhile.
CRUN_ONCE_STUCK = """
case " $* " in *" start "*) test -e {0}/stuck || {{ touch {0}/stuck; echo stuck > {0}/asked; exec sleep 1000; }} ;; esac
"""


def deployment(*grants: Grant) -> Deployment:
    return Deployment(id=ID, name="web", generation=1, stack=[pin_of("test/web")], grants=list(grants))


class Site:
    """A deployment whose stack is this machine's own root under an empty layer."""

    def __init__(self, harness: Supervised, crun: str) -> None:
        self.harness = harness
        self.crun = crun
        self.host = Host(frozenset(), selinux=False)

    def add(self, service: Service, grants: tuple[Grant, ...] = ()) -> str:
        where = {"crun": self.crun, "cgroups_root": cgroup_root()}
        starter = ContainerStarter(service, deployment(*grants), MANIFEST, self.host, self.harness.reaper, **where)
        first = first_uid(ID)
        name = f"web/{service.name}"
        self.harness.supervisor.add(Definition(name, service, starter, users=range(first, first + RANGE)))
        return name

    async def output_of(self, script: str, grants: tuple[Grant, ...] = (), **fields: object) -> list[str]:
        """Run *script* in a container to its end; return the lines that it wrote."""
        never = Restart(when="never")
        service = Service(
            name="once",
            command=["/bin/sh", "-c", f"{script}; echo end"],
            type="oneshot",
            readiness=ReadyByExit(),
            restart=never,
            **fields,  # type: ignore[arg-type] # as msgspec takes them
        )
        name = self.add(service, grants)
        self.harness.supervisor.start(name)
        with trio.fail_after(20):
            state = await self.harness.supervisor.wait_state(name, "started", "failed")
        assert state == "started", (self.harness.supervisor.status_of(name).reason, self.harness.lines(name))
        await self.harness.line(name, "end")
        return self.harness.lines(name)[:-1]


@asynccontextmanager
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    app, crun = tmp_path / "app", tmp_path / "crun"
    app.mkdir()
    mounts.mount("tmpfs", str(app), "tmpfs")  # the levels of an overlay must not contain each other
    (app / "var/scratch").mkdir(parents=True)
    (app / "marker").write_text("from the layer\n")
    crun.write_text(CRUN)
    crun.chmod(0o755)
    plane, effect = StackPlane(selinux=False), MountStack(ID, 1, (str(app), "/"))
    parent = f"{cgroup_root()}/deployments"
    make_group(parent)
    make_group(f"{parent}/{MakeGroup(ID).deployment}")
    try:
        await plane.do(effect)
        async with supervised() as harness:
            yield Site(harness, str(crun))
    finally:
        await plane.undo(effect)
        await clear_group(f"{parent}/{ID}")
        os.rmdir(parent)
        mounts.umount2(str(app))
    assert not mounts.is_mounted(stack.stack_mount(ID, 1))


async def test_it_sees_its_stack_read_only_and_writes_only_its_scratch(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        lines = await here.output_of(
            "cat /marker; touch /new 2>&1; touch /var/scratch/new && echo written; "
            "cp /bin/true /var/scratch/true && chmod +x /var/scratch/true && /var/scratch/true 2>&1; "
            "head -c 2M /dev/zero 2>&1 >/var/scratch/big",
            scratch=[Scratch(path="/var/scratch", size_bytes=1 << 20, inodes=16)],
        )
        assert lines[0] == "from the layer"
        assert "Read-only file system" in lines[1]
        assert lines[2] == "written"
        assert "Permission denied" in lines[3], "what it can write it can't execute"
        assert "No space left on device" in lines[4]


async def test_it_has_no_capability_except_the_granted_one(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        grants = (HoldCapability(name="net_bind_service"),)
        lines = await here.output_of("id -u; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status", grants)
        facts = dict(line.split(":\t") for line in lines[1:])
        assert int(lines[0]) == first_uid(ID)
        assert {int(facts[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {1 << 10}
        assert facts["NoNewPrivs"].strip() == "1"
        assert facts["Seccomp"].strip() == "2"


async def test_without_a_network_grant_its_network_is_empty(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        # Without the grant, a service has no route and no interface except its own lo.
        lines = await here.output_of("tail -n +3 /proc/net/dev | cut -d: -f1; hostname; echo $$; ls /proc | grep -c '^[0-9]*$'")
        assert lines[0].strip() == "lo"
        assert lines[1] == "web"
        assert lines[2] == "1", "it is the first process of its own pid namespace"
        assert int(lines[3]) <= 4


async def test_with_a_network_grant_it_shares_the_machines(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        lines = await here.output_of("readlink /proc/self/ns/net", (Listen(protocol="tcp", port=47114),))
        assert lines == [os.readlink("/proc/self/ns/net")]


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        ("unshare(0x10000000)", 1),  # a user namespace
        ("mount(0, b'/proc', 0, 32, 0)", 1),
        ("ptrace(0, 0, 0, 0)", 1),
        ("syscall(321, 0, 0, 0)", 1),  # bpf
        ("syscall(425, 1, 0)", 1),  # io_uring_setup
        ("syscall(435, 0, 0)", 38),  # clone3: its flags can't be seen
        ("syscall(56, 0x10000011, 0, 0, 0, 0)", 38),  # clone with CLONE_NEWUSER
        ("socket(40, 1, 0)", 38),  # AF_VSOCK
        ("syscall(999)", 38),
    ],
)
async def test_a_forbidden_system_call_fails(tmp_path: Path, call: str, errno: int) -> None:
    async with site(tmp_path) as here:
        code = f"import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.{call}, ctypes.get_errno())"
        lines = await here.output_of(f'/usr/bin/python3 -c "{code}"')
        assert lines == [f"-1 {errno}"]


SERVER = (
    "import socket; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', 47115)); s.listen(); "
    "print('listening', flush=True); import time; time.sleep(1000)"
)


async def test_a_longrun_is_adopted_watched_and_stopped_without_trace(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        service = Service(
            name="server",
            command=["/usr/bin/python3", "-c", SERVER],
            readiness=ReadyByTcp(port=47115, interval_ms=10),
            restart=Restart(delay_ms=1),
            stop=Stop(timeout_ms=50),  # as PID 1 of its namespace it does not get signals for which it has no handler
        )
        name = here.add(service)
        supervisor = here.harness.supervisor
        supervisor.start(name)
        with trio.fail_after(20):
            assert await supervisor.wait_state(name, "started", "failed") == "started"
        pid = supervisor.status_of(name).pid
        assert (Path(f"/proc/{pid}/stat").read_text().split()[3]) == str(os.getpid()), "it is our own child now"
        os.kill(pid, 9)
        with trio.fail_after(20):
            await supervisor.wait_state(name, "stopped")
            await supervisor.wait_state(name, "started")
            assert supervisor.status_of(name).pid != pid
            await supervisor.stop(name)
        assert os.listdir(CRUN_STATE) == []
        assert os.listdir(BUNDLES) == []
        assert not Path(f"{cgroup_root()}/deployments/{ID}/server").exists()


def _pid_of_container() -> int:
    """Return the first process of the only container, as crun knows it."""
    (made,) = Path(CRUN_STATE).iterdir()
    return int(json.loads((made / "status").read_text())["pid"])


async def test_a_start_that_was_cut_off_after_the_container_was_made_is_begun_again(tmp_path: Path) -> None:
    with heard_through(tmp_path / "asked") as asked:
        async with site(tmp_path) as here, trio.open_nursery() as nursery:
            first, rest = CRUN.split("\n", 1)
            Path(here.crun).write_text(first + CRUN_ONCE_STUCK.format(tmp_path) + rest)
            name = here.add(Service(name="server", command=["/bin/sleep", "1000"], stop=Stop(timeout_ms=50)))
            here.harness.supervisor.start(name)
            await asked()
            before = _pid_of_container()
            await here.harness.begin_again(nursery)
            with trio.fail_after(20):
                await here.harness.supervisor.wait_state(name, "started", "failed")
            assert here.harness.path(name) == ["waiting", "starting", "started"]
            assert here.harness.supervisor.status_of(name).pid == _pid_of_container() != before
            with trio.fail_after(10):  # it is an orphan, which is reaped after the grace period
                while Path(f"/proc/{before}").exists():
                    await trio.lowlevel.checkpoint()
            await here.harness.supervisor.stop(name)
            assert os.listdir(CRUN_STATE) == []
            assert os.listdir(BUNDLES) == []
            nursery.cancel_scope.cancel()


NOTIFIER = (
    "import os, socket, time; s = socket.socket(1, 2); s.connect(os.environ['NOTIFY_SOCKET']); "
    "s.send(b'READY=1'); time.sleep(1000)"
)


async def test_sd_notify_reaches_out_of_the_container(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        name = here.add(
            Service(
                name="notifier",
                command=["/usr/bin/python3", "-c", NOTIFIER],
                readiness=ReadyByNotify(),
                stop=Stop(timeout_ms=50),
            )
        )
        here.harness.supervisor.start(name)
        with trio.fail_after(20):
            assert await here.harness.supervisor.wait_state(name, "started", "failed") == "started"


async def test_a_program_that_is_not_there_fails_with_crun_s_own_words(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        name = here.add(Service(name="none", command=["/nonexistent"], restart=Restart(when="never")))
        here.harness.supervisor.start(name)
        with trio.fail_after(20):
            await here.harness.supervisor.wait_state(name, "failed")
        reason = here.harness.supervisor.status_of(name).reason
        assert reason.startswith("cannot create the container: crun ended with 1 (")
        assert "/nonexistent" in reason
        assert os.listdir(CRUN_STATE) == []


async def test_the_service_plane_runs_a_deployments_services_and_takes_them_back(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        fine = Service(name="fine", command=["/bin/sleep", "1000"], stop=Stop(timeout_ms=50))
        bad = Service(name="bad", command=["/bin/false"], readiness=ReadyByTcp(port=1), restart=Restart(delay_ms=1))
        supervisor = here.harness.supervisor

        def run(*services: Service) -> RunServices:
            manifest = msgspec.structs.replace(MANIFEST, services=list(services))
            return RunServices(deployment(), manifest)

        plane = ServicePlane(supervisor, here.harness.reaper, here.host, crun=here.crun, cgroups_root=cgroup_root())
        await plane.do(run(fine, bad))
        assert supervisor.status_of("web/fine").state == "started"
        assert supervisor.status_of("web/bad").state != "started"
        await plane.undo(run(fine, bad))
        assert supervisor.names() == []
        plane.must_start = True
        with pytest.raises(UnavailableError, match=r"cannot start web/bad: ended with status 1"):
            await plane.do(run(fine, bad))
        assert supervisor.names() == [], "no part of a deployment is left"
        await plane.do(run(fine))
        await plane.do(run(fine))
        assert supervisor.names() == ["web/fine"]
        await plane.undo(run(fine))
        assert os.listdir(CRUN_STATE) == []
