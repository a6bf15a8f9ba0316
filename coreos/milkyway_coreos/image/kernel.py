"""The kernel of CoreOS: image, the modules it needs in loading order, and an ELF image for emulators.

Modules are unpacked but never stripped: that keeps their signatures, which Secure Boot needs.
What a module depends on is read from the module itself (``modinfo``'s fields), so nothing
here needs ``depmod`` or runs a program of the package.
"""

import lzma
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from milkyway_coreos import tools
from milkyway_coreos.image.steps import remove_tree
from milkyway_formats.errors import RefusedError

MODINFO = re.compile(rb"\0(depends|softdep)=([^\0]*)(?=\0)")


class Needs(NamedTuple):
    """What a module declares: it cannot load without *depends*, and requests *soft* when it loads."""

    depends: tuple[str, ...]
    soft: tuple[str, ...]


def unpack(package: Path, into: Path) -> None:
    """Unpack ``vmlinuz``, ``vmlinux``, ``config`` and ``modules/`` from the kernel *package* into *into*."""
    tools.run(["dpkg-deb", "-x", str(package), str(into / "package")])
    (image,) = (into / "package/boot").glob("vmlinuz-*")
    (settings,) = (into / "package/boot").glob("config-*")
    image.rename(into / "vmlinuz")
    settings.rename(into / "config")
    (into / "vmlinux.zst").write_bytes(payload_of((into / "vmlinuz").read_bytes()))
    tools.run(tools.tools_tree().command("zstd", "-dq", "--rm", into / "vmlinux.zst"))
    (into / "version").write_text(image.name.removeprefix("vmlinuz-"))
    (into / "modules").mkdir()
    for module in (into / "package/usr/lib/modules").glob("*/kernel/**/*.ko.xz"):
        module.rename(into / "modules" / module.name)
    remove_tree(into / "package")


def module_name(name: str) -> str:
    """Return *name* as the kernel writes it: ``-`` and ``_`` are the same in a module's name."""
    return name.replace("-", "_")


class Modules:
    """The modules in a directory of ``*.ko.xz`` files, by their kernel name."""

    def __init__(self, directory: Path) -> None:
        self._files = {module_name(file.name.removesuffix(".ko.xz")): file for file in directory.iterdir()}

    def content(self, name: str) -> bytes:
        """Return module *name* as the kernel loads it, signature included."""
        return lzma.decompress(self._files[module_name(name)].read_bytes())

    def needs(self, name: str) -> Needs:
        """Return which other modules module *name* needs. Raises RefusedError when the kernel has no such module."""
        if module_name(name) not in self._files:
            raise RefusedError(f"cannot take module {name} from the kernel: it has none of that name")
        needs = read_needs(self.content(name))
        return Needs(needs.depends, tuple(soft for soft in needs.soft if soft in self._files))  # the others are built in


def read_needs(module: bytes) -> Needs:
    """Return what *module* needs according to its ``.modinfo`` section."""
    facts = [(key, value.decode()) for key, value in MODINFO.findall(module)]
    depends = [name for key, value in facts if key == b"depends" for name in value.split(",") if name]
    before = [value.partition("post:")[0].removeprefix("pre:") for key, value in facts if key == b"softdep"]
    soft = [name for names in before for name in names.split()]
    return Needs(tuple(map(module_name, depends)), tuple(map(module_name, soft)))


def loading_order(wanted: Iterable[str], needs: Callable[[str], Needs], loaded: Iterable[str] = ()) -> list[str]:
    """Return *wanted* and all the modules they need, each after those it needs, without the ones already *loaded*."""
    order: list[str] = []
    done = set(map(module_name, loaded))

    def visit(name: str) -> None:
        if name in done:
            return
        done.add(name)
        needed = needs(name)
        for other in (*needed.depends, *needed.soft):
            visit(other)
        order.append(name)

    for name in wanted:
        visit(module_name(name))
    return order


# Fields of the boot protocol's header (Documentation/arch/x86/boot.rst).
SETUP_SECTS, BOOT_MAGIC, PAYLOAD_OFFSET = 0x1F1, 0x202, 0x248
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def payload_of(image: bytes) -> bytes:
    """Return the compressed kernel inside *image*, a bzImage. Raises RefusedError unless it is zstd, as Debian's is."""
    if image[BOOT_MAGIC : BOOT_MAGIC + 4] != b"HdrS":
        raise RefusedError("cannot read the kernel: it is not a bzImage")
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    start = (image[SETUP_SECTS] + 1) * 512 + offset
    payload = image[start : start + length - 4]  # the last four bytes are the unpacked size
    if not payload.startswith(ZSTD_MAGIC):
        raise RefusedError("cannot read the kernel: its payload is not compressed with zstd")
    return payload
