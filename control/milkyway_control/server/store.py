"""What the control server remembers, in SQLite. Synchronous: the endpoints call it in threads.

Each public method is one transaction. The store checks what only it can see (an id that is
already used, a document that is no longer the newest); the contents of a document were checked
before. No machine believes anything because it is in here: it is a letter box with an index.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Row, create_engine, event, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from milkyway_control.server import schema
from milkyway_control.server.schema import enrolments, envelopes, facts, machines, reports, tokens
from milkyway_formats.agent_protocol import EnvelopeKind
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.names import MachineId, Sha256, UnixSeconds

BUSY_TIMEOUT_MS = 5000


class StoreRefusedError(RefusedError):
    """What should be stored contradicts what is stored already."""


class UnknownError(RefusedError):
    """There is no such thing here."""


class ConflictError(RefusedError):
    """Another change came first: what this one builds on is no longer the newest."""


class StoreUnavailableError(UnavailableError):
    """The database cannot be opened or written now."""


@dataclass(frozen=True)
class TokenRow:
    """A token as the server knows it. ``name`` is the name that the operator wants for the machine."""

    id: str
    name: str
    operator: str
    created: UnixSeconds
    expires: UnixSeconds


@dataclass(frozen=True)
class EnrolmentRow:
    """The request that came with a token; ``reply`` is there once an operator has approved it."""

    token: str
    request: bytes
    received: UnixSeconds
    reply: bytes | None


@dataclass(frozen=True)
class MachineRow:
    """An enrolled machine."""

    id: MachineId
    name: str
    record: bytes
    identity: bytes
    certificate: str
    enrolled: UnixSeconds
    last_seen: UnixSeconds | None
    revoked: UnixSeconds | None
    commands_seen: int


@dataclass(frozen=True)
class EnvelopeRow:
    """A desired state or command, as an operator's tool sent it."""

    cursor: int
    machine: MachineId
    kind: EnvelopeKind
    digest: Sha256
    number: int
    stream: str
    operator: str
    received: UnixSeconds
    envelope: bytes


@dataclass(frozen=True)
class ReportRow:
    """A report whose signature was checked on arrival."""

    number: int
    machine: MachineId
    sequence: int
    received: UnixSeconds
    envelope: bytes


