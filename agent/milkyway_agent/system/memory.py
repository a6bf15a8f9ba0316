"""Memory: mlockall(2), so that an unreadable disk can't take away the agent's own pages."""

from milkyway_agent.system.libc import call

# asm-generic/mman.h
MCL_CURRENT = 1
MCL_FUTURE = 2
MCL_ONFAULT = 4


def mlockall(flags: int) -> None:
    """Keep pages in memory: by *flags*, those mapped now, those mapped later, or each once it has been touched."""
    call("mlockall", flags)
