"""``milkyway fleet``: the operator's tool. Connecting, enrolling, showing; changes and commands are in ``fleet.orders``."""

import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from milkyway_control.command_line import FLEET_NAME, LABEL_NAME, Name, confirm
from milkyway_control.fleet import config as fleet_config
from milkyway_control.fleet.client import FleetClient
from milkyway_control.fleet.config import FleetConfig, FleetSettings, KeptToken
from milkyway_control.fleet.enrolment import check_request, fingerprints, record_of
from milkyway_control.fleet.orders import ORDERS, keys_option, passphrase_option
from milkyway_control.fleet.report_text import log_lines, status_lines
from milkyway_control.fleet.secure_config import secure_config
from milkyway_control.fleet.signing_desk import Desk, Machine
from milkyway_control.operator_protocol import TOKEN_LIFE_S, NewToken, PendingView
from milkyway_formats.codec import encode
from milkyway_formats.enrolment import ENROLMENT_TYPE, Label
from milkyway_formats.errors import MilkyWayError, RefusedError
from milkyway_formats.names import FleetId
from milkyway_signing.passphrase import load_signers
from milkyway_signing.signer import sign_envelope

EXISTING = click.Path(dir_okay=False, exists=True, path_type=Path)
LABEL = Name(Label, LABEL_NAME)
FLEET = Name(FleetId, FLEET_NAME)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class EnrolRefusedError(RefusedError):
    """There is no machine to enrol."""


@click.group()
@click.option(
    "--config",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="MILKYWAY_FLEET",
    default=lambda: Path(click.get_app_dir("milkyway")) / "fleet",
    help="The operator's configuration directory (or MILKYWAY_FLEET).",
)
@click.pass_context
def fleet(context: click.Context, directory: Path) -> None:
    """Enrol machines, deploy layers, send commands, read reports. Everything that machines obey is signed here, by you.

    Example: milkyway fleet deploy nginx.layer --to web-1 --name web --key alice.key --key bob.key
    """
    context.obj = directory


for _order in (*ORDERS, secure_config):
    fleet.add_command(_order)


@fleet.command()
@click.option("--server", required=True, metavar="HOST:PORT", help="The control server's operator port.")
@click.option("--fleet", "name", type=FLEET, required=True, help="The fleet's name.")
@click.option("--certificate", type=EXISTING, required=True, help="Your key and certificate for the connection (client.pem).")
@click.option("--ca", type=EXISTING, required=True, help="The authority of the server's operator port (ca.pem).")
@click.option("--vendor-root", type=EXISTING, required=True, help="The vendor's signed root.")
@click.option("--owner-root", type=EXISTING, required=True, help="The owner's signed root.")
@keys_option
@click.pass_obj
def connect(
    directory: Path,
    server: str,
    name: str,
    certificate: Path,
    ca: Path,
    vendor_root: Path,
    owner_root: Path,
    key_files: tuple[Path, ...],
) -> None:
    """Make the configuration directory; --key names the key files to sign with when a later command has no --key.

    Example: milkyway fleet connect --server control:7444 --fleet home --certificate client.pem --ca ca.pem
    --vendor-root vendor-root.json --owner-root owner-root.json --key alice.key
    """
    host, _, port = server.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise click.BadParameter(f"{server!r} is not HOST:PORT", param_hint="--server")
    settings = FleetSettings(
        format="milkyway.fleet-settings/1",
        fleet=name,
        host=host.strip("[]"),
        port=int(port),
        keys=[str(path.resolve()) for path in key_files],
    )
    config = fleet_config.create(directory, settings, client=certificate, ca=ca, vendor=vendor_root, owner=owner_root)
    with FleetClient(config) as client:
        found = client.fleet().fleet
    if found != name:
        click.echo(f"warning: the server at {server} is of fleet {found}, not {name}", err=True)
    click.echo(f"{directory}: fleet {name} at {server}")


@fleet.command()
@click.argument("machine", type=LABEL)
@click.option("--group", "groups", type=LABEL, multiple=True, help="A group that the machine will be in; repeatable.")
@json_option
@click.pass_obj
def token(directory: Path, machine: str, groups: tuple[str, ...], as_json: bool) -> None:
    """Make a token for a new MACHINE and print it once. The server learns only its id; the secret stays here.

    Example: milkyway fleet token web-1
    """
    config = fleet_config.read(directory)
    token_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    config.keep_token(token_id, KeptToken(format="milkyway.kept-token/1", secret=secret, name=machine, groups=list(groups)))
    try:
        with FleetClient(config) as client:
            client.add_token(NewToken(id=token_id, name=machine, expires=int(time.time()) + TOKEN_LIFE_S))
    except MilkyWayError:
        config.forget_token(token_id)
        raise
    whole = f"{token_id}.{secret}"
    click.echo(json.dumps({"token": whole, "machine": machine}) if as_json else whole)


@dataclass(frozen=True)
class _Enrolled:
    name: str
    fingerprints: dict[str, str]


