"""A layer as people read it, and as programs do: what ``milkyway layer inspect`` prints. Pure."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from milkyway_formats.grants import describe
from milkyway_formats.manifest import BLOCK_SIZE, Manifest
from milkyway_formats.service import Service
from milkyway_layers.assembly import LayerFile

_KINDS = {"app": "application", "library": "library", "base": "OS base"}


def size_text(size: int) -> str:
    """Return *size* in bytes as people read it: ``3.4 MiB``."""
    number = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def service_text(service: Service) -> str:
    """Return one line about *service*."""
    scratch = f", scratch {' '.join(scratch.path for scratch in service.scratch)}" if service.scratch else ""
    return (
        f"{service.name}: {' '.join(service.command)} ({service.type}, user {service.user}, domain {service.domain}{scratch})"
    )


def stack_text(manifest: Manifest) -> list[str]:
    """Return what lies below the layer, topmost first."""
    lines = [f"{library.path} {library.version} ({library.root_hash[:12]}…)" for library in manifest.libraries]
    if manifest.base == "coreos":
        lines.append(f"CoreOS, interface {manifest.coreos_interface}")
    return lines


def layer_view(layer: LayerFile, signers: list[str], size: int) -> RenderableType:
    """Return *layer* for a terminal; *signers* are key ids, *size* is the file's."""
    manifest, image = layer.manifest, layer.manifest.image
    title = Text.assemble((manifest.path, "bold cyan"), " ", (manifest.version, "bold"), f"  {_KINDS[manifest.kind]} layer")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows: list[tuple[str, list[str]]] = [
        ("base", [manifest.base]),
        ("stands on", stack_text(manifest)),
        ("image", [f"{size_text(image.data_blocks * BLOCK_SIZE)} ({image.data_blocks} blocks, {size_text(size)} as a file)"]),
        ("root hash", [image.root_hash]),
        ("services", [service_text(service) for service in manifest.services]),
        ("grants", [describe(grant) for grant in manifest.grants]),
        ("OS services", list(manifest.os_services)),
        ("data", [f"{data.name} ({data.data_class}) {data.path}".rstrip() for data in manifest.data]),
        ("policy", [f"{manifest.policy.size} bytes, {manifest.policy.sha256[:12]}…"] if manifest.policy else []),
        ("packages", [_packages(manifest)] if manifest.packages else []),
        ("signed by", signers or ["nobody (unsigned)"]),
    ]
    for name, lines in rows:
        if lines:
            table.add_row(name, Text("\n".join(lines)))
    return Group(title, table)


def layer_facts(layer: LayerFile, signers: list[str], size: int, sha256: str) -> dict[str, object]:
    """Return *layer* for programs."""
    manifest = layer.manifest
    return {
        "path": manifest.path,
        "version": manifest.version,
        "kind": manifest.kind,
        "base": manifest.base,
        "file_bytes": size,
        "file_sha256": sha256,
        "image_bytes": manifest.image.data_blocks * BLOCK_SIZE,
        "root_hash": manifest.image.root_hash,
        "libraries": [
            {"path": library.path, "version": library.version, "root_hash": library.root_hash} for library in manifest.libraries
        ],
        "services": [service.name for service in manifest.services],
        "grants": [describe(grant) for grant in manifest.grants],
        "policy_sha256": manifest.policy.sha256 if manifest.policy else None,
        "packages": {package.name: package.version for package in manifest.packages},
        "signers": signers,
    }


def _packages(manifest: Manifest) -> str:
    names = [package.name for package in manifest.packages]
    shown = ", ".join(names[:6])
    return f"{len(names)}: {shown}" + (f" and {len(names) - 6} more" if len(names) > 6 else "")
