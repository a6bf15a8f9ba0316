"""From a spec to unsigned layer files: the shell around ``compose`` that installs, reads and writes.

The cache keeps two things, each under the hash of what it was made from: the roots that
the package manager made (made again only on ``refresh``), and images with their hash
trees. A step writes into a folder of its own and renames it when done, so what an
interrupted build leaves behind is never used; the next build removes it.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from milkyway_formats.codec import decode, encode
from milkyway_formats.errors import UnavailableError
from milkyway_formats.layer_file import MAX_POLICY_BYTES
from milkyway_formats.manifest import Image, LibraryReference, Manifest, PolicyOverlay
from milkyway_layers.assembly import file_sha256, write_layer
from milkyway_layers.components import HostSettings, packages_of
from milkyway_layers.compose import Bottom, Part, compose, compose_base, coreos_bottom, coreos_files
from milkyway_layers.engines.engine import Engine, ExtraRepository, Request, Root
from milkyway_layers.image import OPTIONS, make_image
from milkyway_layers.osbase import OsBase, interface, os_base
from milkyway_layers.policy import check_policy_of
from milkyway_layers.progress import Progress
from milkyway_layers.spec import ImageSpec, SpecError, read_spec
from milkyway_layers.tools import Tools
from milkyway_layers.tree import Sources, identity, read_source, tree_digest
from milkyway_layers.verity import append_tree

_MAX_FILE = 64 << 20


class Built(NamedTuple):
    """A layer file that was made."""

    file: Path
    manifest: Manifest
    size: int
    sha256: str


class Workshop(NamedTuple):
    """What a build works with. ``epoch``: the build time in the manifests, if not that of a layer's newest file."""

    engines: Mapping[str, Engine]
    tools: Tools
    cache: Path
    progress: Progress
    host: HostSettings = HostSettings()
    epoch: int | None = None
    refresh: bool = False


class _Inputs(NamedTuple):
    """The spec and everything that it refers to, read. ``mark`` is added to the file names of a variant."""

    spec: ImageSpec
    base: OsBase
    seeds: Sequence[str]
    repositories: tuple[ExtraRepository, ...]
    files: Mapping[str, bytes]
    policy: bytes
    mark: str


def build(
    spec_file: Path, output: Path, coreos: Path, shop: Workshop, variant: Literal["coreos", "sealed"] | None = None
) -> list[Built]:
    """Build the layers of *spec_file* into the folder *output*: unsigned, topmost first.

    *coreos* is the folder with CoreOS's ``files.txt``; *variant* replaces the spec's base.
    """
    spec = read_spec(_text(spec_file), str(spec_file))
    mark = ""
    if variant is not None and variant != spec.base:
        spec, mark = msgspec.structs.replace(spec, base=variant), f"_{variant}"
    base = os_base(spec.os)
    if base.deprecated:
        shop.progress.note(f"{base.name} is deprecated: {base.deprecated}")
    folder = spec_file.parent
    files = {file.path: _bytes(folder, file.source) if file.source else (file.text or "").encode() for file in spec.files}
    policy = _bytes(folder, spec.policy, MAX_POLICY_BYTES) if spec.policy else b""
    check_policy_of(spec, policy)
    by_components = [name for component in spec.components for name in packages_of(component, spec.os, shop.host)]
    seeds = [*spec.packages, *by_components]
    inputs = _Inputs(spec, base, seeds, _repositories(spec, folder), files, policy, mark)
    with _locked(shop.cache):
        return _build(inputs, output, coreos, shop)


def _build(inputs: _Inputs, output: Path, coreos: Path, shop: Workshop) -> list[Built]:
    spec, base = inputs.spec, inputs.base
    provided = _coreos(coreos, spec) if spec.base == "coreos" else {}
    wanted = tuple(sorted({*inputs.seeds, *(name for library in spec.libraries for name in library.packages)}))
    root = _root(Request(base.suite, wanted, inputs.repositories), base, shop)
    sources: dict[str, Sources] = {}
    below: list[Part] = []
    if spec.base == "sealed":
        base_root = _root(Request(base.suite, ()), base, shop)
        below = [compose_base(base_root, base)]
        sources[below[0].path] = base_root.sources
        bottom = Bottom({path: identity(entry) for path, entry in below[0].tree.items()}, frozenset())
    else:
        bottom = coreos_bottom(provided, root, interface(base, spec.coreos_interface))
    with shop.progress.step("compose"):
        parts, own = compose(
            spec, root, bottom, inputs.seeds, inputs.files, lambda entry: read_source(root.sources[entry.sha256])
        )
    output.mkdir(parents=True, exist_ok=True)
    built: list[Built] = []
    for part in reversed([*parts, *below]):
        with shop.progress.step(f"image of {part.path}"):
            kept = _image(part, sources.get(part.path, {**root.sources, **own}), shop)
        references = [_reference(layer.manifest) for layer in built] if part is parts[0] else []
        built.insert(0, _finish(inputs, part, kept, references, output, shop))
    return built


