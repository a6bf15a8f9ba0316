"""What goes wrong on a running machine, which survives it: damaged layers, a full disk, power cuts, no control server."""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from demo import run as demo
from milkyway_coreos.vm.machine import VirtualMachine
from tests.vm.deployed import remove_all

pytestmark = pytest.mark.vm

BOTH = ("--key", demo.KEYS / "alice.key", "--key", demo.KEYS / "bob.key", "--yes")


@pytest.fixture
def web(chain: demo.Chain) -> Iterator[dict[str, Any]]:
    """The deployment web, up; removed again afterwards."""
    if not _deployment("web"):
        demo.deploy(chain.layers["nginx"], chain.layers, "web")
    yield demo.wait_until("web", lambda: _deployment("web", "active"), 120)
    with contextlib.suppress(demo.DemoFailedError):
        demo.milkyway("fleet", "remove", "web", "--from", demo.MACHINE, *BOTH)
        demo.wait_until("its removal", lambda: not _deployment("web"), 60)


def _deployment(name: str, state: str = "") -> dict[str, Any] | None:
    """Return deployment *name*, if it exists (and is in *state*); also None while the machine is not up."""
    try:
        found: list[dict[str, Any]] = demo.status()["deployments"]
    except demo.DemoFailedError:
        return None
    return next(
        (deployment for deployment in found if deployment["name"] == name and state in ("", deployment["state"])),
        None,
    )


def _serves(chain: demo.Chain) -> bool:
    return bool(demo.wait_until("the page", lambda: demo.page(chain.web_port), 120))


def _note(chain: demo.Chain, text: bytes | None = None) -> bytes:
    """Put a note to the deployment's data (or get it)."""
    address = f"http://127.0.0.1:{chain.web_port}/notes/first"
    request = urllib.request.Request(address, data=text, method="PUT" if text is not None else "GET")
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: bytes = answer.read()
        return found


def _installed(web: dict[str, Any], path: str) -> str:
    """Return the installed file of the deployment's layer *path*, by the name that its mount has."""
    device = next(layer for layer in web["layers"] if layer["path"] == path)["verity_device"]
    name = demo.in_machine("cat", f"/sys/class/block/{device.removeprefix('/dev/')}/dm/name").strip()
    return demo.in_machine("sh", "-c", f"ls /data/agent/layers/{name.removeprefix('layer-')}*").strip()


def test_data_outlives_restart_reboot_and_removal_but_not_its_name(chain: demo.Chain, web: dict[str, Any]) -> None:
    assert _serves(chain)
    _note(chain, b"kept")
    demo.in_machine("mwctl", "restart", "web/nginx")
    assert _note(chain) == b"kept"
    source = demo.in_machine("sh", "-c", "ls /data/secure | head -1").strip()
    assert source.startswith("web_notes_")
    # Not even root at the development console, who reads nearly everything, can look inside.
    assert "Permission denied" in demo.in_machine("sh", "-c", f"ls /data/secure/{source} 2>&1 || true")
    demo.milkyway("fleet", "remove", "web", "--from", demo.MACHINE, *BOTH)
    demo.wait_until("its removal", lambda: not _deployment("web"), 60)
    assert source in demo.in_machine("ls", "/data/secure").split()
    demo.deploy(chain.layers["nginx"], chain.layers, "web")  # the same name, and data of its own
    demo.wait_until("web", lambda: _deployment("web", "active"), 120)
    assert _serves(chain)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        _note(chain)


def test_a_block_damaged_later_fails_to_read_and_the_machine_lives(chain: demo.Chain, web: dict[str, Any]) -> None:
    assert _serves(chain)
    file = _installed(web, "example/web-libraries")
    stack = f"/run/milkyway/stacks/{web['id']}.v{web['generation']}"
    # Every block of the image except the first: some were read already; damage to the others shows when they are read.
    demo.in_machine("sh", "-c", f"dd if=/dev/urandom of={file} bs=4096 seek=1 count=900 conv=notrunc 2>/dev/null; sync")
    said = demo.in_machine("sh", "-c", f"find {stack}/usr/lib -type f -exec cat {{}} + 2>&1 >/dev/null | tail -3; true")
    assert "Input/output error" in said
    status = demo.status()
    assert status["selinux"] == "enforcing"
    started = {service["name"] for service in status["services"] if service["state"] == "started"}
    assert {"dhcp", "verifier", "uplink"} <= started


