"""The verbs of ``milkyway fleet`` that change something: rendered here, shown, signed here, then sent.

A change that needs more persons than are present is prepared into a file (--prepare), signed by
the others on their own machines (``fleet sign``), and sent by anyone (``fleet push``).
"""

import json
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from milkyway_control.command_line import Name, confirm
from milkyway_control.fleet import config as fleet_config
from milkyway_control.fleet import desired_changes
from milkyway_control.fleet.client import FleetClient
from milkyway_control.fleet.config import FleetConfig
from milkyway_control.fleet.layer_files import LocalLayer, StackRefusedError, hash_file, read_layer, resolve
from milkyway_control.fleet.signing_desk import Base, Desk, Draft, Machine, add_signatures, read_draft, sign
from milkyway_formats import yaml_text
from milkyway_formats.command import (
    Action,
    Command,
    PowerOff,
    Reboot,
    RestartService,
    ServiceAddress,
    StartService,
    StopService,
)
from milkyway_formats.deployment import DeploymentDescriptor
from milkyway_formats.desired import Desired
from milkyway_formats.errors import UnavailableError
from milkyway_formats.names import DeploymentName, Sha256
from milkyway_formats.trust import ThresholdRefusedError
from milkyway_signing.passphrase import VARIABLE, load_signers
from milkyway_signing.signer import Signer

LAYER_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
DEPLOYMENT = Name(DeploymentName, "lower-case letters, digits and hyphens, a letter first, at most 31")
SERVICE = Name(ServiceAddress, "DEPLOYMENT/SERVICE, or a service of CoreOS")

