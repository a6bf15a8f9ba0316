"""Power: reboot and power-off. The caller has stopped, unmounted and synced everything before."""

import os

from milkyway_agent.system.libc import call

# linux/reboot.h
LINUX_REBOOT_CMD_RESTART = 0x01234567
LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC
LINUX_REBOOT_CMD_CAD_ON = 0x89ABCDEF
LINUX_REBOOT_CMD_CAD_OFF = 0


def sync() -> None:
    """Write to the disks everything that is not there yet (sync(2))."""
    os.sync()


def restart() -> None:
    """Reboot at once."""
    call("reboot", LINUX_REBOOT_CMD_RESTART)


def power_off() -> None:
    """Switch the machine off at once."""
    call("reboot", LINUX_REBOOT_CMD_POWER_OFF)


def set_ctrl_alt_del(reboots: bool) -> None:
    """Have Ctrl-Alt-Del reboot at once or, if not *reboots*, send PID 1 a SIGINT."""
    call("reboot", LINUX_REBOOT_CMD_CAD_ON if reboots else LINUX_REBOOT_CMD_CAD_OFF)
