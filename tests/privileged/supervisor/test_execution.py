"""What ``execution`` asks for, as the process itself sees it: accounts, dynamic users, credentials, limits, filters."""

from pathlib import Path
from typing import Any

import pytest
import trio

from milkyway_agent.launching.accounts import DYNAMIC
from milkyway_formats.errors import RefusedError
from milkyway_formats.execution import Credential, Execution
from milkyway_formats.service import (
    ExecProbe,
    Health,
    HttpProbe,
    ReadyByDescriptor,
    ReadyByExit,
    ReadyByProbe,
    Reload,
    Service,
    Stop,
)
from tests.privileged.misbehaviour.programs import ONCE, UP, shell
from tests.privileged.supervisor.supervised import Supervised, heard_through, supervised

pytestmark = pytest.mark.privileged


async def says(harness: Supervised, script: str, *, name: str = "web", **fields: Any) -> list[str]:
    """Run a oneshot to its end and return its lines."""
    harness.add_direct(shell(name, script, type="oneshot", readiness=ReadyByExit(), restart=ONCE, **fields))
    harness.supervisor.start(name)
    state = await harness.supervisor.wait_state(name, "started", "failed")
    assert state == "started", (harness.supervisor.status_of(name).reason, harness.lines(name))
    with trio.fail_after(10):
        while (kept := harness.kept(name)) is None or kept.streams:
            await trio.lowlevel.checkpoint()
    return harness.lines(name)


async def test_it_runs_as_its_account_with_exactly_its_groups() -> None:
    async with supervised() as harness:
        assert await says(harness, "id -u; id -g; id -G", execution=Execution(account="nobody")) == ["65534"] * 3
        assert await says(harness, "id -u; id -g", name="number", execution=Execution(account="4711")) == ["4711"] * 2


async def test_each_service_has_its_own_dynamic_user_and_gives_it_back() -> None:
    async with supervised() as harness:
        for name in ("a", "b"):
            harness.add_direct(shell(name, "id -u; exec sleep 1000", execution=Execution(dynamic_user=True)))
        harness.supervisor.start("a", "b")
        with trio.fail_after(10):
            while not (harness.lines("a") and harness.lines("b")):
                await trio.lowlevel.checkpoint()
        users = {int(harness.lines(name)[0]) for name in ("a", "b")}
        assert len(users) == 2 and users <= set(DYNAMIC)
        await harness.supervisor.stop("a")
        harness.supervisor.start("a")
        with trio.fail_after(10):
            while len(harness.lines("a")) < 2:
                await trio.lowlevel.checkpoint()
        assert harness.lines("a")[0] == harness.lines("a")[1]


async def test_secrets_are_files_for_it_alone_and_gone_with_it(tmp_path: Path) -> None:
    async with supervised() as harness:
        (tmp_path / "source").write_text("hunter2")
        execution = Execution(account="4711", credentials=[Credential(name="password", source=str(tmp_path / "source"))])
        command = ["/bin/sh", "-c", f"cat $CREDENTIALS_DIRECTORY/password >{harness.runtime}/reloading"]
        script = (
            "stat -c '%u %a' $CREDENTIALS_DIRECTORY/password; cat $CREDENTIALS_DIRECTORY/password; echo; env; exec sleep 1000"
        )
        service = shell("web", script, execution=execution, reload=Reload(command=command))
        harness.add_direct(service)
        harness.supervisor.start("web")
        place = harness.runtime / "credentials/web"
        await harness.line("web", f"CREDENTIALS_DIRECTORY={place}")
        assert harness.lines("web")[:2] == ["4711 400", "hunter2"]
        assert not [line for line in harness.lines("web")[2:] if "hunter2" in line], "never in the environment"
        with heard_through(harness.runtime / "reloading") as heard:
            await harness.supervisor.wait_state("web", "started")
            await harness.supervisor.reload("web")
            assert await heard() == "hunter2", "its commands have them, too"
        await harness.supervisor.stop("web")
        assert not place.exists()
        assert harness.path("web")[:3] == UP