def _finish(inputs: _Inputs, part: Part, kept: Path, libraries: list[LibraryReference], output: Path, shop: Workshop) -> Built:
    """Write the layer file of *part* from its image in the folder *kept*."""
    spec = inputs.spec
    top = part.path == spec.path
    policy = inputs.policy if top else b""
    manifest = Manifest(
        format="milkyway.manifest/1",
        path=part.path,
        version=part.version,
        built=part.newest if shop.epoch is None else shop.epoch,
        kind=part.kind,
        base=spec.base,
        image=decode((kept / "image.json").read_bytes(), Image, what="kept image"),
        coreos_interface=spec.coreos_interface,
        libraries=libraries,
        policy=PolicyOverlay(sha256=sha256(policy).hexdigest(), size=len(policy)) if policy else None,
        services=spec.services if top else [],
        grants=spec.grants if top else [],
        os_services=spec.os_services if top else [],
        data=spec.data if top else [],
        packages=list(part.packages),
    )
    data = encode(manifest)
    decode(data, Manifest, what=f"manifest of {part.path}")  # the types are checked at decoding
    mark = "" if part.kind == "base" else inputs.mark
    file = output / f"{part.path.replace('/', '-')}_{part.version}{mark}.layer"
    write_layer(file, kept / "image", manifest, data, policy, b"")
    return Built(file, manifest, file.stat().st_size, file_sha256(file))


def _root(request: Request, base: OsBase, shop: Workshop) -> Root:
    """Return the root for *request*, from the cache or made now."""
    engine = shop.engines[base.engine]

    def install(place: Path) -> None:
        names = " ".join(request.packages) or f"{base.name} alone"
        with shop.progress.step(f"install {names}"):
            engine.install(request, place, shop.cache.absolute() / "packages")

    made = _kept(shop.cache / "roots" / engine.key(request), install, again=shop.refresh)
    with shop.progress.step("read the root"):
        return engine.read(made)


def _image(part: Part, sources: Sources, shop: Workshop) -> Path:
    """Return the folder with *part*'s ``image`` (hash tree appended) and ``image.json``, from the cache or made now."""

    def make(place: Path) -> None:
        make_image(part.tree, sources, place / "image", shop.tools)
        (place / "image.json").write_bytes(encode(append_tree(place / "image", shop.tools)))
        shutil.rmtree(place / "image.tree")

    key = sha256(json.dumps([tree_digest(part.tree), OPTIONS]).encode()).hexdigest()
    return _kept(shop.cache / "images" / key, make)


def _kept(place: Path, make: Callable[[Path], None], *, again: bool = False) -> Path:
    """Return the folder *place*; if it does not exist, or *again*, let *make* fill a fresh one first."""
    if place.is_dir() and not again:
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f"{place.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    make(fresh)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    return place


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Hold the lock of *cache*: a second build waits for the first."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _reference(manifest: Manifest) -> LibraryReference:
    return LibraryReference(path=manifest.path, version=manifest.version, root_hash=manifest.image.root_hash)


def _repositories(spec: ImageSpec, folder: Path) -> tuple[ExtraRepository, ...]:
    return tuple(
        ExtraRepository(
            repository.uri,
            repository.suite,
            tuple(repository.components),
            _bytes(folder, repository.key).decode(errors="replace"),
        )
        for repository in spec.repositories
    )


class _CoreOsFacts(msgspec.Struct):
    """The part of ``coreos.json`` that matters here."""

    interface: int


def _coreos(folder: Path, spec: ImageSpec) -> dict[str, str]:
    """Return the files of the CoreOS in *folder*. Raises SpecError when it is too old for *spec*."""
    listing, facts = folder / "files.txt", folder / "coreos.json"
    if not listing.is_file():
        raise UnavailableError(f"cannot build over CoreOS: there is no {listing}", hint="run: milkyway coreos build")
    has = msgspec.json.decode(facts.read_bytes(), type=_CoreOsFacts).interface if facts.is_file() else 1
    if has < spec.coreos_interface:
        raise SpecError(f"cannot build over CoreOS: it has interface {has}, {spec.path} asks for {spec.coreos_interface}")
    return coreos_files(listing.read_text())


def _text(spec_file: Path) -> str:
    try:
        return spec_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UnavailableError(f"cannot read {spec_file}: {why}") from error


def _bytes(folder: Path, name: str, limit: int = _MAX_FILE) -> bytes:
    """Return the bytes of the file *name* in the spec's *folder*; refuse one that a link puts outside of it."""
    file = folder / name
    if not os.path.realpath(file).startswith(f"{os.path.realpath(folder)}/"):
        raise SpecError(f"cannot take {name}: it leads out of the spec's folder")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot take {name}: {error.strerror}") from error
    if len(data) > limit:
        raise SpecError(f"cannot take {name}: {len(data)} bytes, at most {limit} are allowed")
    return data
