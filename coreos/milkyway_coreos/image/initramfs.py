"""The initramfs: one static program and the modules that open the root, as an archive written here byte by byte.

The format is the kernel's "newc" cpio, uncompressed: the archive is small, and unpacking costs time at
every boot. Order, times, owners and inode numbers are fixed, so the same files give the same bytes.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from milkyway_coreos.image.kernel import Modules, loading_order

DIRECTORY, FILE, DEVICE = 0o040000, 0o100000, 0o020000


class Entry(NamedTuple):
    """One file of the archive; *mode* includes its kind."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def entries(init: bytes, modules: Modules, wanted: Iterable[str]) -> Iterator[Entry]:
    """Yield the files of the initramfs: *init*, the *wanted* modules and ``/modules``, which names them in loading order."""
    order = loading_order(wanted, modules.needs)
    yield Entry("dev", DIRECTORY | 0o755)
    yield Entry("dev/console", DEVICE | 0o600, device=(5, 1))
    yield Entry("init", FILE | 0o755, init)
    yield Entry("lib", DIRECTORY | 0o755)
    for name in order:
        yield Entry(f"lib/{name}.ko", FILE | 0o644, modules.content(name))
    yield Entry("modules", FILE | 0o644, "".join(f"/lib/{name}.ko\n" for name in order).encode())


def archive(files: Iterable[Entry]) -> bytes:
    """Return the newc archive of *files*, padded to whole 512-byte blocks."""
    parts = [_member(number, entry) for number, entry in enumerate(files, start=1)]
    parts.append(_member(0, Entry("TRAILER!!!", 0)))
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % 512)


def _member(number: int, entry: Entry) -> bytes:
    links = 2 if entry.mode & 0o170000 == DIRECTORY else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(entry.path) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + entry.path.encode() + b"\0"
    return head + bytes(-len(head) % 4) + entry.content + bytes(-len(entry.content) % 4)
