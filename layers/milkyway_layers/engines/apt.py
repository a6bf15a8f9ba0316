"""The apt family: mmdebstrap makes a root as a tar file, as root or in a user namespace.

Maintainer scripts run, recommended packages are not installed. Hooks collect what apt and
dpkg know into ``.milkyway`` inside the root: the paths before the requested packages, the
archives' SHA-256 according to the signed lists, and that of the files really used.
Downloaded archives are kept and used again; each is checked against the signed lists.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.manifest import Package
from milkyway_layers.engines.engine import Installed, Request, Root
from milkyway_layers.tree import Entry, read_tar, text_identity

_COLLECTED = ".milkyway"
_BEFORE = """
mkdir "$1/.milkyway" && cd "$1"
find . -xdev -type f ! -path './.milkyway/*' -exec sha256sum -b -z {} + >.milkyway/before
find . -xdev -type l -printf '%p\\0%l\\0' >.milkyway/links
"""
_AFTER = """
set -e
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$1"
dpkg-query --admindir=var/lib/dpkg -W -f '${Package}:${Architecture}=${Version}\\n' | xargs apt-cache show >.milkyway/available
cd var/cache/apt/archives && find . -name '*.deb' -exec sha256sum -b {} + >"$1/.milkyway/archives"
"""


class InstallError(RefusedError):
    """The package manager failed, or what it installed is not what its signed lists say."""


class AptEngine:
    """Implements ``Engine`` with mmdebstrap; *mirror* replaces its default mirror."""

    def __init__(self, mirror: str | None = None) -> None:
        self._mirror = mirror

    def key(self, request: Request) -> str:
        """Return a hash of the request, the mirror and the hooks."""
        parts = [request, self._mirror, _BEFORE, _AFTER]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def install(self, request: Request, into: Path, packages: Path) -> None:
        """Make ``into/root.tar``. Raises UnavailableError if there is no mmdebstrap, InstallError if it fails."""
        if shutil.which("mmdebstrap") is None:
            raise UnavailableError("cannot install packages: there is no mmdebstrap", hint="run: make setup")
        packages.mkdir(parents=True, exist_ok=True)
        sources = into / "extra.sources"
        sources.write_text("\n".join(_deb822(request)))
        command = self._command(request, into / "root.tar", packages, sources)
        with (into / "log").open("w") as log:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            raise InstallError(
                f"cannot install {' '.join(request.packages) or request.suite}: mmdebstrap ended with {code}",
                hint=_last_complaint((into / "log").read_text(errors="replace")),
            )

    def read(self, made: Path) -> Root:
        """Return the root in ``made/root.tar``. Raises InstallError when an archive isn't the one in the signed lists."""
        tar = made / "root.tar"
        tree, sources, times = read_tar(tar)
        texts = _texts(tar)
        packages = read_status(texts["var/lib/dpkg/status"], read_hashes(texts[f"{_COLLECTED}/available"]))
        check_archives(packages, texts[f"{_COLLECTED}/archives"])
        lists = {
            path.removeprefix("var/lib/dpkg/info/").removesuffix(".list"): text
            for path, text in texts.items()
            if path.endswith(".list")
        }
        before = read_before(texts[f"{_COLLECTED}/before"], texts[f"{_COLLECTED}/links"])
        return Root(tree, sources, times, packages, read_owners(lists, tree), before)

    def _command(self, request: Request, tar: Path, packages: Path, sources: Path) -> list[str]:
        """Return mmdebstrap's command line (its special hooks understand no quotes beyond the shell's)."""
        archives = "/var/cache/apt/archives"
        hooks = [
            f'--setup-hook=mkdir -p "$1{archives}"',
            f"--setup-hook=sync-in {shlex.quote(str(packages))} {archives}",
            f"--essential-hook={_BEFORE}",
            f"--customize-hook={_AFTER}",
            f"--customize-hook=sync-out {archives} {shlex.quote(str(packages))}",
        ]
        if request.repositories:
            hooks.insert(0, f"--setup-hook=copy-in {shlex.quote(str(sources))} /etc/apt/sources.list.d/")
        command = [
            "mmdebstrap", "--variant=essential", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
            "--skip=download/empty,essential/unlink", '--aptopt=APT::Install-Recommends "0"', *hooks,
        ]  # fmt: skip
        if request.packages:
            command.append(f"--include={','.join(request.packages)}")
        command += [request.suite, str(tar)]
        return [*command, self._mirror] if self._mirror else command


