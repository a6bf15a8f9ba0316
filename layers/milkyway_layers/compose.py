"""What goes into which layer: decisions over a root with packages installed. Pure.

A root becomes parts, topmost first: the app, then its library layers in the spec's order.
What the bottom of the stack provides is left out. Over CoreOS that is what the interface
promises, by package: CoreOS guarantees the files of those packages and no others, so a
layer keeps its own libssl even where today's CoreOS happens to hold the same one. Over an
OS base layer, which is pinned by its root hash, it is every file that is the same there.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from milkyway_formats.errors import RefusedError
from milkyway_formats.manifest import Package
from milkyway_layers.engines.engine import Installed, Root
from milkyway_layers.osbase import OsBase
from milkyway_layers.spec import ImageSpec
from milkyway_layers.tree import Entry, Source, Tree, file_entry, identity, parents, with_parents

# Documentation and the package manager's own state; what a running system writes; other init systems' files.
_LEFT_OUT = re.compile(
    r"(?:\.milkyway|boot|dev|proc|run|sys|tmp|root|home|media|mnt|var/(?:backups|cache|log|mail|spool|tmp|local|opt)"
    r"|var/lib/(?:apt|dpkg|pam|systemd|misc|shells\.state)|usr/share/(?:bug|doc|doc-base|info|lintian|locale|man|menu"
    r"|bash-completion|zsh|fish|initramfs-tools)|usr/(?:lib/systemd|lib/init|lib/dpkg|lib/apt|games|include|local|src)"
    r"|etc/(?:apt|dpkg|init\.d|rc[0-9S]\.d|cron\.[a-z]+|logrotate\.d|systemd|ufw|kernel|update-motd\.d|skel|resolv\.conf"
    r"|hostname|hosts|fstab|mtab|machine-id|\.pwd\.lock|g?shadow-?|passwd-|group-|sub[ug]id-?))(?:/.*)?"
)
_COPYRIGHT = re.compile(r"usr/share/doc/[^/]+/copyright")
_LIBRARY = re.compile(r"usr/lib/[a-z0-9_]+-linux-gnu/[^/]+\.so(?:\.[^/]*)?")
_ELF = b"\x7fELF"
MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp")


class ComposeError(RefusedError):
    """The spec asks for a layer that can't be put together."""


class Part(NamedTuple):
    """One layer to be made. ``newest`` is the time of its newest packaged file: a build time that every build repeats."""

    kind: Literal["app", "library", "base"]
    path: str
    version: str
    tree: Tree
    packages: tuple[Package, ...]
    newest: int


class Bottom(NamedTuple):
    """What the stack stands on: ``files`` as path → identity, and the packages whose files it guarantees."""

    files: Mapping[str, str]
    packages: frozenset[str]


def coreos_files(text: str) -> dict[str, str]:
    """Return path → identity of CoreOS's files, from its ``files.txt`` (lines ``sha256  mode  path``)."""
    files = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split(None, 2)
        if len(fields) != 3:
            raise ComposeError(f"cannot read CoreOS's list of files: line {number} is not 'sha256 mode path'")
        files[fields[2].lstrip("/")] = fields[0]
    return files


def coreos_bottom(files: Mapping[str, str], root: Root, interface: frozenset[str]) -> Bottom:
    """Return CoreOS as a bottom: of the packages in *interface*, those of which it really has files."""
    present = {name for path in files for name in root.owners.get(path, ())}
    return Bottom(files, interface & present)


