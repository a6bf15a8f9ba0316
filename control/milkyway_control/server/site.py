"""A control server's directory, made by ``init`` and opened by ``serve``.

    control.json                      the fleet's name, the hosts at which the server is reached
    control.sqlite                    the store
    blobs/                            layers by SHA-256
    ca/{ca.pem,ca.key,server.pem}     machines' authority; ca.pem goes into each machine's configuration
    operator/{ca.pem,ca.key,server.pem,client.pem}
                                      operators' authority; ca.pem and client.pem are for the first operator's tool

There is no key here that a machine obeys.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from milkyway_control.server.blobs import Blobs
from milkyway_control.server.ca import Authority
from milkyway_control.server.store import Store
from milkyway_formats.agent_protocol import OPERATOR_URI
from milkyway_formats.codec import Document, decode, encode
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.names import FleetId, ShortText

FIRST_OPERATOR = "operator"


class SiteRefusedError(RefusedError):
    """The directory is not what it should be."""


class SiteUnavailableError(UnavailableError):
    """The directory can't be read or written now."""


class SiteSettings(Document, frozen=True):
    """The settings given to ``init``."""

    format: Literal["milkyway.control/1"]
    fleet: FleetId
    hosts: Annotated[list[ShortText], Meta(min_length=1, max_length=16)]


@dataclass(frozen=True)
class AuthorityFiles:
    """The paths of an authority's files, which are the same for both authorities."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate: public."""
        return self.directory / "ca.pem"

    @property
    def key(self) -> Path:
        """The authority's private key."""
        return self.directory / "ca.key"

    @property
    def server(self) -> Path:
        """Key and certificate of the port that trusts this authority's clients."""
        return self.directory / "server.pem"

    def client(self, name: str) -> Path:
        """Key and certificate of an operator; the first one's is ``client.pem``."""
        return self.directory / ("client.pem" if name == FIRST_OPERATOR else f"{name}.pem")

    def read(self) -> Authority:
        """Return the authority."""
        try:
            return Authority.read(self.ca.read_bytes(), self.key.read_bytes())
        except (OSError, ValueError) as error:
            raise SiteUnavailableError(f"cannot read authority in {self.directory}: {error}") from error


@dataclass(frozen=True)
class Site:
    """An initialised directory."""

    directory: Path
    settings: SiteSettings

    @property
    def machines(self) -> AuthorityFiles:
        """The authority for machines."""
        return AuthorityFiles(self.directory / "ca")

    @property
    def operators(self) -> AuthorityFiles:
        """The authority for operators."""
        return AuthorityFiles(self.directory / "operator")

    def store(self) -> Store:
        """Return the store (not yet checked)."""
        return Store(self.directory / "control.sqlite")

    def blobs(self) -> Blobs:
        """Return the blob store."""
        return Blobs(self.directory / "blobs")

    def add_operator(self, name: str, now: datetime) -> Path:
        """Make a key and certificate for another operator and return their file; refuse a name that has one."""
        path = self.operators.client(name)
        if path.exists():
            raise SiteRefusedError(f"cannot add operator {name}: {path} exists")
        _write(path, self.operators.read().issue_client(name, OPERATOR_URI + name, now))
        return path


def create(directory: Path, fleet: FleetId, hosts: Sequence[str], now: datetime) -> Site:
    """Make a new site in an empty directory. ``control.json`` is written last: without it the directory is not a site."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise SiteRefusedError(f"cannot initialise {directory}: it is not empty")
        directory.chmod(0o700)
        site = Site(directory, SiteSettings(format="milkyway.control/1", fleet=fleet, hosts=list(hosts)))
        for files, name in ((site.machines, "machines"), (site.operators, "operators")):
            files.directory.mkdir()
            authority = Authority.create(f"MilkyWay {fleet} {name}", now)
            _write(files.ca, authority.pem)
            _write(files.key, authority.key_pem)
            _write(files.server, authority.issue_server(hosts, now))
        site.add_operator(FIRST_OPERATOR, now)
        site.blobs().prepare()
        store = site.store()
        store.create(fleet)
        store.close()
        _write(directory / "control.json", encode(site.settings).decode())
    except OSError as error:
        raise SiteUnavailableError(f"cannot initialise {directory}: {error.strerror}") from error
    return site


def read(directory: Path) -> Site:
    """Return the site in *directory*."""
    path = directory / "control.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SiteRefusedError(
            f"cannot open {directory}: it is not a control server's directory", hint="make one: milkyway control init DIR"
        ) from error
    except OSError as error:
        raise SiteUnavailableError(f"cannot open {directory}: {error.strerror}") from error
    return Site(directory, decode(data, SiteSettings, what=str(path)))


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:  # noqa: PTH123 (a descriptor, not a path)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