def read_status(status: str, hashes: Mapping[tuple[str, str], str]) -> dict[str, Installed]:
    """Return the installed packages in dpkg's *status*; *hashes*: (name, version) → SHA-256 of the archive."""
    packages = {}
    for fields in _stanzas(status):
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields["Package"], fields["Version"]
        if (name, version) not in hashes:
            raise InstallError(f"cannot use package {name} {version}: the signed lists do not have it")
        needs = (*_choices(fields.get("Pre-Depends", "")), *_choices(fields.get("Depends", "")))
        provides = frozenset(name for choice in _choices(fields.get("Provides", "")) for name in choice)
        packages[name] = Installed(Package(name=name, version=version, sha256=hashes[name, version]), needs, provides)
    return packages


def read_hashes(available: str) -> dict[tuple[str, str], str]:
    """Return (name, version) → SHA-256 of the archive, from ``apt-cache show``."""
    return {(fields["Package"], fields["Version"]): fields["SHA256"] for fields in _stanzas(available) if "SHA256" in fields}


def check_archives(packages: Mapping[str, Installed], archives: str) -> None:
    """Check that each of *packages* was installed from an archive whose hash, as sha256sum printed it, is the signed one."""
    found = {line.split(" ", 1)[0] for line in archives.splitlines()}
    for name, installed in packages.items():
        if installed.package.sha256 not in found:
            raise InstallError(
                f"cannot use package {name}: its archive is not the one in the signed lists",
                hint="remove the kept archives (build/layers/packages) and build again",
            )


def read_owners(lists: Mapping[str, str], tree: Mapping[str, Entry]) -> dict[str, frozenset[str]]:
    """Return path → packages, from dpkg's file *lists*; a link at the top of a path (``/lib``) is resolved."""
    owners: dict[str, set[str]] = {}
    for package, text in lists.items():
        for line in text.splitlines():
            first, slash, rest = line.strip("/").partition("/")
            top = tree.get(first)
            if slash and top is not None and top.kind == "link":
                first = top.target.strip("/")
            owners.setdefault(first + slash + rest, set()).add(package.partition(":")[0])
    return {path: frozenset(names) for path, names in owners.items()}


def read_before(files: str, links: str) -> dict[str, str]:
    """Return path → identity of files and links, from what ``_BEFORE`` wrote."""
    before = {}
    for record in files.split("\0")[:-1]:
        digest, _, path = record.partition(" *./")
        before[path] = digest
    names = links.split("\0")[:-1]
    before.update({path.removeprefix("./"): text_identity(to) for path, to in zip(names[::2], names[1::2], strict=True)})
    return before


def _texts(tar: Path) -> dict[str, str]:
    """Return by name the texts that the package manager and the hooks wrote into *tar*."""
    wanted = re.compile(rf"var/lib/dpkg/(status|info/[^/]+\.list)|{re.escape(_COLLECTED)}/[a-z]+")
    texts = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isreg() and wanted.fullmatch(name):
                file = archive.extractfile(member)
                assert file is not None, f"{name} is a regular file"
                texts[name] = file.read().decode()
    return texts


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the stanzas of a Debian control file as field → first line."""
    for stanza in text.split("\n\n"):
        lines = [line.partition(":") for line in stanza.splitlines() if line and not line.startswith((" ", "\t"))]
        if lines:
            yield {field: value.strip() for field, _, value in lines}


def _choices(relation: str) -> Iterable[tuple[str, ...]]:
    """Yield the choices in a relation field, without versions and architectures: ``a (>= 1) | b, c`` → (a, b), (c,)."""
    for choice in filter(None, map(str.strip, relation.split(","))):
        yield tuple(re.split(r"[\s:(]", name.strip(), maxsplit=1)[0] for name in choice.split("|"))


def _deb822(request: Request) -> Iterator[str]:
    """Yield the extra repositories as deb822 stanzas, each with its own key inside."""
    for repository in request.repositories:
        yield f"Types: deb\nURIs: {repository.uri}\nSuites: {repository.suite}"
        if repository.components:
            yield f"Components: {' '.join(repository.components)}"
        yield "Signed-By:\n" + "\n".join(f" {line or '.'}" for line in repository.key.strip().splitlines()) + "\n"


def _last_complaint(log: str) -> str:
    """Return the most telling line of mmdebstrap's *log*."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:") and "env --unset" not in line and "failed:" not in line]
    return (errors or lines or [""])[-1][:300] if not errors else errors[0][:300]
