"""``milkyway layer``: build, sign, inspect and verify layers."""

import json
import os
from pathlib import Path
from typing import Literal

import click
from rich.console import Console

from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.trust import Trust, verify_root
from milkyway_layers.assembly import file_sha256, read_layer
from milkyway_layers.build import Workshop, build
from milkyway_layers.engines.apt import AptEngine
from milkyway_layers.layer_text import layer_facts, layer_view, size_text
from milkyway_layers.progress import ConsoleProgress
from milkyway_layers.signing import sign_layer, signatures, verify_layer
from milkyway_layers.tools import DEFAULT_TREE, Tools
from milkyway_signing.passphrase import load_signers

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def layer() -> None:
    """Build, sign, inspect and verify layers.

    Example: milkyway layer build examples/nginx/image.yaml && milkyway layer inspect build/layers/example-nginx_1.layer
    """


@layer.command("build")
@click.argument("spec", type=_FILE)
@click.option("--output", type=_FOLDER, default=Path("build/layers"), show_default=True, help="Where the layer files go.")
@click.option("--coreos", type=_FOLDER, default=Path("build/coreos"), show_default=True, help="The CoreOS to build on.")
@click.option("--variant", type=click.Choice(["coreos", "sealed"]), help="Build with this base instead of the spec's.")
@click.option("--refresh", is_flag=True, help="Install the packages again, to get newer ones.")
@click.option("--tools", type=_FOLDER, default=DEFAULT_TREE, show_default=True, help="The tools tree.")
@click.option(
    "--cache", type=_FOLDER, default=Path("build/layers/cache"), show_default=True, help="What is kept between builds."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was built as JSON.")
def build_command(
    spec: Path, output: Path, coreos: Path, variant: Literal["coreos", "sealed"] | None,
    refresh: bool, tools: Path, cache: Path, as_json: bool,
) -> None:  # fmt: skip
    """Build the layers of SPEC, unsigned, topmost first.

    The packages come from the distribution's mirror, or from $MILKYWAY_MIRROR;
    $SOURCE_DATE_EPOCH sets the build time in the manifests.

    Example: milkyway layer build examples/nginx/image.yaml --output build/layers
    """
    shop = Workshop(
        engines={"apt": AptEngine(os.environ.get("MILKYWAY_MIRROR"))},
        tools=Tools(tools),
        cache=cache,
        progress=ConsoleProgress(Console(stderr=True)),
        epoch=_epoch(os.environ.get("SOURCE_DATE_EPOCH")),
        refresh=refresh,
    )
    built = build(spec, output, coreos, shop, variant)
    if as_json:
        click.echo(json.dumps([
            {
                "file": str(layer.file), "path": layer.manifest.path, "version": layer.manifest.version,
                "kind": layer.manifest.kind, "root_hash": layer.manifest.image.root_hash, "bytes": layer.size,
                "sha256": layer.sha256,
            }
            for layer in built
        ], indent=2))  # fmt: skip
        return
    for layer in built:
        manifest = layer.manifest
        click.echo(f"{layer.file}  {manifest.kind}, {size_text(layer.size)}, root hash {manifest.image.root_hash[:16]}…")
    click.echo("unsigned: sign with `milkyway layer sign FILE --key KEYFILE`", err=True)


@layer.command()
@click.argument("files", type=_FILE, nargs=-1, required=True, metavar="FILE...")
@click.option("--key", "keys", type=_FILE, multiple=True, required=True, help="Sign with this key file; repeatable.")
@click.option("--passphrase-file", type=_FILE, help="The passphrase is its first line.")
def sign(files: tuple[Path, ...], keys: tuple[Path, ...], passphrase_file: Path | None) -> None:
    """Add a signature to each FILE.

    Example: milkyway layer sign build/layers/example-nginx_1.layer --key keys/alice.key
    """
    signers = load_signers(list(keys), passphrase_file, os.environ)
    for file in files:
        signed = sign_layer(file, signers)
        persons = ", ".join(f"{signer.entry.person} ({signer.entry.key_id[:12]}…)" for signer in signers)
        click.echo(f"signed {signed.manifest.path} {signed.manifest.version} by {persons}: {file}")


@layer.command()
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect(file: Path, as_json: bool) -> None:
    """Show what FILE says about itself, and which keys it claims to be signed by. Nothing is verified: see ``verify``.

    Example: milkyway layer inspect build/layers/example-nginx_1.layer
    """
    read = read_layer(file, unsigned=True)
    signers = [signature.keyid for signature in signatures(read)]
    if as_json:
        click.echo(json.dumps(layer_facts(read, signers, file.stat().st_size, file_sha256(file)), indent=2))
    else:
        Console().print(layer_view(read, signers, file.stat().st_size))


@layer.command()
@click.argument("files", type=_FILE, nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--root", "roots", type=_FILE, multiple=True, required=True, help="A signed root; give the owner's and the vendor's."
)
def verify(files: tuple[Path, ...], roots: tuple[Path, ...]) -> None:
    """Verify every byte of each FILE as a machine with these roots would.

    Example: milkyway layer verify nginx.layer --root owner-root.json --root vendor-root.json
    """
    trust = _trust(roots)
    for file in files:
        read, verified = verify_layer(file, trust)
        by = ", ".join(sorted(verified.persons))
        click.echo(f"verified {read.manifest.path} {read.manifest.version}, signed by {by}: {file}")


def _trust(roots: tuple[Path, ...]) -> Trust:
    """Return the trust that the signed roots in the files *roots* give: one of each side."""
    sides: dict[str, bytes] = {}
    for file in roots:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise UnavailableError(f"cannot read root {file}: {error.strerror}") from error
        sides[verify_root(data)[0].side] = data
    if len(sides) != 2 or len(roots) != 2:
        hint = "--root owner-root.json --root vendor-root.json"
        raise RefusedError(f"cannot verify: {' and '.join(sorted(sides))} root given, needed is one of each side", hint=hint)
    return Trust.from_envelopes(vendor=sides["vendor"], owner=sides["owner"])


def _epoch(text: str | None) -> int | None:
    """Return the time in *text* (of SOURCE_DATE_EPOCH), None when it isn't set."""
    if text is None or text == "":
        return None
    if not text.isascii() or not text.isdigit():
        raise RefusedError(f"cannot use SOURCE_DATE_EPOCH={text!r}: not a number of seconds")
    return int(text)
