"""A file tree as a value: paths, kinds, modes and contents; read from a tar file, written to a folder.

The value is in a normal form: sorted paths without a leading slash, permission bits only
(no setuid, setgid or sticky bit; the owner may read), no owner, no time. Device nodes,
sockets and pipes are left out below ``dev`` and refused anywhere else, as are names that
are not plain text. Contents stay where they are (``Source``) until ``write_tree`` copies them.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple

from milkyway_formats.errors import RefusedError

DIRECTORY_MODE = 0o755
_CHUNK = 1 << 20


class TreeError(RefusedError):
    """A tree holds something that no layer may hold."""


class Entry(NamedTuple):
    """One name in a tree: a directory, a file (``sha256`` and ``size`` of its bytes) or a link to ``target``."""

    kind: Literal["directory", "file", "link"]
    mode: int = 0o755
    sha256: str = ""
    size: int = 0
    target: str = ""


class Source(NamedTuple):
    """Where bytes are: in a stretch of a file, or in memory."""

    file: Path | None
    offset: int = 0
    size: int = 0
    data: bytes = b""


Tree = Mapping[str, Entry]
Sources = Mapping[str, Source]


class TarTree(NamedTuple):
    """What ``read_tar`` found: the tree, the bytes for each SHA-256, and the files' times."""

    tree: dict[str, Entry]
    sources: dict[str, Source]
    times: dict[str, int]


def read_tar(path: Path) -> TarTree:
    """Return the tree in the uncompressed tar file *path*. Raises TreeError for anything that no layer may hold."""
    tree: dict[str, Entry] = {}
    sources: dict[str, Source] = {}
    times: dict[str, int] = {}
    with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
        for member in tar:
            name = _name(member.name)
            if not name:
                continue
            # The owner may always read: the build must be able to, and on a read-only mount it gives nothing away.
            mode = (member.mode & 0o777) | (0o700 if member.isdir() else 0o400)
            if member.isdir():
                tree[name] = Entry("directory", mode)
            elif member.issym():
                tree[name] = Entry("link", 0o777, target=member.linkname)
            elif member.islnk():
                target = _name(member.linkname)
                if target not in tree:
                    raise TreeError(f"cannot take tree: {name} is a hard link to {target}, which does not exist")
                tree[name] = tree[target]
            elif member.isreg():
                digest = _digest(raw, member)
                tree[name] = Entry("file", mode, digest, member.size)
                sources[digest] = Source(path, member.offset_data, member.size)
                times[name] = int(member.mtime)
            elif not name.startswith("dev/"):
                raise TreeError(f"cannot take tree: {name} is neither file, directory nor link")
    return TarTree(dict(sorted(tree.items())), sources, times)


def file_entry(data: bytes, mode: int) -> tuple[Entry, Source]:
    """Return the entry of a file with the bytes *data*, and its source in memory."""
    return Entry("file", mode & 0o777, hashlib.sha256(data).hexdigest(), len(data)), Source(None, 0, len(data), data)


def identity(entry: Entry) -> str:
    """Return what identifies *entry*'s contents: the SHA-256 of a file's bytes or a link's target; "" for a directory."""
    return text_identity(entry.target) if entry.kind == "link" else entry.sha256


def text_identity(target: str) -> str:
    """Return the identity of a link to *target*."""
    return hashlib.sha256(target.encode()).hexdigest()


def read_source(source: Source) -> bytes:
    """Return the bytes of *source*."""
    if source.file is None:
        return source.data
    with source.file.open("rb") as file:
        file.seek(source.offset)
        return file.read(source.size)


def parents(path: str) -> list[str]:
    """Return the directories above *path*, outermost first."""
    return [str(parent) for parent in reversed(PurePosixPath(path).parents) if str(parent) != "."]


def with_parents(tree: Tree, known: Tree) -> dict[str, Entry]:
    """Return *tree*, sorted, with all directories above its entries, taken from *known* (else with mode ``0755``).

    Raises TreeError when something lies below a file or a link: overlayfs would hide it.
    """
    whole = dict(tree)
    for path in tree:
        for parent in parents(path):
            entry = whole.get(parent) or known.get(parent) or Entry("directory", DIRECTORY_MODE)
            if entry.kind != "directory":
                raise TreeError(f"cannot make tree: /{path} lies below /{parent}, which is a {entry.kind}")
            whole[parent] = entry
    return dict(sorted(whole.items()))


def tree_digest(tree: Tree) -> str:
    """Return a SHA-256 of all of *tree*: equal digests give equal images."""
    lines = ("\0".join(map(str, (path, *entry))) + "\n" for path, entry in sorted(tree.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_tree(tree: Tree, sources: Sources, folder: Path) -> None:
    """Make *tree* in the new folder *folder*, which must not exist. To undo it, remove *folder*."""
    folder.mkdir()
    made: list[tuple[Path, int]] = [(folder, DIRECTORY_MODE)]
    for path, entry in sorted(tree.items()):
        place = folder / path
        match entry.kind:
            case "directory":
                place.mkdir()
                made.append((place, entry.mode))
            case "file":
                _copy(sources[entry.sha256], place)
                place.chmod(entry.mode)
            case "link":
                place.symlink_to(entry.target)
    for place, mode in reversed(made):
        place.chmod(mode)


def _copy(source: Source, place: Path) -> None:
    """Write the bytes of *source* to *place*."""
    if source.file is None:
        place.write_bytes(source.data)
        return
    with source.file.open("rb") as file, place.open("wb") as out:
        file.seek(source.offset)
        for chunk in _chunks(file, source.size):
            out.write(chunk)


def _digest(raw: BinaryIO, member: tarfile.TarInfo) -> str:
    """Return the SHA-256 of *member*'s bytes, which are uncompressed in *raw*; leave *raw*'s position as it was."""
    if member.sparse is not None:
        raise TreeError(f"cannot take tree: {member.name} is a sparse file")
    digest, before = hashlib.sha256(), raw.tell()
    raw.seek(member.offset_data)
    for chunk in _chunks(raw, member.size):
        digest.update(chunk)
    raw.seek(before)
    return digest.hexdigest()


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the next *size* bytes of *file*. Raises TreeError when there are fewer."""
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise TreeError("cannot take tree: the tar file ends too early")
        size -= len(chunk)
        yield chunk


def _name(name: str) -> str:
    """Return a tar member's *name* without ``./`` and slashes at its ends; refuse one that isn't plain."""
    plain = name.removeprefix("./").strip("/")
    if plain in ("", "."):
        return ""
    if any(part in ("", ".", "..") for part in plain.split("/")) or not plain.isprintable():
        raise TreeError(f"cannot take tree: {name!r} is not a plain name")
    return plain
