"""The packages of the root: fetched and unpacked by mmdebstrap, trimmed, as a directory of ordinary files.

mmdebstrap's ``extract`` variant only unpacks: no maintainer script, no package manager, no Essential
set. So the root holds what ``config.PACKAGES`` needs, and its bytes depend on the packages alone.
Owners, times and labels are set when the image is made, not here.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from milkyway_coreos import tools
from milkyway_coreos.image import config, trim

COLLECTED = ".milkyway"
# Runs outside the new root, in mmdebstrap's namespace, with $1 = the root. The packages' archives are still there.
COLLECT = r"""
set -eu
mkdir "$1/.milkyway" && cd "$1/.milkyway"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(apt-cache depends KERNEL | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
apt-get download -q "$kernel"
mv linux-image-*.deb kernel.deb
for archive in kernel.deb "$1"/var/cache/apt/archives/*.deb; do
    printf '%s ' "$(sha256sum <"$archive" | cut -d' ' -f1)"
    dpkg-deb -W --showformat '${Package} ${Version} ${Architecture}\n' "$archive"
done >packages
for archive in "$1"/var/cache/apt/archives/*.deb; do
    dpkg-deb -f "$archive" | sed '/^Package:/a Status: install ok installed'
    echo
done >status
"""


class Package(NamedTuple):
    """One package that the image was made from; *sha256* is its archive's."""

    sha256: str
    name: str
    version: str
    architecture: str


def fetch(into: Path) -> None:
    """Write the packages' files to ``base.tar`` in *into*."""
    command = [
        "mmdebstrap", "--variant=extract", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        f"--include={','.join(config.PACKAGES)}", '--aptopt=APT::Install-Recommends "0"',
        f"--extract-hook={COLLECT.replace('KERNEL', config.KERNEL)}", config.SUITE, str(into / "base.tar"),
    ]  # fmt: skip
    if mirror := os.environ.get("MILKYWAY_MIRROR"):
        command.append(mirror)
    tools.run(command, env={**os.environ, "SOURCE_DATE_EPOCH": str(config.EPOCH)})


def unpack(archive: Path, into: Path) -> None:
    """Unpack the trimmed root from *archive* to ``into/root``, and what COLLECT wrote to *into* itself.

    Set-user-id bits are dropped: no file on a server gives rights to who executes it.
    """
    root = into / "root"
    root.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if path.startswith(f"{COLLECTED}/"):
                unpack_member(tar, member, into / path.removeprefix(f"{COLLECTED}/"))
            elif not member.isdir() and trim.is_kept(path):
                unpack_member(tar, member, root / path)
    for link in sorted(_links(root)):
        if not link.exists() and not link.readlink().is_absolute():
            link.unlink()  # what it pointed to was trimmed


def unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write the file or link *member* of *tar* to *path*, readable by all, and executable if anybody could execute it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
    elif member.isreg() or member.islnk():
        content = tar.extractfile(member)
        assert content is not None, f"{member.name} is a file"
        path.write_bytes(content.read())
        path.chmod(0o755 if member.mode & 0o111 else 0o644)
    else:
        raise AssertionError(f"{member.name} is neither file nor link")


def _links(root: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        yield from (path for name in (*names, *files) if (path := Path(directory, name)).is_symlink())


def read_packages(text: str) -> list[Package]:
    """Return the packages of a ``packages`` file that COLLECT wrote, sorted by name."""
    return sorted((Package(*line.split()) for line in text.splitlines()), key=lambda package: package.name)
