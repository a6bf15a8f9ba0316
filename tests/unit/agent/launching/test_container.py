"""A layer's service gets what its deployment was granted, and nothing else."""

from typing import Any

import pytest

from milkyway_agent.core.uid_range import first_uid
from milkyway_agent.launching import seccomp
from milkyway_agent.launching.oci_config import Host, configuration
from milkyway_formats.deployment import DataBinding, Deployment
from milkyway_formats.execution import Execution
from milkyway_formats.grants import Connect, Grant, HoldCapability, Listen, UseData
from milkyway_formats.manifest import DataWanted
from milkyway_formats.service import Limits, Scratch, Service
from tests.fakes.manifests import manifest_of, pin_of

HOST = Host(frozenset({"memory", "pids", "cpu"}), selinux=True)
SERVICE = Service(
    name="nginx",
    command=["/usr/sbin/nginx", "-g", "daemon off;"],
    user=33,
    environment={"TZ": "UTC"},
    limits=Limits(memory_bytes=1 << 26, pids=50),
    scratch=[Scratch(path="/var/cache", size_bytes=4096, inodes=7)],
)
MANIFEST = manifest_of("example/nginx", data=[DataWanted(name="pages", path="/srv/pages")])


def config(*grants: Grant, host: Host = HOST, notify: str | None = None) -> dict[str, Any]:
    deployment = Deployment(
        id="web_1a",
        name="web",
        generation=2,
        stack=[pin_of("example/nginx")],
        grants=list(grants),
        data=[DataBinding(name="pages", source="pages_9", data_class="common")],
    )
    return configuration(SERVICE, deployment, MANIFEST, host, notify=notify)


def namespaces(found: dict[str, Any]) -> set[str]:
    return {namespace["type"] for namespace in found["linux"]["namespaces"]}


def mounts(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["destination"]: mount for mount in found["mounts"]}


def test_it_runs_in_its_own_domain_on_its_own_read_only_stack() -> None:
    found = config()
    assert found["process"]["selinuxLabel"] == "u:r:web_1a.v2.process:s0"
    assert found["root"] == {"path": "/run/milkyway/stacks/web_1a.v2", "readonly": True}
    assert found["linux"]["cgroupsPath"] == "/deployments/web_1a/nginx"
    assert found["process"]["user"]["uid"] == first_uid("web_1a") + 33
    assert found["process"]["noNewPrivileges"] is True


def test_without_grants_it_has_no_capability_no_network_and_no_data() -> None:
    found = config()
    assert {tuple(kept) for kept in found["process"]["capabilities"].values()} == {()}
    assert namespaces(found) == {"pid", "mount", "ipc", "uts", "cgroup", "network"}
    assert set(mounts(found)) == {"/proc", "/dev", "/var/cache"}


@pytest.mark.parametrize("grant", [Listen(protocol="tcp", port=80), Connect(protocol="udp", port=53)])
def test_a_network_grant_shares_the_machines_network_and_gives_nothing_more(grant: Grant) -> None:
    found, without = config(grant), config()
    assert "network" not in namespaces(found)
    found["linux"]["namespaces"] = without["linux"]["namespaces"]
    assert found == without


def test_a_granted_capability_is_held_in_every_set_and_alone() -> None:
    kept = config(HoldCapability(name="net_bind_service"))["process"]["capabilities"]
    assert {tuple(names) for names in kept.values()} == {("CAP_NET_BIND_SERVICE",)}
    assert set(kept) == {"bounding", "effective", "permitted", "inheritable", "ambient"}


@pytest.mark.parametrize(("access", "option"), [("read", "ro"), ("write", "rw")])
def test_data_is_mounted_with_the_access_that_was_granted_and_never_executable(access: str, option: str) -> None:
    grant = UseData(name="pages", access=access)  # type: ignore[arg-type] # one of the two
    mount = mounts(config(grant))["/srv/pages"]
    assert mount["source"] == "/data/common/pages_9"
    assert mount["options"] == ["bind", option, "noexec", "nosuid", "nodev"]


def test_what_it_may_write_is_not_executable_bounded_and_its_own() -> None:
    options = mounts(config())["/var/cache"]["options"]
    user = first_uid("web_1a") + 33
    assert options == [
        "noexec", "nosuid", "nodev", "size=4096", "nr_inodes=7", "mode=0755", f"uid={user}", f"gid={user}",
        'rootcontext="u:object_r:web_1a.v2.scratch:s0"',
    ]  # fmt: skip


def test_no_mount_lets_anything_be_executed_but_the_stack() -> None:
    found = config(UseData(name="pages"), notify="/run/milkyway/notify/web.nginx.sock")
    for mount in found["mounts"]:
        assert {"noexec", "nosuid"} <= set(mount["options"]), mount


def test_limits_are_set_as_far_as_the_machine_has_controllers() -> None:
    assert config()["linux"]["resources"] == {"unified": {"memory.max": str(1 << 26), "pids.max": "50"}}
    assert "resources" not in config(host=Host(frozenset(), selinux=True))["linux"]


def test_an_execution_is_what_a_layer_asked_for_and_no_more_than_usual_without() -> None:
    usual = config()["process"]
    assert (usual["user"]["umask"], usual["rlimits"]) == (0o022, [])
    assert not {"scheduler", "oomScoreAdj"} & set(usual)
    execution = Execution(umask=0o077, nice=5, oom_score=100, processors=[0, 2], limits={"nofile": 4096, "core": 0})
    service = Service(name="held", command=["/bin/held"], execution=execution)
    host = Host(frozenset({"cpuset"}), selinux=True)
    found = configuration(service, Deployment(id="held_1a", name="held", generation=1, stack=[]), MANIFEST, host)
    process = found["process"]
    assert process["user"]["umask"] == 0o077
    assert process["scheduler"] == {"policy": "SCHED_OTHER", "nice": 5}
    assert process["oomScoreAdj"] == 100
    assert process["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    assert found["linux"]["resources"] == {"unified": {"cpuset.cpus": "0,2"}}


def test_without_selinux_no_context_is_asked_for() -> None:
    assert "u:" not in str(config(host=Host(frozenset(), selinux=False)))


def test_the_notify_socket_is_the_only_way_out_and_only_if_the_service_uses_it() -> None:
    assert "NOTIFY_SOCKET" not in str(config())
    found = config(notify="/run/milkyway/notify/web.nginx.sock")
    assert mounts(found)["/dev/milkyway-notify"]["source"] == "/run/milkyway/notify/web.nginx.sock"
    assert "NOTIFY_SOCKET=/dev/milkyway-notify" in found["process"]["env"]


def test_listeners_are_told_to_the_first_process_of_its_namespace_and_only_if_there_are_any() -> None:
    assert "LISTEN_" not in str(config())
    deployment = Deployment(id="web_k3v9", name="web", generation=1, stack=[])
    found = configuration(SERVICE, deployment, MANIFEST, Host(frozenset(), selinux=False), listeners=("web", "admin"))
    assert {"LISTEN_FDS=2", "LISTEN_FDNAMES=web:admin", "LISTEN_PID=1"} <= set(found["process"]["env"])


def test_no_system_call_is_both_allowed_and_forbidden() -> None:
    allowed, forbidden = set(seccomp.ALLOWED), set(seccomp.FORBIDDEN)
    assert not allowed & forbidden
    assert len(allowed) == len(seccomp.ALLOWED)
    assert not {"clone", "clone3", "socket", "mount", "ptrace", "bpf", "unshare", "setns", "io_uring_setup"} & allowed
