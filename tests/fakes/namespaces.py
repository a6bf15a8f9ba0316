"""Namespaces for tests: unshare(2), by the kernel's names. In the agent, only the launcher does this."""

from milkyway_agent.system.libc import call

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000


def unshare(flags: int) -> None:
    """Leave the namespaces named by *flags* for new ones (CLONE_NEWPID: for later children)."""
    call("unshare", flags)
