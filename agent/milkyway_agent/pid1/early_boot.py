"""The first steps of a server's boot, before anything large is imported: the first service runs while the rest is imported.

These are steps of the boot (``pid1.boot_steps``), in its order; a step that fails is left to the boot, which tries it again
and reports it. The kernel's modules are loaded by a thread meanwhile: they take longer than all else.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import NamedTuple

from milkyway_agent.launching.program import ENVIRONMENT, launch_command, make_group
from milkyway_agent.pid1 import boot_steps
from milkyway_agent.pid1.program_table import FIRST, GROUPS, PROGRAMS
from milkyway_agent.system import kernel, processes, signals

FIRST_MODULES = ("failover", "net_failover", "virtio_net")  # what the first service needs
ORDERS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-Alt-Del: reboot; a request to PID 1 to end: power off
# All that is mapped when PID 1 locks its memory stays in it for ever (``pid1.entry``): of the usual stack, 8 MiB.
STACK_BYTES = 256 * 1024


class FirstService(NamedTuple):
    """The first service: its process, held, and the reading end of its output."""

    pid: int
    pidfd: int
    output: int


class Early:
    """What is done so far: for each phase when (ms since the kernel's start), and warnings; the first service if it runs."""

    def __init__(self) -> None:
        self.done: dict[str, tuple[int, list[str]]] = {}
        self.first_service: FirstService | None = None
        self._modules: list[str] = []
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Do the first steps. Raises nothing."""
        signals.block((signal.SIGCHLD, *ORDERS))  # before there is a thread that could receive them
        steps = {"filesystems": boot_steps.filesystems, "selinux": boot_steps.labels, "cgroups": boot_steps.groups}
        try:
            for name, step in steps.items():
                warnings = step() or []
                self.done[name] = (kernel.boottime_ms(), warnings)
            boot_steps.load(FIRST_MODULES)
            self.first_service = _start(FIRST)
        except Exception as error:  # noqa: BLE001 (the boot tries it again, and reports it)
            print(f"milkyway: the first steps stopped early: {error!r}", flush=True)
        if "selinux" in self.done:
            self._thread = _begin_thread(self._load_modules)

    def kernel_parameters(self) -> list[str]:
        """Do what the phase "kernel" does, or wait until it is done; returns and raises as ``boot_steps.kernel_parameters``."""
        if self._thread is None:
            return boot_steps.kernel_parameters()
        self._thread.join()
        self._thread = None
        if self._failure is not None:
            raise self._failure
        return self._modules

    def _load_modules(self) -> None:
        try:
            self._modules = boot_steps.kernel_parameters()
        except Exception as error:  # noqa: BLE001 (raised where the phase waits for it)
            self._failure = error


def _begin_thread(task: Callable[[], None]) -> threading.Thread | None:
    """Run *task* in a thread; None where the kernel makes none."""
    usual = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=task, name="modules", daemon=True)
        thread.start()
    except RuntimeError as error:
        print(f"milkyway: the kernel's modules are loaded later: {error}", flush=True)
        return None
    finally:
        threading.stack_size(usual)
    return thread


def _start(name: str) -> FirstService:
    """Start the service *name* of CoreOS in its group, as ``launching.spawned.SpawnedStarter`` does."""
    program, group = PROGRAMS[name], f"{GROUPS}/{name}"
    make_group(group, program.limits)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    try:
        pid = processes.spawn(launch_command(program, group, None), ENVIRONMENT, {1: writing, 2: writing})
        return FirstService(pid, processes.pidfd_open(pid), reading)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
