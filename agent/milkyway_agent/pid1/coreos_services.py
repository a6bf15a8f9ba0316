"""The services of CoreOS that are supervised like any other: the network's, and on a development machine the consoles."""

from milkyway_agent.launching.spawned import SpawnedStarter
from milkyway_agent.pid1.program_table import FIRST, GROUPS, PROGRAMS, TERMINALS, console_program
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.supervisor.definition import Definition
from milkyway_formats.errors import RefusedError
from milkyway_formats.service import Restart, Service

CONSOLES = {f"console-{terminal.lower()}": terminal for terminal in TERMINALS}


def definition(name: str, reaper: Reaper) -> Definition:
    """Return the service *name* of CoreOS. Raises RefusedError when there is none."""
    if name == FIRST:
        program, restart = PROGRAMS[FIRST], Restart(delay_ms=500)
    elif name in CONSOLES:
        program, restart = console_program(CONSOLES[name]), Restart(delay_ms=200, start_limit=1000)
    else:
        raise RefusedError(f"cannot supervise {name}: CoreOS has no such service")
    service = Service(name=name, command=list(program.command), restart=restart)
    return Definition(name, service, SpawnedStarter(program, f"{GROUPS}/{name}", reaper))
