"""The misbehaving programs, compiled, and services that run them."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from milkyway_coreos import tools
from milkyway_coreos.image.programs import FLAGS
from milkyway_formats.service import Restart, Service, Stop
from tests.privileged.supervisor.supervised import Supervised

SOURCES = Path(__file__).parent
UP = ["waiting", "starting", "started"]
STOPPED = ["stopping", "idle"]
ONCE = Restart(when="never")
AT_ONCE = Restart(delay_ms=1, delay_limit_ms=5, start_limit=3)
AFTER_AN_HOUR = Restart(delay_ms=3_600_000, delay_limit_ms=3_600_000)
SHORTLY = Stop(timeout_ms=50)


@cache
def program(theme: str) -> str:
    """Return the path of the program whose behaviours are in ``THEME.c``."""
    return str(_compiled() / theme)


def misbehaving(harness: Supervised, program_and_behaviour: str, argument: str = "", **fields: object) -> Service:
    """Return a service that behaves like "ends/aborts", and is named "aborts" unless *fields* say otherwise."""
    theme, _, behaviour = program_and_behaviour.partition("/")
    command = [program(theme), behaviour, harness.tell_address, *([argument] if argument else [])]
    return Service(**{"name": behaviour.replace("_", "-"), "command": command, **fields})  # type: ignore[arg-type] # as msgspec takes them


def begin(harness: Supervised, program_and_behaviour: str, argument: str = "", **fields: object) -> str:
    """Supervise and start a service that behaves like "ends/aborts"; return its name."""
    service = misbehaving(harness, program_and_behaviour, argument, **fields)
    harness.add(service)
    harness.supervisor.start(service.name)
    return service.name


def begin_direct(harness: Supervised, program_and_behaviour: str, argument: str = "", **fields: object) -> str:
    """As ``begin``, but started through the launcher, which provides descriptors, commands and the rest."""
    service = misbehaving(harness, program_and_behaviour, argument, **fields)
    harness.add_direct(service)
    harness.supervisor.start(service.name)
    return service.name


def shell(name: str, script: str, **fields: object) -> Service:
    """Return a service that runs a line of shell."""
    return Service(name=name, command=["/bin/sh", "-c", script], **fields)  # type: ignore[arg-type] # as msgspec takes them


@cache
def _compiled() -> Path:
    into = Path(tempfile.mkdtemp(prefix="milkyway-misbehaviour-"))
    atexit.register(shutil.rmtree, into)
    into.chmod(0o755)  # some run as another user
    for source in (*SOURCES.glob("*.c"), *SOURCES.glob("*.h")):
        shutil.copyfile(source, into / source.name)
    for source in SOURCES.glob("*.c"):
        tools.run(tools.chrooted(tools.tools_tree(), into, ["musl-gcc", *FLAGS, "-o", source.stem, source.name]))
    return into
