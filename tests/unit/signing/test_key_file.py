"""Keys in files: sealed, bound to their public part, written once."""

import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from milkyway_formats.codec import MalformedError, encode
from milkyway_formats.envelope import payload_of, read_envelope
from milkyway_formats.errors import RefusedError
from milkyway_formats.root import ROOT_TYPE
from milkyway_formats.trust import verify_root
from milkyway_signing.key_file import (
    FileSigner,
    KeyFile,
    KeyFileRefusedError,
    KeyFileUnavailableError,
    generate,
    public_part,
    read_key_file,
    read_public,
    write_key_file,
    write_new,
)
from milkyway_signing.passphrase import PassphraseRefusedError, PassphraseUnavailableError, load_signers, read_passphrase
from milkyway_signing.signer import sign_envelope
from tests.fakes.people import ALICE, OLIVIA, OWNER, key_of

PASSPHRASE = "correct horse"
COST = 1 << 10


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return the path of alice's key file."""
    path = tmp_path / "alice.key"
    write_key_file(path, ALICE, PASSPHRASE, cost=COST)
    return path


def rewrite(path: Path, file: KeyFile) -> None:
    path.write_bytes(encode(file) + b"\n")


def test_what_was_written_signs_like_what_was_made(key: Path) -> None:
    signer = FileSigner.load(key, PASSPHRASE)
    assert (signer.name, signer.entry) == (ALICE.name, ALICE.entry)
    signature = signer.sign("t", b"payload")
    assert signature.keyid == ALICE.entry.key_id


def test_a_key_file_is_its_owners_alone_and_holds_no_plain_secret(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    data = key.read_bytes()
    assert read_key_file(key).entry == ALICE.entry
    again = key.with_name("again.key")
    write_key_file(again, ALICE, PASSPHRASE, cost=COST)
    assert again.read_bytes() != data, "salt and nonce are new each time"


def test_a_wrong_passphrase_opens_nothing(key: Path) -> None:
    with pytest.raises(KeyFileRefusedError, match=r"cannot open key .*alice.key: wrong passphrase, or the file was changed"):
        FileSigner.load(key, PASSPHRASE + ".")


def test_a_file_whose_plain_part_was_changed_no_longer_opens(key: Path) -> None:
    file = read_key_file(key)
    bob = key_of("bob")
    for changed in (
        replace(file, name="other"),
        replace(file, entry=replace(file.entry, person="mallory")),
        replace(file, entry=bob.entry),
        replace(file, private=replace(file.private, nonce="0" * 24)),
        replace(file, private=replace(file.private, salt="0" * 32)),
        replace(file, private=replace(file.private, sealed="0" * 160)),
    ):
        rewrite(key, changed)
        with pytest.raises(KeyFileRefusedError, match="wrong passphrase, or the file was changed"):
            FileSigner.load(key, PASSPHRASE)


def test_a_key_id_that_is_not_its_keys_hash_is_refused(key: Path) -> None:
    file = read_key_file(key)
    lying = replace(file, entry=replace(file.entry, key_id="0" * 64))
    rewrite(key, lying)
    with pytest.raises(KeyFileRefusedError, match="its key id is not the hash of its key"):
        read_public(key)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((b'"cost":1024', b'"cost":99999999'), "<= 1048576"),
        ((b'"cost":1024', b'"cost":2'), ">= 1024"),
        ((b"milkyway.key/1", b"milkyway.key/2"), "Invalid enum value 'milkyway.key/2'"),
        ((b'"name"', b'"nome"'), "unknown field `nome`"),
    ],
)
def test_what_is_not_a_key_file_is_refused(key: Path, change: tuple[bytes, bytes], reason: str) -> None:
    key.write_bytes(key.read_bytes().replace(*change))
    with pytest.raises(MalformedError, match=f"^cannot read key .*{reason}"):
        read_key_file(key)


def test_a_key_file_is_never_written_over(key: Path) -> None:
    before = key.read_bytes()
    with pytest.raises(KeyFileRefusedError, match=r"cannot write .*alice.key: it exists"):
        write_key_file(key, key_of("bob"), PASSPHRASE, cost=COST)
    assert key.read_bytes() == before


def test_a_short_passphrase_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(KeyFileRefusedError, match="the passphrase has fewer than 8 characters"):
        write_key_file(tmp_path / "k.key", ALICE, "1234567", cost=COST)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(KeyFileUnavailableError, match=r"cannot read key .*none.key: No such file or directory"):
        read_key_file(tmp_path / "none.key")
    with pytest.raises(KeyFileUnavailableError, match="No such file or directory"):
        write_new(tmp_path / "none" / "k", b"", mode=0o600)


def test_a_public_key_file_lists_a_key_like_its_key_file(key: Path) -> None:
    public = key.with_name("alice.pub")
    public.write_bytes(encode(public_part(read_key_file(key))) + b"\n")
    assert read_public(public) == read_public(key)


def test_new_keys_differ_and_a_given_seed_decides() -> None:
    assert generate("a", "a").entry.key_id != generate("a", "a").entry.key_id
    assert generate("a", "a", seed=bytes(64)).entry == generate("a", "a", seed=bytes(64)).entry


def test_an_envelope_carries_one_signature_of_each_signer() -> None:
    data = sign_envelope(ROOT_TYPE, encode(OWNER), [OLIVIA, ALICE])
    envelope = read_envelope(data, what="root")
    assert [signature.keyid for signature in envelope.signatures] == [OLIVIA.entry.key_id, ALICE.entry.key_id]
    assert payload_of(envelope) == encode(OWNER)
    assert verify_root(data)[0] == OWNER


# --- passphrases ------------------------------------------------------------------------------------------------------


def test_the_named_file_takes_precedence_over_the_environments(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("first one\nsecond line\n")
    (tmp_path / "two").write_text("second one\r\n")
    environment = {"MILKYWAY_PASSPHRASE_FILE": str(tmp_path / "two")}
    assert read_passphrase(tmp_path / "one", environment, key="k") == "first one"
    assert read_passphrase(None, environment, key="k") == "second one"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "its first line is empty"), (b"\nx", "its first line is empty"), (b"\xff", "not UTF-8"), (b"x" * 5000, "more than")],
)
def test_a_useless_passphrase_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(PassphraseRefusedError, match=f"^cannot use passphrase file .*{reason}"):
        read_passphrase(tmp_path / "p", {}, key="k")


def test_without_a_file_or_a_terminal_there_is_no_passphrase(tmp_path: Path) -> None:
    with pytest.raises(PassphraseUnavailableError, match="cannot open key k: no passphrase, and no terminal"):
        read_passphrase(None, {}, key="k")
    with pytest.raises(PassphraseUnavailableError, match="cannot read passphrase file"):
        read_passphrase(tmp_path / "none", {}, key="k")


def test_several_signers_are_loaded_in_order(tmp_path: Path) -> None:
    (tmp_path / "p").write_text(PASSPHRASE)
    paths = []
    for person in ("alice", "bob"):
        paths.append(tmp_path / f"{person}.key")
        write_key_file(paths[-1], key_of(person), PASSPHRASE, cost=COST)
    assert [signer.entry.person for signer in load_signers(paths, tmp_path / "p", {})] == ["alice", "bob"]
    with pytest.raises(RefusedError):
        load_signers([tmp_path / "p"], tmp_path / "p", {})