def closure(wanted: Iterable[str], packages: Mapping[str, Installed], without: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return *wanted* and everything that they need, of the installed *packages*, without those in *without*."""
    found: set[str] = set()
    queue = list(wanted)
    while queue:
        name = queue.pop()
        if name in found or name in without:
            continue
        if name not in packages:
            raise ComposeError(f"cannot compose: package {name} was not installed")
        found.add(name)
        queue += [chosen for choice in packages[name].needs if (chosen := _installed(choice, packages))]
    return frozenset(found)


def compose_base(root: Root, base: OsBase) -> Part:
    """Return *base*'s OS base layer from a *root* without any requested package."""
    names = closure(base.packages, root.packages)
    chosen = {
        path: entry
        for path, entry in root.tree.items()
        if not left_out(path) and (_owned(root, path, names) or (path not in root.owners and _stays(path, entry)))
    }
    version = root.packages[base.version_package].package.version.partition(":")[2]
    version = version or root.packages[base.version_package].package.version
    points = {point: Entry("directory") for point in MOUNT_POINTS}
    return _part("base", base.layer_path, version, {**points, **chosen}, names, root)


def compose(
    spec: ImageSpec,
    root: Root,
    bottom: Bottom,
    seeds: Sequence[str],
    files: Mapping[str, bytes],
    read: Callable[[Entry], bytes],
) -> tuple[list[Part], dict[str, Source]]:
    """Return the parts that *spec* becomes, topmost first, and the sources of the files that the spec itself brings.

    *seeds*: the packages that spec and components name; *files*: the bytes of each of the spec's files, by path;
    *read* gives the bytes of a file of *root*.
    """
    without = frozenset(spec.without)
    if stray := without - closure(seeds, root.packages):
        raise ComposeError(f"cannot compose {spec.path}: it is to be without {sorted(stray)[0]}, which nothing in it needs")
    taken: set[str] = set(bottom.packages)
    libraries = []
    for library in spec.libraries:
        names = closure(library.packages, root.packages, without) - taken
        taken |= names
        libraries.append((library, names, _choose(root, names, bottom)))
    names = closure([*seeds, *(p for library in spec.libraries for p in library.packages)], root.packages, without) - taken
    tree = _choose(root, names, bottom)
    tree |= _libraries_missing_below(root, bottom, [tree, *(chosen for _, _, chosen in libraries)], read)
    tree |= _made_by_scripts(root, bottom)
    sources = _put_files(spec, files, tree, root)
    kind: Literal["app", "library"] = "app" if spec.services else "library"
    parts = [_part(kind, spec.path, spec.version, tree, names, root)]
    parts += [_part("library", library.path, library.version, chosen, names, root) for library, names, chosen in libraries]
    for part in parts:
        if not any(entry.kind == "file" for entry in part.tree.values()):
            raise ComposeError(f"cannot compose {part.path}: the layers below have everything in it already")
    return parts, sources


def left_out(path: str) -> bool:
    """Tell whether no layer keeps *path*: documentation (except licences), caches, the package manager's state."""
    return bool(_LEFT_OUT.fullmatch(path)) and not _COPYRIGHT.fullmatch(path)


def _installed(choice: tuple[str, ...], packages: Mapping[str, Installed]) -> str | None:
    """Return the package that satisfies *choice*: the first installed by name, else one that provides it."""
    for name in choice:
        if name in packages:
            return name
    return next((name for name in sorted(packages) if packages[name].provides & set(choice)), None)


def _owned(root: Root, path: str, names: frozenset[str]) -> bool:
    return not names.isdisjoint(root.owners.get(path, ()))


def _stays(path: str, entry: Entry) -> bool:
    """Tell whether the OS base layer keeps *path*, which no package owns: it is in ``/etc``, or a link at the top."""
    return path.startswith("etc/") or (entry.kind == "link" and "/" not in path)


def _same_below(path: str, entry: Entry, bottom: Bottom) -> bool:
    return entry.kind != "directory" and bottom.files.get(path) == identity(entry)


def _choose(root: Root, names: frozenset[str], bottom: Bottom) -> dict[str, Entry]:
    """Return what of *root* belongs to packages *names* and is kept.

    Where the bottom promises packages (CoreOS), only packages count; else files that are the same below are left out.
    """
    by_file = not bottom.packages
    return {
        path: entry
        for path, entry in root.tree.items()
        if _owned(root, path, names) and not left_out(path) and not (by_file and _same_below(path, entry, bottom))
        if not (entry.kind == "directory" and root.owners[path] & bottom.packages)
    }


def _libraries_missing_below(
    root: Root, bottom: Bottom, trees: Sequence[Tree], read: Callable[[Entry], bytes]
) -> dict[str, Entry]:
    """Return the shared libraries that a program in *trees* names and that CoreOS, which promises their package, trimmed."""
    missing = {
        path: entry
        for path, entry in root.tree.items()
        if _LIBRARY.fullmatch(path) and path not in bottom.files and _owned(root, path, bottom.packages)
    }
    if not missing:
        return {}
    programs = {entry.sha256: entry for tree in trees for entry in tree.values() if entry.kind == "file"}
    named: set[str] = set()
    for entry in programs.values():
        data = read(entry)
        if data.startswith(_ELF):
            # The names of linked libraries stand whole in the string table; searching costs less than parsing.
            named |= {path for path in missing if PurePosixPath(path).name.encode() + b"\0" in data}
    return {path: missing[path] for path in sorted(named)}


def _made_by_scripts(root: Root, bottom: Bottom) -> dict[str, Entry]:
    """Return what maintainer scripts of the requested packages made or changed, unless the bottom has the same."""
    return {
        path: entry
        for path, entry in root.tree.items()
        if path not in root.owners and entry.kind != "directory" and not left_out(path)
        if root.before.get(path) != identity(entry) and not _same_below(path, entry, bottom)
    }


def _put_files(spec: ImageSpec, files: Mapping[str, bytes], tree: dict[str, Entry], root: Root) -> dict[str, Source]:
    """Put the spec's own files and every mount point into *tree*; return the files' sources."""
    sources = {}
    for file in spec.files:
        path = _straight(file.path, root)
        if (there := root.tree.get(path)) and there.kind == "directory":
            raise ComposeError(f"cannot compose {spec.path}: {file.path} is a directory")
        tree[path], source = file_entry(files[file.path], int(file.mode, 8))
        sources[tree[path].sha256] = source
    points = [scratch.path for service in spec.services for scratch in service.scratch]
    points += [data.path for data in spec.data if data.path]
    for point in (*(_straight(path, root) for path in points), *MOUNT_POINTS):
        if tree.setdefault(point, Entry("directory")).kind != "directory":
            raise ComposeError(f"cannot compose {spec.path}: /{point} is to be a mount point, but is not a directory")
    return sources


def _straight(path: str, root: Root) -> str:
    """Return *path* without its slash; refuse one that leads through a link, since overlayfs would hide the link."""
    plain = path.strip("/")
    for parent in (*parents(plain), plain):
        entry = root.tree.get(parent)
        if entry is not None and entry.kind == "link" and parent != plain:
            raise ComposeError(
                f"cannot compose: {path} lies behind the link /{parent} -> {entry.target}; write the path without the link"
            )
    return str(PurePosixPath(plain))


def _part(
    kind: Literal["app", "library", "base"], path: str, version: str, tree: Tree, names: frozenset[str], root: Root
) -> Part:
    """Return the part made of *tree*; its packages are those of *names* that have a file in it."""
    files = [at for at, entry in tree.items() if entry.kind != "directory"]
    present = {name for at in files for name in root.owners.get(at, ())} & names
    packages = tuple(root.packages[name].package for name in sorted(present))
    newest = max((root.times.get(at, 0) for at in files if at.startswith("usr/") and at in root.owners), default=0)
    return Part(kind, path, version, with_parents(tree, root.tree), packages, newest)
