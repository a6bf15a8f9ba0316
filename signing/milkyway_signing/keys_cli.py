"""`milkyway keys`: make keys, show them, and make the root documents that say whose they are."""

import json
import os
import time
from pathlib import Path

import click
import msgspec

from milkyway_formats.codec import encode
from milkyway_formats.names import FleetId, PersonName
from milkyway_signing.development import Local, make_development_set
from milkyway_signing.key_file import (
    KeyFileRefusedError,
    KeyFileUnavailableError,
    KeyName,
    generate,
    read_public,
    write_key_file,
    write_new,
)
from milkyway_signing.passphrase import VARIABLE, load_signers, read_passphrase
from milkyway_signing.roots import describe, make_root, read_spec, sign_root

EXISTING_FILE = click.Path(dir_okay=False, path_type=Path)
passphrase_option = click.option(
    "--passphrase-file", type=EXISTING_FILE, help=f"The passphrase is its first line (default: the file named by {VARIABLE})."
)


@click.group()
def keys() -> None:
    """Make and show signing keys and roots.

    Example: milkyway keys new alice --person alice --out keys
    """


@keys.command()
@click.argument("name")
@click.option("--person", required=True, help="Whose key it is: thresholds count persons, not keys.")
@click.option("--out", "directory", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Where to put it.")
@passphrase_option
def new(name: str, person: str, directory: Path, passphrase_file: Path | None) -> None:
    """Make a hybrid key (ML-DSA-65 and Ed25519) in the new file NAME.key, under a passphrase.

    Example: milkyway keys new alice --person alice --out keys
    """
    _check_name(name, KeyName, "key name")
    _check_name(person, PersonName, "person")
    path = directory / f"{name}.key"
    if path.exists():
        raise KeyFileRefusedError(f"cannot write {path}: it exists", hint="choose another name or directory")
    passphrase = read_passphrase(passphrase_file, os.environ, key=name, is_new=True)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KeyFileUnavailableError(f"cannot make directory {directory}: {error.strerror}") from error
    signer = generate(name, person)
    write_key_file(path, signer, passphrase)
    click.echo(f"wrote {path}\nkey id {signer.entry.key_id}")


@keys.command()
@click.argument("file", type=EXISTING_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the public part, for a root spec.")
def show(file: Path, as_json: bool) -> None:
    """Show the public part of a key file. It takes no passphrase.

    Example: milkyway keys show keys/alice.key --json > alice.pub
    """
    public = read_public(file)
    if as_json:
        click.echo(encode(public).decode())
        return
    click.echo(f"name    {public.name}\nperson  {public.entry.person}\nkey id  {public.entry.key_id}")
    click.echo(f"scheme  {public.entry.scheme} (both signatures must hold)")


@keys.command()
@click.argument("spec", type=EXISTING_FILE)
@click.option("--key", "key_files", type=EXISTING_FILE, multiple=True, required=True, help="Sign with this key; repeatable.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The signed root: a new file.")
@click.option("--previous", type=EXISTING_FILE, help="The signed root that this one follows; its signers must sign too.")
@passphrase_option
def root(spec: Path, key_files: tuple[Path, ...], out: Path, previous: Path | None, passphrase_file: Path | None) -> None:
    """Make a root document from a SPEC in YAML and sign it.

    Example: milkyway keys root owner-root.yaml --key owner-root.key --out owner-root.json
    """
    written, entries = read_spec(spec)
    document = make_root(written, entries, now=int(time.time()))
    signers = load_signers(list(key_files), passphrase_file, os.environ)
    try:
        before = None if previous is None else previous.read_bytes()
    except OSError as error:
        raise KeyFileUnavailableError(f"cannot read root {previous}: {error.strerror}") from error
    signed = sign_root(document, signers, before)
    write_new(out, signed, mode=0o644)
    click.echo("\n".join(describe(document)))
    click.echo(f"wrote {out}")


@keys.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--fleet", default="demo", show_default=True, help="The fleet that the owner's root names.")
@click.option(
    "--local",
    type=click.Choice(["read", "change"]),
    default="read",
    show_default=True,
    help="What root at a machine may do there: with change, also apply what no operator signed.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what was done as JSON.")
def development(directory: Path, fleet: str, local: Local, as_json: bool) -> None:
    """Make every key and root that development needs, with their passphrase beside them. Not for production.

    Example: milkyway keys development build/keys
    """
    _check_name(fleet, FleetId, "fleet")
    is_new = make_development_set(directory, fleet, now=int(time.time()), local=local)
    if as_json:
        click.echo(json.dumps({"directory": str(directory), "made": is_new}))
    else:
        click.echo(f"{directory}: {'made' if is_new else 'already there, unchanged'}")


def _check_name(value: str, kind: object, what: str) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise KeyFileRefusedError(f"cannot use {value!r} as {what}: {error}") from error
