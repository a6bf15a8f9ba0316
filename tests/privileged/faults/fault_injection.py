"""Functions of ``milkyway_agent.system`` that fail, and stand-ins for hardware that is not there.

For ``faulty_agent`` only, whose process exists for one fault: tests must not use this.
"""

import errno
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from milkyway_agent.system import mounts


def find(function: str) -> tuple[Any, str]:
    """Return the module and the name of *function* ("cgroups.kill")."""
    module, _, name = function.partition(".")
    return import_module(f"milkyway_agent.system.{module}"), name


class Fault:
    """A function that fails: "always", "once" (the first call), or from the "third" call on."""

    def __init__(self, function: str, number: int, mode: str) -> None:
        self.calls = self.failures = 0
        self._number = number
        self._mode = mode
        self._module, self._name = find(function)
        self._real = getattr(self._module, self._name)
        setattr(self._module, self._name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if {"always": True, "once": self.calls == 1, "third": self.calls >= 3}[self._mode]:
            self.failures += 1
            raise OSError(self._number, os.strerror(self._number), "injected")
        return self._real(*arguments, **named)

    def lift(self) -> None:
        """Let the function work again."""
        setattr(self._module, self._name, self._real)


def stand_in(function: str, answer: Callable[..., Any]) -> None:
    module, name = find(function)
    setattr(module, name, answer)


def _label_of(path: str) -> str:
    """Return the label of *path*: with SELinux every file has one, here only labelled files."""
    try:
        return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()
    except OSError as error:
        if error.errno == errno.ENODATA:
            return ""
        raise


_real_mount = mounts.mount


def _mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount what this kernel has; for a disk and SELinux, something is mounted already (``fault_world``)."""
    if fstype not in ("erofs", "btrfs", "selinuxfs"):
        _real_mount(source, target, fstype, flags, data)


def _mount_no_image(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount what this kernel has; the images of layers are damaged."""
    if target.startswith("/run/milkyway/layers/"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), target)
    _mount(source, target, fstype, flags, data)


STAND_INS: dict[str, dict[str, Callable[..., Any]]] = {
    "labels": {
        "selinux.getfilecon": _label_of,
        "selinux.setfscreatecon": lambda _: None,
        "selinux.setsockcreatecon": lambda _: None,
    },
    "disks": {"mounts.mount": _mount},
    "watchdog": {
        "watchdog.set_timeout": lambda _, seconds: 3 if seconds else 0,  # fed every second
        "watchdog.keepalive": lambda _: None,
    },
    "no_image": {"mounts.mount": _mount_no_image},
    "controllers": {
        "cgroups.controllers": lambda _: ["memory", "pids", "cpu"],
        "cgroups.set_memory_max": lambda *_: None,
        "cgroups.set_pids_max": lambda *_: None,
        "cgroups.set_cpu_weight": lambda *_: None,
        "cgroups.enable": lambda *_: None,
    },
    "layers": {
        "verity.status": lambda _: None,
        "verity.create": lambda _: None,
        "verity.load": lambda *_: None,
        "verity.resume": lambda _: "/dev/dm-0",
        "verity.remove": lambda *_, **__: None,
        "loop.get_free": lambda: 0,
        "loop.configure": lambda *_: ("/dev/loop0", os.open("/dev/null", os.O_RDONLY)),
    },
}
