"""``milkyway control``: make a control server and run it."""

import json
import signal
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import structlog
import trio

from milkyway_control.command_line import FLEET_NAME, PERSON_NAME, Name, leaves
from milkyway_control.server import server, site
from milkyway_control.server.server import Ports
from milkyway_formats.errors import MilkyWayError
from milkyway_formats.names import FleetId, PersonName

AGENT_PORT = 7443
OPERATOR_PORT = 7444


@click.group()
def control() -> None:
    """The control server: a letter box between operators and machines. It holds no key that a machine obeys.

    Example: milkyway control init /srv/milkyway --fleet home --host control.example.org
    """


@control.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--fleet", required=True, type=Name(FleetId, FLEET_NAME), help="The fleet's name, as in its owner's root.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=["localhost", "127.0.0.1"],
    show_default=True,
    help="A name or address at which the server is reached; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def init(directory: Path, fleet: str, hosts: tuple[str, ...], as_json: bool) -> None:
    """Make a control server's DIRECTORY: store, authorities for machines and operators, the first operator's certificate.

    Example: milkyway control init build/control --fleet demo --host 10.0.2.2 --host 127.0.0.1
    """
    made = site.create(directory, fleet, hosts, datetime.now(UTC))
    paths = {
        "machine_ca": str(made.machines.ca),
        "operator_ca": str(made.operators.ca),
        "operator_certificate": str(made.operators.client(site.FIRST_OPERATOR)),
    }
    if as_json:
        click.echo(json.dumps({"fleet": fleet, "hosts": list(hosts), **paths}))
        return
    click.echo(f"Control server of fleet {fleet} made in {directory}.")
    click.echo(f"  Machines must know it by         {paths['machine_ca']}")
    click.echo(f"  The first operator needs         {paths['operator_certificate']} and {paths['operator_ca']}")
    click.echo(f"Start it: milkyway control serve {directory}")


@control.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("name", type=Name(PersonName, PERSON_NAME))
def operator(directory: Path, name: str) -> None:
    """Make a key and certificate for another operator NAME. It gives access to the letter box; machines obey signatures.

    Example: milkyway control operator /srv/milkyway alice
    """
    click.echo(site.read(directory).add_operator(name, datetime.now(UTC)))


@control.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--address", default="0.0.0.0", show_default=True, help="Listen on this address.")
@click.option(
    "--agent-port",
    type=click.IntRange(0, 65535),
    default=AGENT_PORT,
    show_default=True,
    help="The port for machines; 0: any free one.",
)
@click.option(
    "--operator-port",
    type=click.IntRange(0, 65535),
    default=OPERATOR_PORT,
    show_default=True,
    help="The port for operators; 0: any free one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the ports as a line of JSON, and log JSON to stderr.")
def serve(directory: Path, address: str, agent_port: int, operator_port: int, as_json: bool) -> None:
    """Serve DIRECTORY until SIGINT or SIGTERM.

    Example: milkyway control serve build/control --address 127.0.0.1
    """
    _log_to_stderr(as_json=as_json)
    opened = site.read(directory)
    ports = Ports(address, agent_port, operator_port)
    trio.run(partial(_serve, opened, ports, as_json=as_json), strict_exception_groups=True)


async def _serve(opened: site.Site, ports: Ports, *, as_json: bool) -> None:
    refused: list[MilkyWayError] = []

    try:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(server.serve, opened, ports))
            if as_json:
                click.echo(json.dumps({"address": bound.address, "agent_port": bound.agents, "operator_port": bound.operators}))
            else:
                click.echo(f"Machines: {bound.address}:{bound.agents}, operators: {bound.address}:{bound.operators}")
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    break
    except* MilkyWayError as group:
        refused.extend(leaves(group))
    if refused:
        raise refused[0]


def _log_to_stderr(*, as_json: bool) -> None:
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
