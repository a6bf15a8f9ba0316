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


async def says(one: Supervised, script: str, *, name: str = "web", **fields: Any) -> list[str]:
    """Run a oneshot to its end and return its lines."""
    one.add_direct(shell(name, script, type="oneshot", readiness=ReadyByExit(), restart=ONCE, **fields))
    one.supervisor.start(name)
    state = await one.supervisor.wait_state(name, "started", "failed")
    assert state == "started", (one.supervisor.status_of(name).reason, one.lines(name))
    with trio.fail_after(10):
        while (kept := one.kept(name)) is None or kept.streams:
            await trio.lowlevel.checkpoint()
    return one.lines(name)


async def test_it_runs_as_its_account_with_that_ones_groups_and_no_others() -> None:
    async with supervised() as one:
        assert await says(one, "id -u; id -g; id -G", execution=Execution(account="nobody")) == ["65534"] * 3
        assert await says(one, "id -u; id -g", name="number", execution=Execution(account="4711")) == ["4711"] * 2


async def test_dynamic_users_are_each_ones_own_and_given_back() -> None:
    async with supervised() as one:
        for name in ("a", "b"):
            one.add_direct(shell(name, "id -u; exec sleep 1000", execution=Execution(dynamic_user=True)))
        one.supervisor.start("a", "b")
        with trio.fail_after(10):
            while not (one.lines("a") and one.lines("b")):
                await trio.lowlevel.checkpoint()
        users = {int(one.lines(name)[0]) for name in ("a", "b")}
        assert len(users) == 2 and users <= set(DYNAMIC)
        await one.supervisor.stop("a")
        one.supervisor.start("a")
        with trio.fail_after(10):
            while len(one.lines("a")) < 2:
                await trio.lowlevel.checkpoint()
        assert one.lines("a")[0] == one.lines("a")[1]


async def test_secrets_are_files_for_it_alone_and_gone_with_it(tmp_path: Path) -> None:
    async with supervised() as one:
        (tmp_path / "source").write_text("hunter2")
        execution = Execution(account="4711", credentials=[Credential(name="password", source=str(tmp_path / "source"))])
        command = ["/bin/sh", "-c", f"cat $CREDENTIALS_DIRECTORY/password >{one.runtime}/reloading"]
        script = (
            "stat -c '%u %a' $CREDENTIALS_DIRECTORY/password; cat $CREDENTIALS_DIRECTORY/password; echo; env; exec sleep 1000"
        )
        service = shell("web", script, execution=execution, reload=Reload(command=command))
        one.add_direct(service)
        one.supervisor.start("web")
        place = one.runtime / "credentials/web"
        await one.line("web", f"CREDENTIALS_DIRECTORY={place}")
        assert one.lines("web")[:2] == ["4711 400", "hunter2"]
        assert not [line for line in one.lines("web")[2:] if "hunter2" in line], "never in the environment"
        with heard_through(one.runtime / "reloading") as heard:
            await one.supervisor.wait_state("web", "started")
            await one.supervisor.reload("web")
            assert await heard() == "hunter2", "its commands have them too"
        await one.supervisor.stop("web")
        assert not place.exists()
        assert one.path("web")[:3] == UP


async def test_a_secret_that_is_missing_starts_nothing_and_says_which(tmp_path: Path) -> None:
    async with supervised() as one:
        execution = Execution(credentials=[Credential(name="password", source=str(tmp_path / "missing"))])
        one.add_direct(shell("web", "exec sleep 1000", execution=execution, restart=ONCE))
        one.supervisor.start("web")
        await one.supervisor.wait_state("web", "failed")
        assert one.path("web") == ["waiting", "starting", "failed"]
        assert "cannot give password" in one.supervisor.status_of("web").reason


async def test_limits_mask_niceness_directory_and_environment_are_its_own(tmp_path: Path) -> None:
    async with supervised() as one:
        execution = Execution(limits={"nofile": 77, "core": 0}, umask=0o027, nice=5, oom_score=321, processors=[0])
        script = (
            "ulimit -n; ulimit -c; umask; nice; cat /proc/self/oom_score_adj; nproc; pwd; echo $WORD-$NOTIFY_SOCKET-$LISTEN_FDS"
        )
        said = await says(one, script, execution=execution, working_directory=str(tmp_path), environment={"WORD": "a b"})
        assert said == ["77", "0", "0027", "5", "321", "1", str(tmp_path), "a b--"]


async def test_the_default_filter_refuses_what_it_says_and_is_not_there_unasked() -> None:
    async with supervised() as one:
        script = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; mount -t tmpfs none /tmp 2>/dev/null || echo refused"
        said = await says(one, script, execution=Execution(seccomp="default"))
        assert said == ["NoNewPrivs:\t1", "Seccomp:\t2", "refused"]
        script = "grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status"
        said = await says(one, script, name="bare", execution=Execution(no_new_privileges=False, capabilities=["net_admin"]))
        assert said == ["CapEff:\t0000000000001000", "NoNewPrivs:\t0", "Seccomp:\t0"]


async def test_what_a_start_needs_of_the_moment_is_worked_out_at_each() -> None:
    async with supervised() as one:
        fields = {"type": "oneshot", "readiness": ReadyByExit(), "restart": ONCE}
        user = int((await says(one, "id -u", name="a", execution=Execution(dynamic_user=True)))[0])
        one.add_direct(shell("other", "exec sleep 1000", execution=Execution(account=str(user))))
        one.add_direct(shell("filtered", "echo filtered", execution=Execution(seccomp="default"), **fields))
        one.supervisor.start("filtered")
        await one.line("filtered", "filtered")
        await one.supervisor.stop("a")
        await one.supervisor.stop("filtered")
        (one.runtime / "seccomp-default.bpf").unlink()
        one.supervisor.start("other")
        await one.supervisor.wait_state("other", "started")
        one.supervisor.start("a", "filtered")
        with trio.fail_after(10):
            while len(one.lines("a")) < 2 or len(one.lines("filtered")) < 2:
                await trio.lowlevel.checkpoint()
        assert int(one.lines("a")[1]) != user, "somebody else runs as that one"


async def test_its_process_has_nothing_open_but_what_it_is_given() -> None:
    async with supervised() as one:
        said = await says(one, "ls /proc/self/fd | tr '\\n' ' '; echo; readlink /proc/self/fd/0")
        assert said[0].split() in (["0", "1", "2", "3"], ["0", "1", "2"]), "ls itself opens one"
        assert said[1] == "/dev/null"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"execution": Execution(nice=5)}, "does not read execution"),
        ({"stored_descriptors": 1}, "passes no further descriptors"),
        ({"readiness": ReadyByDescriptor(descriptor=5)}, "passes no further descriptors"),
        ({"health": Health(probe=HttpProbe(port=80))}, "asks nobody over the network"),
        ({"readiness": ReadyByProbe(probe=HttpProbe(port=80))}, "asks nobody over the network"),
        ({"health": Health(probe=ExecProbe(command=["/bin/true"]))}, "runs no commands beside it"),
        ({"reload": Reload(command=["/bin/true"])}, "runs no commands beside it"),
        ({"stop": Stop(command=["/bin/true"])}, "runs no commands beside it"),
    ],
)
async def test_what_its_starter_cannot_give_is_refused(fields: dict[str, Any], why: str) -> None:
    async with supervised() as one:
        with pytest.raises(RefusedError, match=why):
            one.add(Service(name="web", command=["/bin/true"], **fields))
        assert one.supervisor.names() == []
