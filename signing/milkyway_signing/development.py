"""A complete set of keys and roots for development, in one directory, in one go.

    vendor-root vendor-layers      the vendor's side: root, layers of vendor/*
    owner-root                     the owner's root
    alice bob                      operators: one restarts, two change
    carol                          signs the owner's layers and commands nothing
    passphrase                     opens them all, which is why this is only for development

The roots are made from the specs written beside them, by the same function that
`milkyway keys root` calls: a person can change a spec and sign it again.
"""

import os
import shutil
from pathlib import Path
from typing import Literal

from milkyway_formats.names import FleetId, UnixSeconds
from milkyway_signing.key_file import (
    FileSigner,
    KeyFileRefusedError,
    KeyFileUnavailableError,
    generate,
    write_key_file,
    write_new,
)
from milkyway_signing.roots import make_root, read_spec, sign_root

Local = Literal["read", "change"]
PERSONS = {
    "vendor-root": "vera",
    "vendor-layers": "victor",
    "owner-root": "olivia",
    "alice": "alice",
    "bob": "bob",
    "carol": "carol",
}
# The passphrase is 128 random bits: a costly scrypt protects only what can be guessed.
COST = 1 << 12
VENDOR_SPEC = """\
side: vendor
days: 365
keys: [vendor-root.key, vendor-layers.key]
root: {keys: [vendor-root]}
layers:
  - paths: [vendor/*]
    keys: [vendor-layers]
"""
OWNER_SPEC = """\
side: owner
fleet: %s
days: 365
keys: [owner-root.key, alice.key, bob.key, carol.key]
root: {keys: [owner-root]}
operators:
  keys: [alice, bob]
  thresholds: {restart: 1, change: 2, deep: 2}
layers:
  - paths: ["*"]
    keys: [carol]
vendor_paths: [vendor/*]
local: %s
"""


def make_development_set(directory: Path, fleet: FleetId, *, now: UnixSeconds, local: Local = "read") -> bool:
    """Make the whole set in *directory*, all or nothing; return False if it is there already.

    Raises KeyFileRefusedError if the directory exists and holds something else.
    """
    if directory.exists():
        if (directory / "owner-root.json").is_file() and (directory / "vendor-root.json").is_file():
            return False
        raise KeyFileRefusedError(f"cannot make development keys in {directory}: it exists and is not a set of them")
    staging = directory.with_name(directory.name + ".new")
    try:
        if staging.exists():
            shutil.rmtree(staging)  # left by an interrupted run: nothing else makes this name
        staging.mkdir(parents=True, mode=0o700)
        _fill(staging, fleet, now, local)
        staging.rename(directory)
    except OSError as error:
        raise KeyFileUnavailableError(f"cannot make development keys in {directory}: {error.strerror}") from error
    return True


def _fill(directory: Path, fleet: FleetId, now: UnixSeconds, local: Local) -> None:
    passphrase = os.urandom(16).hex()
    write_new(directory / "passphrase", passphrase.encode() + b"\n", mode=0o600)
    signers: dict[str, FileSigner] = {}
    for name, person in PERSONS.items():
        signers[name] = generate(name, person)
        write_key_file(directory / f"{name}.key", signers[name], passphrase, cost=COST)
    for side, text in (("vendor", VENDOR_SPEC), ("owner", OWNER_SPEC % (fleet, local))):
        spec_file = directory / f"{side}-root.yaml"
        write_new(spec_file, text.encode(), mode=0o644)
        spec, entries = read_spec(spec_file)
        signed = sign_root(make_root(spec, entries, now=now), [signers[f"{side}-root"]])
        write_new(directory / f"{side}-root.json", signed, mode=0o644)
