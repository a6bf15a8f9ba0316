"""The programs of CoreOS: as what each runs. Imported before trio (``early_boot``)."""

from collections.abc import Mapping

from milkyway_agent.core.contexts import process_context
from milkyway_agent.launching.program import Bounds, Program

HOUSE = "/usr/lib/milkyway"
GROUPS = "/sys/fs/cgroup/coreos"
FIRST = "dhcp"  # the first service of a boot
TERMINALS = ("ttyS0", "hvc0")

ADMIN_GROUP = 900  # "milkyway" in CoreOS' /etc/group: its members read, restart and stop
VERIFIER_USER, UPLINK_USER, COMPILER_USER, FRONT_USER = 901, 902, 903, 904
_CONSOLE_CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "net_admin", "net_raw",
    "net_bind_service", "sys_admin", "sys_ptrace", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "syslog",
)  # fmt: skip
_MIB = 1024 * 1024

PROGRAMS: Mapping[str, Program] = {
    "verifier": Program(
        (f"{HOUSE}/verifier",), process_context("verifier_t"), VERIFIER_USER, empty_network=True, limits=Bounds(256 * _MIB, 32)
    ),
    "uplink": Program((f"{HOUSE}/uplink",), process_context("uplink_t"), UPLINK_USER, limits=Bounds(256 * _MIB, 32)),
    "front": Program(
        (f"{HOUSE}/front",), process_context("front_t"), FRONT_USER, empty_network=True, limits=Bounds(128 * _MIB, 32)
    ),
    "compiler": Program(
        (f"{HOUSE}/compiler",), process_context("compiler_t"), COMPILER_USER, empty_network=True, limits=Bounds(256 * _MIB, 16)
    ),
    "disk": Program(
        (f"{HOUSE}/disk",),
        process_context("disk_t"),
        capabilities=("sys_admin", "ipc_lock", "mknod", "dac_override", "dac_read_search", "chown", "sys_nice", "sys_resource"),
        empty_network=True,
    ),
    "dhcp": Program(
        (f"{HOUSE}/dhcp", "eth0"), process_context("dhcp_t"), capabilities=("net_admin", "net_raw", "net_bind_service")
    ),
}


def console_program(terminal: str) -> Program:
    """Return the development console on *terminal* (a name below /dev): a root shell in the domain console_t."""
    return Program(
        ("/bin/sh", "-l"),
        process_context("console_t"),
        capabilities=_CONSOLE_CAPABILITIES,
        environment={"HOME": "/root", "TERM": "linux", "PS1": "milkyway# "},
        terminal=f"/dev/{terminal}",
        no_new_privileges=False,
    )
