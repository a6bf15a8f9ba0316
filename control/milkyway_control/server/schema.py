"""The database's tables. A database of another version is refused; migrations begin with version 2."""

from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table

VERSION = 1

metadata = MetaData()

facts = Table(
    "facts",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)

# Only the id: the secret stays with the operator's tool that made it. An id is never used twice.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("operator", String, nullable=False),
    Column("created", Integer, nullable=False),
    Column("expires", Integer, nullable=False),
)

# What a machine sent with a token, and later the reply that it waits for. One row for each token, kept for ever.
enrolments = Table(
    "enrolments",
    metadata,
    Column("token", String, ForeignKey("tokens.id"), primary_key=True),
    Column("request", LargeBinary, nullable=False),
    Column("received", Integer, nullable=False),
    Column("reply", LargeBinary),
)

machines = Table(
    "machines",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("record", LargeBinary, nullable=False),
    Column("identity", LargeBinary, nullable=False),
    Column("certificate", String, nullable=False),
    Column("enrolled", Integer, nullable=False),
    Column("last_seen", Integer),
    Column("revoked", Integer),
    # the newest command that the machine's uplink has acknowledged
    Column("commands_seen", Integer, nullable=False, default=0),
)

# Desired states and commands in the order in which they came: ``cursor`` is what a machine acknowledges.
envelopes = Table(
    "envelopes",
    metadata,
    Column("cursor", Integer, primary_key=True, autoincrement=True),
    Column("machine", String, ForeignKey("machines.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("number", Integer, nullable=False),  # a desired state's version, a command's sequence
    Column("stream", String, nullable=False, default=""),
    Column("operator", String, nullable=False),
    Column("received", Integer, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    sqlite_autoincrement=True,  # a cursor is never given out twice
)
Index("envelopes_by_machine", envelopes.c.machine, envelopes.c.kind, envelopes.c.cursor)

reports = Table(
    "reports",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("machine", String, ForeignKey("machines.id"), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("received", Integer, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
Index("reports_by_machine", reports.c.machine, reports.c.number)
