"""What is deployed on the booted machine, by its status; and deploying the layers of a test."""

from pathlib import Path
from typing import Any

from demo import run as demo


def deploy(spec: Path, layer: str, name: str) -> list[str]:
    """Build and sign the layers of *spec* and deploy only *layer*, as *name*; return the layers' names."""
    layers = demo.build_layers(spec, demo.LAYERS)
    demo.sign_layers(layers)
    remove_all()
    demo.deploy(layers[layer], layers, name)
    return list(layers)


def remove_all() -> None:
    """Remove every deployment of the machine, signed by two persons; return when none is left."""
    keys = ("--key", demo.KEYS / "alice.key", "--key", demo.KEYS / "bob.key")
    for name in [deployment["name"] for deployment in demo.status()["deployments"]]:
        demo.milkyway("fleet", "remove", name, "--from", demo.MACHINE, *keys, "--yes")
    demo.wait_until("nothing deployed", lambda: not demo.status()["deployments"], 60)


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
    """Return the deployment *name*; an empty one if there is none."""
    found = demo.status()["deployments"]
    return next((deployment for deployment in found if deployment["name"] == name), {"state": "", "services": []})


def service(name: str) -> dict[str, Any]:
    """Return the service *name* (DEPLOYMENT/SERVICE) of a deployment; an empty one if there is none."""
    found = deployment(name.partition("/")[0])["services"]
    return next((service for service in found if service["name"] == name), {"state": "", "reason": "", "pid": 0})
