"""What is deployed on the booted machine, as its status shows it; and deploying what a test brings along."""

from pathlib import Path
from typing import Any

from demo import run as demo


def deploy(spec: Path, layer: str, name: str) -> list[str]:
    """Build and sign the layers of *spec* and deploy *layer* of them as *name*, alone; return their paths."""
    layers = demo.build_layers(spec, demo.LAYERS)
    demo.sign_layers(layers)
    demo.remove_all()
    demo.deploy(layers[layer], layers, name)
    return list(layers)


def reboot() -> None:
    """Reboot the machine and wait until its next boot is over."""
    before = demo.in_machine("cat", "/proc/sys/kernel/random/boot_id")
    demo.in_machine("mwctl", "reboot")
    demo.wait_until("the next boot", lambda: _has_booted_since(before), 240)


def _has_booted_since(before: str) -> bool:
    try:
        return demo.in_machine("cat", "/proc/sys/kernel/random/boot_id") != before and "ready" in demo.status()["boot_ms"]
    except demo.DemoFailedError:
        return False


def deployment(name: str) -> dict[str, Any]:
    """Return the deployment *name*; nothing is in it when there is none."""
    return next((one for one in demo.status()["deployments"] if one["name"] == name), {"state": "", "services": []})


def service(name: str) -> dict[str, Any]:
    """Return the service *name* (DEPLOYMENT/SERVICE) of a deployment; nothing is known of one that is not there."""
    found = deployment(name.partition("/")[0])["services"]
    return next((one for one in found if one["name"] == name), {"state": "", "reason": "", "pid": 0})
