"""The whole chain on a booted machine: status, domains of processes, refusals, what a removal leaves."""

import json
from typing import Any

import pytest

from demo import run as demo
from tests.vm.deployed import remove_all

pytestmark = pytest.mark.vm

# Programs of the agent and of CoreOS, by the name that the kernel shows, and the only domain that each may be in.
DOMAINS = {
    "init": "agent_t",
    "verifier": "verifier_t",
    "uplink": "uplink_t",
    "front": "front_t",
    "busybox": "dhcp_t",
    "udhcpc": "dhcp_t",
}


def _web(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(deployment for deployment in status["deployments"] if deployment["name"] == "web")
    return found


def _type_of(context: str) -> str:
    return context.split(":")[2]


def test_the_host_gets_the_page_that_nginx_serves_in_the_machine(chain: demo.Chain) -> None:
    assert "<h1>MilkyWay</h1>" in chain.page


def test_status_describes_the_machine_as_it_is(chain: demo.Chain) -> None:
    status = demo.status()
    built = json.loads((demo.BUILD / "coreos/coreos.json").read_text())
    assert status["slot"] is None
    assert status["root_hash"] == built["root_hash"]
    assert status["selinux"] == "enforcing"
    assert status["development"] is True
    assert status["boot_failures"] == []
    assert _web(status)["state"] == "active"
    assert all(process["context"] for process in status["processes"])


def test_only_pid_1_is_in_the_agents_domain_and_nobody_in_the_kernels(chain: demo.Chain) -> None:
    processes = demo.status()["processes"]
    assert [process["pid"] for process in processes if _type_of(process["context"]) == "agent_t"] == [1]
    transient = ("kernel_t", "unlabeled_t", "launch_t", "launcher_t")
    assert [process for process in processes if _type_of(process["context"]) in transient] == []


def test_every_process_is_in_the_domain_made_for_it(chain: demo.Chain) -> None:
    status = demo.status()
    found = {process["name"]: _type_of(process["context"]) for process in status["processes"]}
    for name, domain in DOMAINS.items():
        assert found.get(name, domain) == domain
    assert {"init", "verifier", "uplink", "nginx"} <= set(found)
    assert found["nginx"] == f"{_web(status)['id']}.v{_web(status)['generation']}.process"


def test_the_first_service_runs_before_the_rest_of_the_agent_is_imported(chain: demo.Chain) -> None:
    status = demo.status()
    pid = next(service["pid"] for service in status["services"] if service["name"] == "dhcp")
    # proc_pid_stat(5): starttime in ticks of a hundredth since the kernel's start; /proc/PID/stat, less "PID (name) "
    ticks = int(demo.in_machine("cat", f"/proc/{pid}/stat").rpartition(") ")[2].split()[19])
    assert ticks * 10 < status["boot_ms"]["filesystems"], "the first phase for which the supervisor exists"
    assert status["boot_ms"]["selinux"] < status["boot_ms"]["filesystems"]


def test_pid_1_takes_no_more_memory_than_it_may(chain: demo.Chain) -> None:
    assert next(process["pss_bytes"] for process in demo.status()["processes"] if process["pid"] == 1) <= 32 << 20


def test_each_layer_has_a_verity_device_of_its_own(chain: demo.Chain) -> None:
    layers = _web(demo.status())["layers"]
    assert [layer["path"] for layer in layers] == ["example/nginx", "example/web-libraries"]
    assert len({layer["verity_device"] for layer in layers}) == 2


def test_nobody_can_leave_enforcing_mode(chain: demo.Chain) -> None:
    said = demo.in_machine("sh", "-c", "echo 0 2>&1 > /sys/fs/selinux/enforce; cat /sys/fs/selinux/enforce")
    assert said.strip().endswith("1")


def test_no_module_is_loaded_after_the_boot(chain: demo.Chain) -> None:
    assert demo.in_machine("cat", "/proc/sys/kernel/modules_disabled").strip() == "1"


def test_nothing_that_can_be_written_can_be_executed(chain: demo.Chain) -> None:
    for place in ("/tmp", "/run"):
        script = f"cp /usr/bin/true {place}/copy && chmod 755 {place}/copy && {place}/copy; echo code $?; rm -f {place}/copy"
        said = demo.in_machine("sh", "-c", script)
        assert "code 126" in said, place


def test_the_agents_memory_is_hidden_from_a_deployment(chain: demo.Chain) -> None:
    """nginx' own mount namespace has no /run/milkyway and its /proc shows only its own processes."""
    pid = next(process["pid"] for process in demo.status()["processes"] if process["name"] == "nginx")
    assert (
        demo.in_machine("sh", "-c", f"ls /proc/{pid}/root/run/milkyway 2>&1 || true")
        .strip()
        .endswith("No such file or directory")
    )
    assert demo.in_machine("sh", "-c", f"grep NSpid /proc/{pid}/status").split()[-1] == "1"


def test_a_signed_command_restarts_the_service_once(chain: demo.Chain) -> None:
    def pid() -> int:
        found: int = _web(demo.status())["services"][0]["pid"]
        return found

    before = pid()
    demo.milkyway("fleet", "restart", demo.MACHINE, "web/nginx", "--key", demo.KEYS / "alice.key")
    demo.wait_until("a new process", lambda: pid() not in (0, before), 60)
    demo.wait_until("the page again", lambda: demo.page(chain.web_port), 60)


def test_a_forged_document_and_a_tampered_layer_are_refused(chain: demo.Chain) -> None:
    document, layer = demo.forge(chain.layers)
    assert "cannot verify signature by key" in document
    assert "cannot accept layer: its SHA-256 is" in layer
    status = demo.status()
    assert _web(status)["state"] == "active"
    (tampered,) = (deployment for deployment in status["deployments"] if deployment["name"] == "tampered")
    assert tampered["state"] == "failed"
    assert tampered["services"] == []


def test_a_removed_deployment_leaves_nothing_behind(chain: demo.Chain) -> None:
    remove_all()
    places = "/run/milkyway/layers /run/milkyway/stacks /run/milkyway/bundles /run/milkyway/crun /data/agent/layers"
    # crun keeps the compiled seccomp profile, which is the same for all deployments.
    found = demo.in_machine("find", *places.split(), "-mindepth", "1", "-not", "-path", "*/crun/.cache*")
    assert found.strip() == ""
    assert demo.in_machine("find", "/sys/fs/cgroup/deployments", "-mindepth", "1", "-type", "d").strip() == ""
    assert demo.in_machine("sh", "-c", "ls /sys/class/block | grep -c ^dm- || true").strip() == "2"  # CoreOS and data
    assert [process for process in demo.status()["processes"] if process["name"] == "nginx"] == []