async def test_a_secret_that_is_missing_starts_nothing_and_says_which(tmp_path: Path) -> None:
    async with supervised() as harness:
        execution = Execution(credentials=[Credential(name="password", source=str(tmp_path / "missing"))])
        harness.add_direct(shell("web", "exec sleep 1000", execution=execution, restart=ONCE))
        harness.supervisor.start("web")
        await harness.supervisor.wait_state("web", "failed")
        assert harness.path("web") == ["waiting", "starting", "failed"]
        assert "cannot give password" in harness.supervisor.status_of("web").reason


async def test_limits_mask_niceness_directory_and_environment_are_its_own(tmp_path: Path) -> None:
    async with supervised() as harness:
        execution = Execution(limits={"nofile": 77, "core": 0}, umask=0o027, nice=5, oom_score=321, processors=[0])
        script = (
            "ulimit -n; ulimit -c; umask; nice; cat /proc/self/oom_score_adj; nproc; pwd; echo $WORD-$NOTIFY_SOCKET-$LISTEN_FDS"
        )
        said = await says(harness, script, execution=execution, working_directory=str(tmp_path), environment={"WORD": "a b"})
        assert said == ["77", "0", "0027", "5", "321", "1", str(tmp_path), "a b--"]


async def test_the_default_filter_refuses_what_it_says_and_is_not_there_unasked() -> None:
    async with supervised() as harness:
        script = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; mount -t tmpfs none /tmp 2>/dev/null || echo refused"
        said = await says(harness, script, execution=Execution(seccomp="default"))
        assert said == ["NoNewPrivs:\t1", "Seccomp:\t2", "refused"]
        script = "grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status"
        said = await says(
            harness, script, name="bare", execution=Execution(no_new_privileges=False, capabilities=["net_admin"])
        )
        assert said == ["CapEff:\t0000000000001000", "NoNewPrivs:\t0", "Seccomp:\t0"]


async def test_what_a_start_needs_of_the_moment_is_worked_out_at_each() -> None:
    async with supervised() as harness:
        fields = {"type": "oneshot", "readiness": ReadyByExit(), "restart": ONCE}
        user = int((await says(harness, "id -u", name="a", execution=Execution(dynamic_user=True)))[0])
        harness.add_direct(shell("other", "exec sleep 1000", execution=Execution(account=str(user))))
        harness.add_direct(shell("filtered", "echo filtered", execution=Execution(seccomp="default"), **fields))
        harness.supervisor.start("filtered")
        await harness.line("filtered", "filtered")
        await harness.supervisor.stop("a")
        await harness.supervisor.stop("filtered")
        (harness.runtime / "seccomp-default.bpf").unlink()
        harness.supervisor.start("other")
        await harness.supervisor.wait_state("other", "started")
        harness.supervisor.start("a", "filtered")
        with trio.fail_after(10):
            while len(harness.lines("a")) < 2 or len(harness.lines("filtered")) < 2:
                await trio.lowlevel.checkpoint()
        assert int(harness.lines("a")[1]) != user, "that user was taken"


async def test_its_process_has_nothing_open_but_what_it_is_given() -> None:
    async with supervised() as harness:
        said = await says(harness, "ls /proc/self/fd | tr '\\n' ' '; echo; readlink /proc/self/fd/0")
        assert said[0].split() in (["0", "1", "2", "3"], ["0", "1", "2"]), "ls itself opens one"
        assert said[1] == "/dev/null"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"execution": Execution(nice=5)}, "does not support `execution`"),
        ({"stored_descriptors": 1}, "passes no other descriptors"),
        ({"readiness": ReadyByDescriptor(descriptor=5)}, "passes no other descriptors"),
        ({"health": Health(probe=HttpProbe(port=80))}, "makes no HTTP requests"),
        ({"readiness": ReadyByProbe(probe=HttpProbe(port=80))}, "makes no HTTP requests"),
        ({"health": Health(probe=ExecProbe(command=["/bin/true"]))}, "runs no commands beside it"),
        ({"reload": Reload(command=["/bin/true"])}, "runs no commands beside it"),
        ({"stop": Stop(command=["/bin/true"])}, "runs no commands beside it"),
    ],
)
async def test_what_its_starter_cannot_give_is_refused(fields: dict[str, Any], why: str) -> None:
    async with supervised() as harness:
        with pytest.raises(RefusedError, match=why):
            harness.add(Service(name="web", command=["/bin/true"], **fields))
        assert harness.supervisor.names() == []