@fleet.command()
@click.argument("machine", required=False)
@keys_option
@passphrase_option
@click.option("--wait", type=click.FloatRange(0, 3600), default=0.0, help="Wait this many seconds for the machine to ask.")
@click.option("--yes", is_flag=True, help="Do not ask whether the fingerprints are right.")
@json_option
@click.pass_obj
def enrol(
    directory: Path,
    machine: str | None,
    key_files: tuple[Path, ...],
    passphrase_file: Path | None,
    wait: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Enrol the waiting machines (or only MACHINE) whose tokens were made here.

    Checks each machine's proof with the token's secret, shows the fingerprints of its keys, signs its record.

    Example: milkyway fleet enrol web-1 --key alice.key
    """
    config = fleet_config.read(directory)
    with FleetClient(config) as client:
        waiting = _wait_for(client, config, machine, time.monotonic() + wait)
        signers = load_signers(config_keys(config, key_files), passphrase_file, os.environ)
        enrolled = []
        for view, kept in waiting:
            request = check_request(view, kept)
            shown = fingerprints(request)
            if not as_json:
                click.echo(f"{kept.name} asks to be enrolled; the proof of its token holds.")
                for what, digest in shown.items():
                    click.echo(f"    {what:<10} {digest}")
            if not yes:
                confirm("Sign its record?")
            record = record_of(request, kept, config.settings.fleet, int(time.time()))
            envelope = sign_envelope(ENROLMENT_TYPE, encode(record), signers)
            config.trust.verify_enrolment(envelope)
            client.approve(view.token, envelope)
            config.forget_token(view.token)
            enrolled.append(_Enrolled(kept.name, shown))
    if as_json:
        click.echo(json.dumps([{"name": new.name, **new.fingerprints} for new in enrolled]))
        return
    for new in enrolled:
        click.echo(f"enrolled {new.name} as {new.fingerprints['machine']}")


@fleet.command()
@click.argument("machine")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(directory: Path, machine: str, yes: bool) -> None:
    """Cut MACHINE off: its certificate is refused from now on. It goes on running what it runs.

    Example: milkyway fleet revoke web-1
    """
    config = fleet_config.read(directory)
    with FleetClient(config) as client:
        found = Desk(config, client, int(time.time())).machine(machine)
        if not yes:
            confirm(f"Cut off {found.record.name} for ever?")
        client.revoke(found.id)
    click.echo(f"revoked {found.record.name}")


@fleet.command()
@click.argument("machine", required=False)
@json_option
@click.pass_obj
def status(directory: Path, machine: str | None, as_json: bool) -> None:
    """List the machines, or show MACHINE's last report (its signature is checked here).

    Example: milkyway fleet status web-1
    """
    config, now = fleet_config.read(directory), int(time.time())
    with FleetClient(config) as client:
        desk = Desk(config, client, now)
        if machine is None:
            _list(desk, now, as_json=as_json)
            return
        found = desk.machine(machine)
        reported = desk.report(found)
        base = desk.base(found)
    if as_json:
        view = {
            "machine": _machine_json(found),
            "desired_version": base.desired.version,
            "refused_documents": base.passed_over,
            "received": reported[1].received if reported else None,
            "report": msgspec.to_builtins(reported[0]) if reported else None,
        }
        click.echo(json.dumps(view))
        return
    click.echo(f"{found.record.name}  {found.id}")
    click.echo(f"    {_seen(found, now)}; desired state {base.desired.version}")
    if base.passed_over:
        click.echo(f"    warning: {base.passed_over} newer documents on the server are not signed as your roots require")
    if reported is None:
        click.echo("    no report yet")
        return
    for line in status_lines(reported[0].status, now - reported[0].issued):
        click.echo(f"    {line}")


@fleet.command()
@click.argument("machine")
@json_option
@click.pass_obj
def logs(directory: Path, machine: str, as_json: bool) -> None:
    """Show the failures, refusals and restarts in MACHINE's newest report.

    Log lines themselves are not sent to the control server yet: use `mwctl logs` on the machine.

    Example: milkyway fleet logs web-1
    """
    config, now = fleet_config.read(directory), int(time.time())
    with FleetClient(config) as client:
        desk = Desk(config, client, now)
        found = desk.machine(machine)
        reported = desk.report(found)
    lines = log_lines(reported[0].status) if reported else []
    if as_json:
        click.echo(json.dumps({"machine": found.record.name, "lines": lines}))
        return
    for line in lines or ["nothing to report" if reported else "no report yet"]:
        click.echo(line)
    click.echo("(from the newest report; the log itself: mwctl logs, on the machine)", err=True)


def config_keys(config: FleetConfig, given: tuple[Path, ...]) -> list[Path]:
    """Return the key files to sign with: those *given*, else those of the configuration."""
    return list(given) or [Path(name) for name in config.settings.keys]


def _wait_for(
    client: FleetClient, config: FleetConfig, machine: str | None, until: float
) -> list[tuple[PendingView, KeptToken]]:
    """Return the waiting machines whose tokens were made here; ask again until there is one or time is up."""
    while True:
        waiting = [(view, kept) for view in client.pending() if (kept := config.token(view.token)) is not None]
        chosen = [pair for pair in waiting if machine in (None, pair[1].name)]
        if chosen:
            return chosen
        if time.monotonic() >= until:
            name = machine or "any machine"
            raise EnrolRefusedError(
                f"cannot enrol {name}: none is waiting whose token was made here",
                hint="give the machine its token (milkyway fleet token), and make sure that it reaches the control server",
            )
        time.sleep(0.5)


def _list(desk: Desk, now: int, *, as_json: bool) -> None:
    machines = desk.machines()
    if as_json:
        click.echo(json.dumps([_machine_json(machine) for machine in machines]))
        return
    for machine in machines:
        click.echo(f"{machine.record.name:<20} {machine.id[:16]}  {_seen(machine, now)}")
    if not machines:
        click.echo("no machine is enrolled")


def _machine_json(machine: Machine) -> dict[str, object]:
    return {
        "id": machine.id,
        "name": machine.record.name,
        "groups": machine.record.groups,
        "enrolled": machine.enrolled,
        "last_seen": machine.last_seen,
        "revoked": machine.revoked,
    }


def _seen(machine: Machine, now: int) -> str:
    if machine.revoked is not None:
        return "revoked"
    if machine.last_seen is None:
        return "never seen"
    return f"seen {max(now - machine.last_seen, 0)} s ago"
