"""What the store refuses, what it forgets, and what a directory must be."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from milkyway_cli.dispatch import main
from milkyway_control.server import site
from milkyway_control.server.blobs import BlobRefusedError, Blobs
from milkyway_control.server.store import (
    ConflictError,
    EnvelopeRow,
    MachineRow,
    ReportRow,
    Store,
    StoreRefusedError,
    StoreUnavailableError,
    TokenRow,
    UnknownError,
)

M = "a" * 64
TOKEN = TokenRow(id="0" * 16, name="web-1", operator="operator", created=1, expires=2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "control.sqlite")
    made.create("demo")
    yield made
    made.close()


def machine(identifier: str = M, name: str = "web-1") -> MachineRow:
    return MachineRow(identifier, name, b"record", b"identity", "pem", 1, None, None, 0)


def enrol(store: Store) -> None:
    store.add_token(TOKEN)
    store.add_enrolment(TOKEN.id, b"request", 1)
    store.enrol(TOKEN.id, machine(), b"reply")


def envelope(kind: str, digest: str = "d" * 64) -> EnvelopeRow:
    return EnvelopeRow(0, M, kind, digest, 1, "s", "operator", 1, b"envelope")  # type: ignore[arg-type]  # "desired" or "command"


def test_a_token_id_is_never_used_twice(store: Store) -> None:
    store.add_token(TOKEN)
    with pytest.raises(StoreRefusedError, match="cannot add token 0{16}: an id is never used twice"):
        store.add_token(TOKEN)


def test_the_first_request_gets_the_token(store: Store) -> None:
    store.add_token(TOKEN)
    assert store.add_enrolment(TOKEN.id, b"first", 1).request == b"first"
    assert store.add_enrolment(TOKEN.id, b"second", 2).request == b"first"


def test_an_enrolment_is_answered_once(store: Store) -> None:
    enrol(store)
    assert store.pending() == []
    with pytest.raises(StoreRefusedError, match="nothing is pending for token 0{16}"):
        store.enrol(TOKEN.id, machine("b" * 64, "web-2"), b"another")
    row = store.enrolment(TOKEN.id)
    assert row is not None
    assert row.reply == b"reply"


@pytest.mark.parametrize(
    ("second", "why"),
    [(machine(M, "other"), "is enrolled already"), (machine("b" * 64, "web-1"), "another machine has this name")],
)
def test_ids_and_names_are_taken_once_and_the_token_stays_pending(store: Store, second: MachineRow, why: str) -> None:
    enrol(store)
    token = TokenRow(id="1" * 16, name="x", operator="operator", created=1, expires=2)
    store.add_token(token)
    store.add_enrolment(token.id, b"request", 1)
    with pytest.raises(StoreRefusedError, match=why):
        store.enrol(token.id, second, b"reply")
    assert [row.token for row in store.pending()] == [token.id]


def test_a_desired_state_must_build_on_the_newest(store: Store) -> None:
    enrol(store)
    store.add_envelope(envelope("desired", "1" * 64), None)
    for seen in (None, "2" * 64):
        with pytest.raises(ConflictError, match="another was stored since it was prepared"):
            store.add_envelope(envelope("desired", "3" * 64), seen)
    store.add_envelope(envelope("desired", "3" * 64), "1" * 64)
    newest = store.newest_desired(M)
    assert newest is not None
    assert newest.digest == "3" * 64


def test_commands_come_one_after_the_other(store: Store) -> None:
    enrol(store)
    cursors = [store.add_envelope(envelope("command")) for _ in range(2)]
    first = store.next_command(M, 0)
    assert first is not None
    assert first.cursor == cursors[0]
    store.saw(M, 5, cursors[1] + 100)
    row = store.machine(M)
    assert row is not None
    assert (row.last_seen, row.commands_seen) == (5, cursors[1])
    assert store.next_command(M, row.commands_seen) is None


def test_reports_are_kept_in_order_and_the_oldest_go(store: Store) -> None:
    enrol(store)
    for sequence in (1, 2, 3, 3, 2, 4):
        store.add_report(ReportRow(0, M, sequence, 1, b""), keep=2)
    assert [row.sequence for row in store.reports(M, 10)] == [4, 3]


def test_revoking_is_for_ever(store: Store) -> None:
    enrol(store)
    store.revoke(M, 7)
    store.revoke(M, 8)
    row = store.machine(M)
    assert row is not None
    assert row.revoked == 7
    with pytest.raises(UnknownError, match="cannot revoke b{16}: there is no such machine"):
        store.revoke("b" * 64, 9)


def test_a_database_of_another_version_is_refused(store: Store, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "control.sqlite")) as database, database:
        database.execute("UPDATE facts SET value = '2' WHERE name = 'schema'")
    with pytest.raises(StoreRefusedError, match="its schema is version 2, not 1"):
        store.check()


def test_a_file_that_is_not_a_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not a database, but long enough to look at" * 100)
    broken = Store(tmp_path / "x")
    with pytest.raises(StoreUnavailableError, match="file is not a database"):
        broken.check()
    broken.close()


def test_a_blob_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    blobs.prepare()
    name = hashlib.sha256(b"bytes").hexdigest()
    with blobs.upload(name) as upload:
        upload.write(b"by")
        assert blobs.size(name) is None
        upload.write(b"tes")
        upload.commit()
    assert blobs.size(name) == 5
    with pytest.raises(BlobRefusedError, match="its bytes hash to"), blobs.upload("0" * 64) as upload:
        upload.write(b"others")
        upload.commit()
    assert list((tmp_path / "blobs" / "staging").iterdir()) == []


def test_broken_uploads_are_swept_away_at_start(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    blobs.prepare()
    (tmp_path / "blobs" / "staging" / "left").write_bytes(b"half")
    blobs.prepare()
    assert list((tmp_path / "blobs" / "staging").iterdir()) == []


def test_a_path_is_no_blob_name(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="is not a blob's name"):
        Blobs(tmp_path).size("../" + "0" * 61)


def test_init_makes_what_serve_opens_and_nobody_else_reads(tmp_path: Path) -> None:
    made = site.create(tmp_path / "control", "demo", ["127.0.0.1"], datetime.now(UTC))
    assert site.read(tmp_path / "control").settings == made.settings
    secrets = [made.machines.key, made.machines.server, made.operators.key, made.operators.client("operator")]
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    assert made.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["init", "{full}", "--fleet", "demo"], 3, "it is not empty"),
        (["init", "{new}", "--fleet", "Not A Name"], 2, "is not lower-case letters"),
        (["serve", "{new}"], 3, "it is not a control server's directory\nhint: make one: milkyway control init DIR"),
        (["operator", "{new}", "alice"], 3, "it is not a control server's directory"),
    ],
)
def test_the_commands_refuse_in_one_line(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    places = {"full": tmp_path / "full", "new": tmp_path / "new"}
    result = CliRunner().invoke(main, ["control", *(argument.format(**places) for argument in arguments)])
    assert result.exit_code == code
    assert said in result.stderr


def test_a_second_operator_gets_a_certificate_of_their_own(tmp_path: Path) -> None:
    site.create(tmp_path / "control", "demo", ["127.0.0.1"], datetime.now(UTC))
    first = CliRunner().invoke(main, ["control", "operator", str(tmp_path / "control"), "alice"])
    again = CliRunner().invoke(main, ["control", "operator", str(tmp_path / "control"), "alice"])
    assert first.stdout.strip().endswith("operator/alice.pem")
    assert again.exit_code == 3
    assert "cannot add operator alice" in again.stderr
