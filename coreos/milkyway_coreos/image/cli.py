"""``milkyway coreos``: build the image that servers boot."""

import json
from pathlib import Path

import click

from milkyway_coreos.image import build as building

MIB = 1024 * 1024


@click.group()
def coreos() -> None:
    """Build CoreOS, the verified root of every server.

    Example: milkyway coreos build
    """


@coreos.command()
@click.option("--output", type=click.Path(path_type=Path), default=building.OUTPUT, help="Where the images go [build/coreos].")
@click.option(
    "--vendor-root",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The vendor's signed root document [build/keys/vendor-root.json, if it exists].",
)
@click.option("--json", "as_json", is_flag=True, help="Print coreos.json.")
def build(output: Path, vendor_root: Path | None, as_json: bool) -> None:
    """Build root.img, vmlinuz and initramfs.img; only what changed is made again.

    Example: milkyway coreos build --output build/coreos
    """
    if vendor_root is None and building.VENDOR_ROOT.exists():
        vendor_root = building.VENDOR_ROOT
    description = building.build(output, vendor_root=vendor_root)
    if as_json:
        click.echo(json.dumps(description, indent=1, sort_keys=True))
        return
    sizes = description["bytes"]
    click.echo(f"root hash  {description['root_hash']}")
    click.echo(f"root       {sizes['root.img'] / MIB:.1f} MiB")
    click.echo(f"kernel     {sizes['vmlinuz'] / MIB:.1f} MiB and initramfs {sizes['initramfs.img'] / MIB:.1f} MiB")
