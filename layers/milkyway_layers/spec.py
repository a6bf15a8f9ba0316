"""The image spec (`image.yaml`), from which a layer is built, as types.

Reading is strict (``yaml_text``): an unknown field, a duplicate key or a wrong type is
refused with its line. Services, grants and data are written as in the manifest. Files
that a spec names (``policy``, ``files[].source``, ``repositories[].key``) are relative
to the spec's folder; ``build`` reads them.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.errors import RefusedError
from milkyway_formats.grants import Grant, UseData
from milkyway_formats.manifest import DataWanted
from milkyway_formats.names import AbsolutePath, LayerPath, LayerVersion, ShortText
from milkyway_formats.service import Service
from milkyway_formats.service_check import check_layer_service
from milkyway_formats.yaml_text import load

PackageName = Annotated[
    str, Meta(pattern=r"^[a-z0-9][a-z0-9+.-]{0,127}$", description="a package, as the distribution's package manager names it")
]
FileName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
        max_length=255,
        description="a file, relative to the spec's folder",
    ),
]
Mode = Annotated[str, Meta(pattern=r"^0[0-7]{3}$", description="permissions in octal, without setuid, e.g. 0644")]


class SpecError(RefusedError):
    """The spec contradicts itself, or names something that does not exist."""


class SpecFile(Document, frozen=True):
    """A file of the layer's own: its text, or a file beside the spec."""

    path: AbsolutePath
    text: str | None = None
    source: FileName | None = None
    mode: Mode = "0644"


class LibrarySpec(Document, frozen=True):
    """A library layer: these packages and their dependencies, shared by every layer that names the same ones."""

    path: LayerPath
    version: LayerVersion
    packages: Annotated[list[PackageName], Meta(min_length=1, max_length=200)]


class Repository(Document, frozen=True):
    """A package repository beside the OS base's own, trusted for its own key only."""

    uri: Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9._:/~+-]+$", max_length=256)]
    suite: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._/-]+$", max_length=64)]
    components: Annotated[list[Annotated[str, Meta(pattern=r"^[A-Za-z0-9._/-]+$")]], Meta(max_length=16)]
    key: FileName


class ImageSpec(Document, frozen=True):
    """What a layer is made of. ``without`` names packages that others depend on and that this layer runs without."""

    format: Literal["milkyway.image/1"]
    path: LayerPath
    version: LayerVersion
    base: Literal["coreos", "sealed"]
    os: ShortText
    coreos_interface: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    components: Annotated[list[ShortText], Meta(max_length=32)] = field(default_factory=list)
    packages: Annotated[list[PackageName], Meta(max_length=500)] = field(default_factory=list)
    without: Annotated[list[PackageName], Meta(max_length=200)] = field(default_factory=list)
    libraries: Annotated[list[LibrarySpec], Meta(max_length=15)] = field(default_factory=list)
    repositories: Annotated[list[Repository], Meta(max_length=8)] = field(default_factory=list)
    files: Annotated[list[SpecFile], Meta(max_length=1000)] = field(default_factory=list)
    services: Annotated[list[Service], Meta(max_length=64)] = field(default_factory=list)
    policy: FileName | None = None
    grants: Annotated[list[Grant], Meta(max_length=64)] = field(default_factory=list)
    os_services: Annotated[list[ShortText], Meta(max_length=32)] = field(default_factory=list)
    data: Annotated[list[DataWanted], Meta(max_length=32)] = field(default_factory=list)


def read_spec(text: str, what: str) -> ImageSpec:
    """Return the spec in *text*. Raises MalformedError (with the line) or SpecError."""
    spec = load(text, ImageSpec, what)
    _check(spec, what)
    return spec


def _check(spec: ImageSpec, what: str) -> None:
    """Check what types can't express: no name is used twice, and what is referred to exists."""

    def refuse(why: str) -> SpecError:
        return SpecError(f"cannot read {what}: {why}")

    services = [service.name for service in spec.services]
    for kind, names in {
        "service": services,
        "file": [file.path for file in spec.files],
        "data": [data.name for data in spec.data],
        "library": [library.path for library in spec.libraries],
        "package to leave out": spec.without,
    }.items():
        if twice := _twice(names):
            raise refuse(f"{kind} {twice} is listed twice")
    for file in spec.files:
        if (file.text is None) == (file.source is None):
            raise refuse(f"file {file.path} needs either a text or a source")
    for service in spec.services:
        check_layer_service(service)
        for name in (*service.requires, *service.wants, *service.after, *service.before):
            if name not in services:
                raise refuse(f"service {service.name} refers to service {name}, which does not exist")
    wanted = {data.name for data in spec.data}
    for grant in spec.grants:
        if isinstance(grant, UseData) and grant.name not in wanted:
            raise refuse(f"a grant refers to data {grant.name}, which does not exist")
    if spec.path in {library.path for library in spec.libraries}:
        raise refuse(f"{spec.path} names itself as its library")
    if not (spec.packages or spec.files or spec.components):
        raise refuse("it has neither packages nor files")


def _twice(names: Iterable[str]) -> str | None:
    """Return the first of *names* that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