keys_option = click.option(
    "--key", "key_files", type=click.Path(dir_okay=False, path_type=Path), multiple=True, help="Sign with this key; repeatable."
)
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The keys' passphrase is its first line (default: the file named by {VARIABLE}).",
)
prepare_option = click.option(
    "--prepare",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the document to this file for others to sign; send nothing.",
)
unsigned_option = click.option(
    "--unsigned",
    is_flag=True,
    help="With --prepare: sign with no key, for root at a machine whose owner's root says `local: change`.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask before signing.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class FileUnavailableError(UnavailableError):
    """A file can't be read or written now."""


@click.command()
@click.argument("layers", nargs=-1, required=True, type=LAYER_FILE)
@json_option
@click.pass_obj
def upload(directory: Path, layers: tuple[Path, ...], as_json: bool) -> None:
    """Upload LAYER files to the control server, which keeps them by hash. What it has already is not sent again.

    Example: milkyway fleet upload nginx.layer nginx-libraries.layer
    """
    config = fleet_config.read(directory)
    with FleetClient(config) as client:
        sent = [(path, *_upload(client, path)) for path in layers]
    if as_json:
        click.echo(json.dumps([{"file": str(path), "sha256": sha256, "sent": new} for path, sha256, new in sent]))
        return
    for path, sha256, new in sent:
        click.echo(f"{path}: {sha256} {'sent' if new else 'already there'}")


@click.command()
@click.argument("layer", type=LAYER_FILE)
@click.option("--library", "libraries", type=LAYER_FILE, multiple=True, help="A layer that LAYER's manifest pins; repeatable.")
@click.option("--to", "machine", required=True, help="The machine.")
@click.option("--name", type=DEPLOYMENT, help="The deployment's name (default: the layer's).")
@click.option("--descriptor", type=LAYER_FILE, help="YAML with grants, data and configuration of this deployment.")
@keys_option
@passphrase_option
@prepare_option
@unsigned_option
@yes_option
@json_option
@click.pass_obj
def deploy(
    directory: Path,
    layer: Path,
    libraries: tuple[Path, ...],
    machine: str,
    name: str | None,
    descriptor: Path | None,
    key_files: tuple[Path, ...],
    passphrase_file: Path | None,
    prepare: Path | None,
    unsigned: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make MACHINE run LAYER: as a new deployment, or as the next generation of the deployment of this name.

    Verifies the layers against your roots, resolves them to exact hashes, renders the machine's next desired state from
    its newest verified one, shows the difference, signs it with your keys, uploads what is missing, and pushes.

    Example: milkyway fleet deploy nginx.layer --to web-1 --name web --key alice.key --key bob.key
    """
    _check_unsigned(unsigned, prepare, key_files)
    config = fleet_config.read(directory)
    app = read_layer(layer, config.trust)
    stack = resolve(app, [read_layer(path, config.trust) for path in libraries])
    wanted = _descriptor(descriptor, app, name)
    with FleetClient(config) as client:
        desk = Desk(config, client, int(time.time()))
        target = desk.machine(machine)
        base = desk.base(target)
        before = desired_changes.find(base.desired, wanted.name)
        changed = desired_changes.put(
            base.desired,
            name=wanted.name,
            stack=[layer_file.pin for layer_file in stack],
            grants=desired_changes.given_grants(app.manifest.grants, wanted.grants),
            data=desired_changes.bound_data(
                wanted.name, app.manifest.data, wanted.data, before.data if before else [], secrets.token_hex(3)
            ),
            configuration=wanted.configuration,
            chance=secrets.token_hex(3),
        )
        document = _show_change(config, desk, target, base, changed, quiet=as_json)
        if not as_json:
            for layer_file in stack:
                persons = ", ".join(sorted(layer_file.verified.persons))
                click.echo(f"  layer {layer_file.pin.path} is signed by {persons}")
        draft = sign(
            document,
            [] if unsigned else _signers(config, key_files, passphrase_file, yes=yes, preparing=prepare is not None),
        )
        if prepare is not None:
            _write(prepare, draft, as_json=as_json)
            return
        _check(desk, draft, stack)
        for layer_file in stack:
            _upload(client, layer_file.file)
        desk.push(draft)
    _pushed(draft, as_json=as_json)


@click.command()
@click.argument("name", type=DEPLOYMENT)
@click.option("--from", "machine", required=True, help="The machine.")
@keys_option
@passphrase_option
@prepare_option
@unsigned_option
@yes_option
@json_option
@click.pass_obj
def remove(
    directory: Path,
    name: str,
    machine: str,
    key_files: tuple[Path, ...],
    passphrase_file: Path | None,
    prepare: Path | None,
    unsigned: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make MACHINE stop running deployment NAME. Its data stays there.

    Example: milkyway fleet remove web --from web-1 --key alice.key --key bob.key
    """
    _check_unsigned(unsigned, prepare, key_files)
    config = fleet_config.read(directory)
    with FleetClient(config) as client:
        desk = Desk(config, client, int(time.time()))
        target = desk.machine(machine)
        base = desk.base(target)
        document = _show_change(config, desk, target, base, desired_changes.remove(base.desired, name), quiet=as_json)
        draft = sign(
            document,
            [] if unsigned else _signers(config, key_files, passphrase_file, yes=yes, preparing=prepare is not None),
        )
        _finish(desk, draft, prepare, as_json=as_json)


@click.command("sign")
@click.argument("file", type=LAYER_FILE)
@keys_option
@passphrase_option
@yes_option
@click.pass_obj
def sign_file(directory: Path, file: Path, key_files: tuple[Path, ...], passphrase_file: Path | None, yes: bool) -> None:
    """Add your signature to a document that another operator prepared in FILE. Shows it first.

    Example: milkyway fleet sign change.json --key bob.key
    """
    config = fleet_config.read(directory)
    draft = read_draft(_read(file), str(file))
    with FleetClient(config) as client:
        desk = Desk(config, client, int(time.time()))
        for line in _describe(desk, draft):
            click.echo(line)
    signed = add_signatures(draft, _signers(config, key_files, passphrase_file, yes=yes, preparing=False))
    _write(file, signed, as_json=False)


@click.command()
@click.argument("file", type=LAYER_FILE)
@json_option
@click.pass_obj
def push(directory: Path, file: Path, as_json: bool) -> None:
    """Send the document in FILE, if a machine would accept its signatures.

    Example: milkyway fleet push change.json
    """
    config = fleet_config.read(directory)
    draft = read_draft(_read(file), str(file))
    with FleetClient(config) as client:
        desk = Desk(config, client, int(time.time()))
        _check(desk, draft, [])
        desk.push(draft)
    _pushed(draft, as_json=as_json)


@click.command()
@click.argument("machine")
@click.argument("verb", type=click.Choice(["start", "stop", "restart", "reboot", "poweroff"]))
@click.argument("service", type=SERVICE, required=False)
@keys_option
@passphrase_option
@prepare_option
@yes_option
@click.option("--stream", help="The stream of commands to continue (default: one for each operator and machine).")
@click.option("--reason", default="", help="A reason for the machine's log.")
@json_option
@click.pass_obj
def command(
    directory: Path,
    machine: str,
    verb: str,
    service: str | None,
    key_files: tuple[Path, ...],
    passphrase_file: Path | None,
    prepare: Path | None,
    yes: bool,
    stream: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Order MACHINE to do something once: VERB, and for start, stop and restart which SERVICE.

    Example: milkyway fleet command web-1 stop web/nginx --key alice.key
    """
    config = fleet_config.read(directory)
    action = _action(verb, service)
    with FleetClient(config) as client:
        desk = Desk(config, client, int(time.time()))
        target = desk.machine(machine)
        signers = _signers(config, key_files, passphrase_file, yes=True, preparing=prepare is not None)
        person = signers[0].entry.person if signers else "shared"
        order = desk.command(target, action, stream or f"{person}.{target.id[:16]}", secrets.token_hex(16), reason)
        if not as_json:
            click.echo(_describe_command(order, target.record.name))
        if not yes and order.command_class == "deep":
            confirm("Sign it?")
        _finish(desk, sign(order, signers), prepare, as_json=as_json)


@click.command()
@click.argument("machine")
@click.argument("service", type=SERVICE)
@keys_option
@passphrase_option
@json_option
@click.pass_context
def restart(
    context: click.Context,
    machine: str,
    service: str,
    key_files: tuple[Path, ...],
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Order MACHINE to restart SERVICE (short for `command MACHINE restart SERVICE`).

    Example: milkyway fleet restart web-1 web/nginx --key alice.key
    """
    context.invoke(
        command,
        machine=machine,
        verb="restart",
        service=service,
        key_files=key_files,
        passphrase_file=passphrase_file,
        prepare=None,
        yes=True,
        stream=None,
        reason="",
        as_json=as_json,
    )


ORDERS = [upload, deploy, remove, sign_file, push, command, restart]


def _action(verb: str, service: str | None) -> Action:
    match verb, service:
        case "start", str():
            return StartService(service=service)
        case "stop", str():
            return StopService(service=service)
        case "restart", str():
            return RestartService(service=service)
        case "reboot", None:
            return Reboot()
        case "poweroff", None:
            return PowerOff()
        case _:
            raise click.UsageError(f"{verb} takes {'no service' if service else 'a service'}")


def _descriptor(path: Path | None, app: LocalLayer, name: str | None) -> DeploymentDescriptor:
    """Return the descriptor in the file *path*, or one that takes the layer as it is."""
    own = name or app.pin.path.rpartition("/")[2].replace(".", "-")
    if path is None:
        return DeploymentDescriptor(name=own, layer=app.pin.path)
    descriptor = yaml_text.load(_read(path).decode("utf-8", "replace"), DeploymentDescriptor, f"descriptor {path}")
    if descriptor.layer != app.pin.path:
        raise StackRefusedError(f"cannot deploy {app.pin.path}: descriptor {path} is for {descriptor.layer}")
    if name is not None and descriptor.name != name:
        raise StackRefusedError(f"cannot deploy {name}: descriptor {path} is for {descriptor.name}")
    return descriptor


def _show_change(config: FleetConfig, desk: Desk, machine: Machine, base: Base, changed: Desired, *, quiet: bool) -> Desired:
    """Return *changed* as the machine's next version, after showing it."""
    now = int(time.time())
    reported = desk.report(machine)
    running = reported[0].status.desired_version if reported else 0
    document = desired_changes.next_version(changed, base.desired, max(config.seen(machine.id), running), now)
    if not quiet:
        click.echo(f"{machine.record.name} ({machine.id[:16]}): desired state {base.desired.version} → {document.version}")
        for line in desired_changes.differences(base.desired, document):
            click.echo(f"  {line}")
    if running > base.desired.version:
        click.echo(
            f"warning: {machine.record.name} runs desired state {running}, which was applied at the machine;"
            f" this change builds on {base.desired.version} and replaces it",
            err=True,
        )
    if base.passed_over:
        click.echo(f"warning: {base.passed_over} newer documents on the server are not signed as your roots require", err=True)
    return document


def _signers(
    config: FleetConfig, key_files: tuple[Path, ...], passphrase_file: Path | None, *, yes: bool, preparing: bool
) -> Sequence[Signer]:
    """Return the signers, after asking the person at the terminal. Only a document being prepared may be unsigned."""
    files = list(key_files) or [Path(name) for name in config.settings.keys]
    if not files and not preparing:
        raise click.UsageError("--key FILE is missing: nothing is sent unsigned")
    if files and not yes:
        confirm("Sign it?")
    return load_signers(files, passphrase_file, os.environ)


def _check_unsigned(unsigned: bool, prepare: Path | None, key_files: tuple[Path, ...]) -> None:
    """Refuse --unsigned where the document would be sent, and with --key."""
    if unsigned and (prepare is None or key_files):
        raise click.UsageError("--unsigned needs --prepare FILE, and no --key")


def _check(desk: Desk, draft: Draft, layers: Sequence[LocalLayer]) -> None:
    """Check *draft* as a machine would; if signatures are missing, the refusal has a hint."""
    try:
        desk.check(draft, [layer.verified for layer in layers])
    except ThresholdRefusedError as error:
        raise ThresholdRefusedError(
            str(error), hint="--prepare FILE, and let another person sign it: milkyway fleet sign FILE"
        ) from error


def _finish(desk: Desk, draft: Draft, prepare: Path | None, *, as_json: bool) -> None:
    if prepare is not None:
        _write(prepare, draft, as_json=as_json)
        return
    _check(desk, draft, [])
    desk.push(draft)
    _pushed(draft, as_json=as_json)


def _describe(desk: Desk, draft: Draft) -> list[str]:
    """Return what *draft* would change, compared with what is on the server now."""
    document = draft.document
    if isinstance(document, Command):
        names = ", ".join(desk.machine(machine_id).record.name for machine_id in document.machines)
        return [_describe_command(document, names)]
    target = desk.machine(document.machine)
    base = desk.base(target)
    head = f"{target.record.name} ({target.id[:16]}): desired state {base.desired.version} → {document.version}"
    return [head, *(f"  {line}" for line in desired_changes.differences(base.desired, document))]


def _describe_command(order: Command, machines: str) -> str:
    what = " ".join(str(value) for value in (type(order.action).__struct_config__.tag, getattr(order.action, "service", "")))
    return f"{machines}: {what.strip()} (class {order.command_class}, number {order.sequence} of {order.stream})"


def _upload(client: FleetClient, path: Path) -> tuple[Sha256, bool]:
    """Upload the file *path*; return its hash and whether it had to be sent."""
    sha256, size = hash_file(path)
    if client.has_blob(sha256):
        return sha256, False
    with ExitStack() as stack:
        console = Console(stderr=True)
        progress = stack.enter_context(Progress(console=console, transient=True, disable=not console.is_terminal))
        task = progress.add_task(f"upload {path.name}", total=size)
        client.upload(sha256, path, size, lambda count: progress.advance(task, count))
    return sha256, True


def _pushed(draft: Draft, *, as_json: bool) -> None:
    document = draft.document
    if isinstance(document, Command):
        view = {"pushed": "command", "id": document.id, "stream": document.stream, "sequence": document.sequence}
        text = f"pushed command {document.sequence} of {document.stream}"
    else:
        deployments = [
            {"name": deployment.name, "id": deployment.id, "generation": deployment.generation}
            for deployment in document.deployments
        ]
        view = {"pushed": "desired", "machine": document.machine, "version": document.version, "deployments": deployments}
        text = f"pushed desired state {document.version}"
    click.echo(json.dumps(view) if as_json else text)


def _write(path: Path, draft: Draft, *, as_json: bool) -> None:
    try:
        path.write_bytes(draft.data + b"\n")
    except OSError as error:
        raise FileUnavailableError(f"cannot write {path}: {error.strerror}") from error
    count = len(draft.envelope.signatures)
    click.echo(json.dumps({"prepared": str(path), "signatures": count}) if as_json else f"{path}: {count} signatures")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileUnavailableError(f"cannot read {path}: {error.strerror}") from error
