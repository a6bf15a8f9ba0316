"""The launcher's arguments, and the user as which a service without an account runs."""

import pytest

from milkyway_agent.early.launcher import encoded, request
from milkyway_agent.launching.accounts import DYNAMIC, DynamicUsers
from milkyway_agent.launching.arguments import CAPABILITIES, arguments_of, capability_mask
from milkyway_formats.errors import UnavailableError


def test_a_plain_command_gains_nothing() -> None:
    assert arguments_of(["/bin/true", "-x"]) == ["--no-new-privs", "--", "/bin/true", "-x"]


def test_every_value_has_its_arguments() -> None:
    arguments = arguments_of(
        ["/bin/web"],
        cgroup="/cg",
        make_cgroup=True,
        cgroup_files={"pids.max": "9"},
        cgroup_files_if_there={"io.weight": "5"},
        user=33,
        groups=[33, 4],
        capabilities=["net_bind_service"],
        no_new_privileges=False,
        seccomp="/run/default",
        namespaces=["ipc", "pid"],
        umask=0o27,
        nice=-3,
        oom_score=0,
        processors=[0, 2],
        limits={"core": 0, "nofile": 1 << 40},
        listen_pid=True,
    )
    assert arguments == [
        "--cgroup", "/cg", "--cgroup-make", "--cgroup-set", "pids.max=9", "--cgroup-try", "io.weight=5",
        "--user", "33:33,4", "--keep-caps", "0x400", "--seccomp", "/run/default", "--rlimit", "core=0",
        "--rlimit", "nofile=1099511627776", "--umask", "027", "--nice", "-3", "--oom-score-adj", "0", "--cpus", "0,2",
        "--ipc-private", "--pid-private", "--listen-pid", "--", "/bin/web",
    ]  # fmt: skip


def test_root_can_be_requested_by_number() -> None:
    assert arguments_of(["/x"], user=0)[:2] == ["--user", "0:0"]


def test_capabilities_are_those_of_the_kernel_by_number() -> None:
    assert len(CAPABILITIES) == 41
    assert capability_mask(["chown", "net_admin", "checkpoint_restore"]) == 1 << 0 | 1 << 12 | 1 << 40
    with pytest.raises(ValueError, match="cannot keep capability fly: there is none of that name"):
        capability_mask(["fly"])


def test_encoded_arguments_make_the_same_request() -> None:
    arguments = ["--umask", "022", "--", "/x", "", "\udcff"]
    assert request(7, encoded(arguments), [1, 2]) == request(7, arguments, [1, 2])
    for wrong in ("a\0", "\0"):
        with pytest.raises(OSError, match="NUL"):
            encoded(["a", wrong])


def test_a_request_is_a_head_and_arguments_none_of_which_holds_a_nul() -> None:
    assert request(1, ["--", "/x"], [3]).endswith(b"--\0/x\0")
    assert len(request(1, ["--", "/x"], [3])) == 12 + 6
    for wrong in ((["a\0"], [1]), (["a"], [256]), (["a"], [-1])):
        with pytest.raises(OSError, match="NUL"):
            request(1, *wrong)


def test_a_service_keeps_its_user_and_no_two_services_have_the_same() -> None:
    users = DynamicUsers()
    held = {name: users.hold(name, ()) for name in map(str, range(500))}
    assert len({account.user for account in held.values()}) == 500
    assert all(account.user in DYNAMIC and account.groups == (account.user,) for account in held.values())
    assert users.hold("7", ()) == held["7"]
    users.release("7")
    users.release("7")
    assert users.hold("7", ()) == held["7"]  # still free, so it is the same again
    assert DynamicUsers(users.held).hold("7", ()) == held["7"]


def test_an_id_in_use_is_skipped_and_without_a_free_one_it_is_an_error() -> None:
    first = DynamicUsers().hold("web", ()).user
    second = DynamicUsers().hold("web", {first}).user
    assert second != first
    assert DynamicUsers().hold("web", set(DYNAMIC) - {DYNAMIC[9]}).user == DYNAMIC[9]
    with pytest.raises(UnavailableError, match="cannot give web a user: all of 61184 to 65519 are taken"):
        DynamicUsers().hold("web", DYNAMIC)