def test_a_layer_damaged_on_the_disk_is_found_at_boot_and_fetched_anew(chain: demo.Chain, web: dict[str, Any]) -> None:
    file = _installed(web, "example/nginx")
    script = f"printf '\\377' | dd of={file} bs=1 seek=1024 conv=notrunc 2>/dev/null; sync"
    demo.in_machine("sh", "-c", script)
    demo.in_machine("mwctl", "reboot")
    demo.wait_until("the reboot", lambda: "shutdown finished" in _machine().console(), 60)
    assert _serves(chain)
    assert "a block of its image does not match its root hash" in _machine().console()


def test_without_a_control_server_deployments_go_on_also_through_a_reboot(chain: demo.Chain, web: dict[str, Any]) -> None:
    chain.server.stop()
    try:
        demo.wait_until("the loss", lambda: demo.status()["connected"] is False, 120)
        assert _serves(chain)
        demo.stop_machine()
        demo.boot(chain.web_port)
        assert _serves(chain)
        assert demo.status()["connected"] is not True
    finally:
        chain.server.start()
    demo.wait_until("the connection", lambda: demo.status()["connected"], 120)


def test_a_full_disk_refuses_an_installation_and_takes_it_when_there_is_room(chain: demo.Chain, web: dict[str, Any]) -> None:
    remove_all()
    # All but 20 MiB: the layers would fit, but then the agent could not persist what it needs to go on.
    with _filled("$(($(df -m /data | tail -1 | awk '{print $4}') - 20))"):
        demo.deploy(chain.layers["nginx"], chain.layers, "web")
        failed = demo.wait_until("the refusal", lambda: _deployment("web", "failed"), 120)
        assert "no space for its" in failed["reason"]
        assert demo.in_machine("ls", "/data/agent/staging").strip() == ""
    demo.wait_until("the installation", lambda: _deployment("web", "active"), 180)
    assert _serves(chain)


def test_an_order_that_a_full_disk_can_not_keep_is_not_done_and_not_lost(chain: demo.Chain, web: dict[str, Any]) -> None:
    """Whether the last few bytes fit depends on the file system: the order is kept and carried out, or neither."""
    version = demo.status()["desired_version"]
    with _filled("100000"):
        demo.milkyway("fleet", "remove", "web", "--from", demo.MACHINE, *BOTH)
        demo.wait_until("the order", lambda: _refused_for_space() or not _deployment("web"), 120)
        if _refused_for_space():
            assert demo.status()["desired_version"] == version
            assert _serves(chain)
    demo.wait_until("its removal", lambda: not _deployment("web"), 240)  # the uplink asks again less and less often


def _refused_for_space() -> bool:
    return any("No space left on device" in refusal for refusal in demo.status()["refusals"])


@contextlib.contextmanager
def _filled(mebibytes: str) -> Iterator[None]:
    """Fill the data disk with this many MiB (a shell expression), or as many as fit; free them afterwards."""
    file = "/data/agent/layers/filling"
    demo.in_machine("sh", "-c", f"dd if=/dev/zero of={file} bs=1M count={mebibytes} 2>/dev/null; sync; true")
    try:
        yield
    finally:
        demo.in_machine("rm", file)


def test_a_power_cut_during_an_installation_leaves_old_or_new(chain: demo.Chain, web: dict[str, Any]) -> None:
    remove_all()
    version = demo.status()["desired_version"] + 1
    demo.deploy(chain.layers["nginx"], chain.layers, "web")
    _machine().wait_for_console(f"desired admitted: version={version} ", 60)
    _machine().kill()
    demo.boot(chain.web_port)
    assert demo.status()["quarantined"] == ""
    demo.wait_until("web", lambda: _deployment("web", "active"), 180)
    assert _serves(chain)


def _machine() -> VirtualMachine:
    return VirtualMachine(demo.MACHINE)
