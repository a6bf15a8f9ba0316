"""Keys in files: JSON whose public part is plain and whose private part is encrypted under a passphrase.

The private seed is sealed with AES-256-GCM under a key that scrypt derives from the passphrase; the public part is
authenticated with it, so that a file whose person or public key was changed no longer opens. A key file is written
once, with mode 0600, and never over another file.
"""

import contextlib
import os
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta

from milkyway_formats.codec import Document, decode, encode
from milkyway_formats.envelope import Signature
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.hybrid import SCHEME, SEED_BYTES, HybridPrivateKey
from milkyway_formats.names import PersonName
from milkyway_formats.root import KeyEntry

MAX_KEY_FILE_BYTES = 16 * 1024
SALT_BYTES = 16
NONCE_BYTES = 12
# 2^17 with r = 8 takes 128 MiB and about 0.4 s: OWASP's first choice for scrypt (Password Storage Cheat Sheet)
SCRYPT_COST = 1 << 17
LEAST_PASSPHRASE = 8
KeyName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z", description="a key's name, also its file's")]


class KeyFileRefusedError(RefusedError):
    """Not a key file, a wrong passphrase, or a file that must not be overwritten."""


class KeyFileUnavailableError(UnavailableError):
    """The key file can't be read or written now."""


class SealedSeed(Document, frozen=True):
    """The private seed, encrypted. Bytes are in hexadecimal."""

    kdf: Literal["scrypt"]
    cost: Annotated[int, Meta(ge=1 << 10, le=1 << 20)]
    salt: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    cipher: Literal["aes-256-gcm"]
    nonce: Annotated[str, Meta(pattern=r"^[0-9a-f]{24}\Z")]
    sealed: Annotated[str, Meta(pattern=r"^[0-9a-f]{160}\Z")]  # 64 bytes of seed, 16 of tag


class KeyFile(Document, frozen=True):
    """What a key file holds."""

    format: Literal["milkyway.key/1"]
    name: KeyName
    entry: KeyEntry
    private: SealedSeed


class PublicKeyFile(Document, frozen=True):
    """The part of a key file that others may see: enough to list the key in a root."""

    format: Literal["milkyway.public-key/1"]
    name: KeyName
    entry: KeyEntry


class FileSigner:
    """A signer whose key comes from a file."""

    def __init__(self, name: KeyName, entry: KeyEntry, key: HybridPrivateKey) -> None:
        self.name = name
        self._entry = entry
        self._key = key

    @classmethod
    def load(cls, path: Path, passphrase: str) -> "FileSigner":
        """Return the signer in the key file *path*. Raises KeyFileRefusedError, also for a wrong passphrase."""
        file = read_key_file(path)
        sealed = file.private
        secret = _secret(passphrase, bytes.fromhex(sealed.salt), sealed.cost)
        try:
            seed = AESGCM(secret).decrypt(
                bytes.fromhex(sealed.nonce), bytes.fromhex(sealed.sealed), _bound(file.name, file.entry)
            )
        except InvalidTag as error:
            raise KeyFileRefusedError(
                f"cannot open key {path}: wrong passphrase, or the file was changed",
                hint="the passphrase is that of `milkyway keys new`; nobody can recover it",
            ) from error
        key = HybridPrivateKey(seed)
        if key.public_key.raw != file.entry.key.raw:
            raise KeyFileRefusedError(f"cannot open key {path}: its public part does not belong to its private part")
        return cls(file.name, file.entry, key)

    @property
    def entry(self) -> KeyEntry:
        """The public key and its person, as a root lists them."""
        return self._entry

    def sign(self, payload_type: str, payload: bytes) -> Signature:
        """Return this key's signature over the DSSE encoding of *payload*."""
        return self._key.sign_payload(payload_type, payload)

    def seal(self, cipher: AESGCM, nonce: bytes) -> bytes:
        """Return the private seed encrypted, bound to the public part: the only way it leaves this object."""
        return cipher.encrypt(nonce, self._key.seed, _bound(self.name, self._entry))


