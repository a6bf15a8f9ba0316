"""The same program on its own OS base: it serves, and CoreOS is not below it."""

import pytest

from demo import run as demo
from tests.vm.deployed import deploy, remove_all

pytestmark = pytest.mark.vm


def test_sealed_nginx_serves_and_sees_nothing_of_coreos(chain: demo.Chain) -> None:
    layers = deploy(demo.ROOT / "examples/nginx/image-sealed.yaml", "nginx-sealed", "sealed")
    assert "<h1>MilkyWay</h1>" in demo.wait_until("the page", lambda: demo.page(chain.web_port), 180)
    (sealed,) = demo.status()["deployments"]
    assert [layer["path"].split("/")[-1] for layer in sealed["layers"]] == layers
    pid = sealed["services"][0]["pid"]
    assert demo.in_machine("cat", f"/proc/{pid}/attr/current").strip("\0\n").startswith(f"u:r:{sealed['id']}.v1.")
    # The agent's directory is CoreOS's; the OS base is Debian's and has none.
    assert demo.in_machine("sh", "-c", f"ls /proc/{pid}/root/usr/lib/milkyway 2>&1 || true").endswith(
        "No such file or directory\n"
    )
    remove_all()