class Store:
    """The database at *path*. ``create`` once, then ``check`` and use; ``close`` at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", _set_up)

    def create(self, fleet: str) -> None:
        """Make the tables of a new database."""
        with self._transaction(writes=True) as connection:
            schema.metadata.create_all(connection)
            connection.execute(insert(facts), [_fact("schema", str(schema.VERSION)), _fact("fleet", fleet)])

    def check(self) -> None:
        """Raise StoreRefusedError if the database has another version's schema."""
        with self._transaction() as connection:
            version = connection.execute(select(facts.c.value).where(facts.c.name == "schema")).scalar()
        if version != str(schema.VERSION):
            raise StoreRefusedError(f"cannot use {self._path}: its schema is version {version}, not {schema.VERSION}")

    def close(self) -> None:
        """Close every connection to the database."""
        self._engine.dispose()

    # --- enrolment ---

    def add_token(self, token: TokenRow) -> None:
        """Remember that an operator made this token."""
        with self._transaction(writes=True) as connection:
            if connection.execute(select(tokens.c.id).where(tokens.c.id == token.id)).first():
                raise StoreRefusedError(f"cannot add token {token.id}: an id is never used twice")
            connection.execute(insert(tokens).values(**token.__dict__))

    def token(self, token: str) -> TokenRow | None:
        """Return the token, or None."""
        with self._transaction() as connection:
            row = connection.execute(select(tokens).where(tokens.c.id == token)).first()
        return TokenRow(**_columns(row)) if row else None

    def add_enrolment(self, token: str, request: bytes, now: UnixSeconds) -> EnrolmentRow:
        """Bind *token* to *request*, for ever; return what the token is bound to: this request, or an earlier one."""
        with self._transaction(writes=True) as connection:
            row = connection.execute(select(enrolments).where(enrolments.c.token == token)).first()
            if row is None:
                connection.execute(insert(enrolments).values(token=token, request=request, received=now))
                row = connection.execute(select(enrolments).where(enrolments.c.token == token)).one()
        return EnrolmentRow(**_columns(row))

    def enrolment(self, token: str) -> EnrolmentRow | None:
        """Return the enrolment with *token*, or None."""
        with self._transaction() as connection:
            row = connection.execute(select(enrolments).where(enrolments.c.token == token)).first()
        return EnrolmentRow(**_columns(row)) if row else None

    def pending(self) -> list[EnrolmentRow]:
        """Return the enrolments that wait for an operator, oldest first."""
        query = select(enrolments).where(enrolments.c.reply.is_(None)).order_by(enrolments.c.received)
        with self._transaction() as connection:
            return [EnrolmentRow(**_columns(row)) for row in connection.execute(query)]

    def enrol(self, token: str, machine: MachineRow, reply: bytes) -> None:
        """Turn the pending enrolment of *token* into *machine*; refuse an id or name that is taken."""
        with self._transaction(writes=True) as connection:
            done = connection.execute(
                update(enrolments).where(enrolments.c.token == token, enrolments.c.reply.is_(None)).values(reply=reply)
            )
            if done.rowcount != 1:
                raise StoreRefusedError(f"cannot enrol {machine.name}: nothing is pending for token {token}")
            if connection.execute(select(machines.c.id).where(machines.c.id == machine.id)).first():
                raise StoreRefusedError(f"cannot enrol {machine.name}: machine {machine.id[:16]} is enrolled already")
            if connection.execute(select(machines.c.id).where(machines.c.name == machine.name)).first():
                raise StoreRefusedError(f"cannot enrol {machine.name}: another machine has this name")
            connection.execute(insert(machines).values(**machine.__dict__))

    # --- machines ---

    def machines(self) -> list[MachineRow]:
        """Return every machine that was ever enrolled, by name."""
        with self._transaction() as connection:
            return [MachineRow(**_columns(row)) for row in connection.execute(select(machines).order_by(machines.c.name))]

    def machine(self, machine: str) -> MachineRow | None:
        """Return the machine with this id, or None."""
        with self._transaction() as connection:
            row = connection.execute(select(machines).where(machines.c.id == machine)).first()
        return MachineRow(**_columns(row)) if row else None

    def saw(self, machine: MachineId, now: UnixSeconds, commands: int | None) -> None:
        """Record that *machine* polled at *now*, and which command it acknowledged, if any (never one we did not send)."""
        values: dict[str, Any] = {"last_seen": now}
        with self._transaction(writes=True) as connection:
            if commands is not None:
                newest = connection.execute(
                    select(func.max(envelopes.c.cursor)).where(envelopes.c.machine == machine, envelopes.c.kind == "command")
                ).scalar()
                values["commands_seen"] = min(commands, newest or 0)
            connection.execute(update(machines).where(machines.c.id == machine).values(**values))

    def revoke(self, machine: MachineId, now: UnixSeconds) -> None:
        """Never let *machine* connect again. Idempotent."""
        with self._transaction(writes=True) as connection:
            if not connection.execute(select(machines.c.id).where(machines.c.id == machine)).first():
                raise UnknownError(f"cannot revoke {machine[:16]}: there is no such machine")
            connection.execute(
                update(machines).where(machines.c.id == machine, machines.c.revoked.is_(None)).values(revoked=now)
            )

    # --- envelopes ---

    def add_envelope(self, row: EnvelopeRow, previous: Sha256 | None = None) -> int:
        """Store *row* (its cursor is not used) and return its cursor.

        A desired state must build on the newest one: if the digest of the machine's newest is not *previous* (None:
        there is none), it is refused. A command may be stored again, and is then sent again.
        """
        with self._transaction(writes=True) as connection:
            if row.kind == "desired":
                newest = connection.execute(_newest(row.machine, "desired")).first()
                if (newest.digest if newest else None) != previous:
                    raise ConflictError(
                        f"cannot store desired state {row.number} of {row.machine[:16]}: "
                        "another was stored since it was prepared",
                        hint="prepare it again: it would undo the other",
                    )
            values = {name: value for name, value in row.__dict__.items() if name != "cursor"}
            key = connection.execute(insert(envelopes).values(**values)).inserted_primary_key
        assert key is not None, "an insert has a key"
        return cast("int", key[0])

    def newest_desired(self, machine: MachineId) -> EnvelopeRow | None:
        """Return the newest desired state of *machine*, or None."""
        with self._transaction() as connection:
            row = connection.execute(_newest(machine, "desired")).first()
        return EnvelopeRow(**_columns(row)) if row else None

    def next_command(self, machine: MachineId, after: int) -> EnvelopeRow | None:
        """Return the oldest command for *machine* that came after cursor *after*, or None."""
        query = (
            select(envelopes)
            .where(envelopes.c.machine == machine, envelopes.c.kind == "command", envelopes.c.cursor > after)
            .order_by(envelopes.c.cursor)
            .limit(1)
        )
        with self._transaction() as connection:
            row = connection.execute(query).first()
        return EnvelopeRow(**_columns(row)) if row else None

    def envelopes(self, machine: MachineId, kind: EnvelopeKind, stream: str = "", limit: int = 20) -> list[EnvelopeRow]:
        """Return the newest envelopes for *machine*, newest first; only commands of *stream* if it is given."""
        query = _newest(machine, kind).limit(limit)
        if stream:
            query = query.where(envelopes.c.stream == stream)
        with self._transaction() as connection:
            return [EnvelopeRow(**_columns(row)) for row in connection.execute(query)]

    # --- reports ---

    def add_report(self, row: ReportRow, keep: int = 1000) -> None:
        """Store *row* (its number is not used); only the newest *keep* of a machine stay. A repeated report is dropped."""
        with self._transaction(writes=True) as connection:
            newest = connection.execute(select(func.max(reports.c.sequence)).where(reports.c.machine == row.machine)).scalar()
            if newest is not None and row.sequence <= newest:
                return
            values = {name: value for name, value in row.__dict__.items() if name != "number"}
            connection.execute(insert(reports).values(**values))
            oldest = (
                select(reports.c.number).where(reports.c.machine == row.machine).order_by(reports.c.number.desc()).offset(keep)
            )
            connection.execute(reports.delete().where(reports.c.number.in_(oldest)))

    def reports(self, machine: MachineId, limit: int = 1) -> list[ReportRow]:
        """Return the newest reports of *machine*, newest first."""
        query = select(reports).where(reports.c.machine == machine).order_by(reports.c.number.desc()).limit(limit)
        with self._transaction() as connection:
            return [ReportRow(**_columns(row)) for row in connection.execute(query)]

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[Connection]:
        # IMMEDIATE: a transaction that reads first and then finds the database locked for writing could not
        # wait for the lock (SQLite, "Transaction control", deferred transactions).
        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
                yield connection
        except DBAPIError as error:
            raise StoreUnavailableError(f"cannot use {self._path}: {error.orig}") from error


def _newest(machine: MachineId, kind: EnvelopeKind) -> Any:
    return select(envelopes).where(envelopes.c.machine == machine, envelopes.c.kind == kind).order_by(envelopes.c.cursor.desc())


def _columns(row: Row[Any]) -> dict[str, Any]:
    return dict(row._mapping)  # SQLAlchemy's public name for it, in spite of the underscore


def _fact(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


def _set_up(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # no BEGIN by the driver: _transaction issues its own
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}")