def key_entry(key: HybridPrivateKey, person: PersonName) -> KeyEntry:
    """Return the public entry of *key* for *person*."""
    public = key.public_key
    return KeyEntry(key_id=public.key_id, scheme=SCHEME, public=public.raw.hex(), person=person)


def generate(name: KeyName, person: PersonName, *, seed: bytes | None = None) -> FileSigner:
    """Return a new key of *person*, in memory only; the operating system draws *seed* unless it is given."""
    key = HybridPrivateKey(os.urandom(SEED_BYTES) if seed is None else seed)
    return FileSigner(name, key_entry(key, person), key)


def write_key_file(path: Path, signer: FileSigner, passphrase: str, *, cost: int = SCRYPT_COST) -> None:
    """Write *signer* to the new file *path*, sealed under *passphrase*, durable when this returns.

    Raises KeyFileRefusedError if the passphrase is too short or the file already exists.
    """
    if len(passphrase) < LEAST_PASSPHRASE:
        raise KeyFileRefusedError(f"cannot write key {path}: the passphrase has fewer than {LEAST_PASSPHRASE} characters")
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    sealed = signer.seal(AESGCM(_secret(passphrase, salt, cost)), nonce)
    file = KeyFile(
        format="milkyway.key/1",
        name=signer.name,
        entry=signer.entry,
        private=SealedSeed(
            kdf="scrypt", cost=cost, salt=salt.hex(), cipher="aes-256-gcm", nonce=nonce.hex(), sealed=sealed.hex()
        ),
    )
    write_new(path, encode(file) + b"\n", mode=0o600)


def read_key_file(path: Path) -> KeyFile:
    """Return what the key file *path* tells without its passphrase: name, person, public key."""
    return decode(_read(path).removesuffix(b"\n"), KeyFile, what=f"key {path}", limit=MAX_KEY_FILE_BYTES)


def read_public(path: Path) -> PublicKeyFile:
    """Return the public part of the file *path*, which is a key file or what `milkyway keys show --json` wrote."""
    data = _read(path).removesuffix(b"\n")
    if data.startswith(b'{"format":"milkyway.public-key/1"'):
        return decode(data, PublicKeyFile, what=f"public key {path}", limit=MAX_KEY_FILE_BYTES)
    return public_part(decode(data, KeyFile, what=f"key {path}", limit=MAX_KEY_FILE_BYTES))


def public_part(file: KeyFile) -> PublicKeyFile:
    """Return the part of *file* that others may see. Raises KeyFileRefusedError if its key id is not its key's hash."""
    if file.entry.key.key_id != file.entry.key_id:
        raise KeyFileRefusedError(f"cannot use key {file.name}: its key id is not the hash of its key")
    return PublicKeyFile(format="milkyway.public-key/1", name=file.name, entry=file.entry)


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write *data* to *path*, which must not exist, and make it durable; nothing is left behind if that fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise KeyFileRefusedError(f"cannot write {path}: it exists", hint="choose another name or directory") from error
    except OSError as error:
        raise KeyFileUnavailableError(f"cannot write {path}: {error.strerror}") from error
    try:
        with open(descriptor, "wb") as stream:  # noqa: PTH123 (a descriptor, not a path)
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise KeyFileUnavailableError(f"cannot write {path}: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_KEY_FILE_BYTES + 2)
    except OSError as error:
        raise KeyFileUnavailableError(f"cannot read key {path}: {error.strerror}") from error


def _secret(passphrase: str, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=cost, r=8, p=1).derive(passphrase.encode())


def _bound(name: KeyName, entry: KeyEntry) -> bytes:
    """Return the associated data: the plain part of the file, which must not change."""
    return b"milkyway.key/1\0" + name.encode() + b"\0" + encode(entry)
