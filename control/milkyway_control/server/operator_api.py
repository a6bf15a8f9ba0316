"""What operators' tools may request: tokens, enrolments, machines, blobs, desired states, commands, reports.

The port's TLS lets in only certificates of the operators' authority. That is permission to use
the letter box, no more: whether an order counts is decided by its signatures, on the machine
it is for. So form, fleet and address are checked here, but never who signed.
"""

from collections.abc import Callable
from contextlib import aclosing
from hashlib import sha256

import msgspec
import structlog
import trio

from milkyway_control.operator_protocol import (
    ANY_MATCH,
    BLOBS_PATH,
    EMPTY_MATCH,
    ENROLMENTS_PATH,
    FLEET_PATH,
    MACHINES_PATH,
    MATCH_HEADER,
    MAX_LISTED,
    TOKENS_PATH,
    EnvelopeView,
    FleetView,
    MachineView,
    NewToken,
    PendingView,
    ReportView,
)
from milkyway_control.server.blobs import Blobs, is_blob_name
from milkyway_control.server.ca import Authority
from milkyway_control.server.enrolment import approve, read_request, reply_bytes
from milkyway_control.server.http_service import HttpError, Request, Response, json_response
from milkyway_control.server.store import ConflictError, EnvelopeRow, MachineRow, Store, TokenRow, UnknownError
from milkyway_control.server.wakeups import Wakeups
from milkyway_formats.agent_protocol import OPERATOR_URI, EnvelopeKind
from milkyway_formats.codec import decode
from milkyway_formats.command import COMMAND_TYPE, Command
from milkyway_formats.desired import DESIRED_TYPE, Desired
from milkyway_formats.envelope import payload_of, read_envelope
from milkyway_formats.limits import MAX_DESIRED_BYTES, MAX_ENVELOPE_BYTES
from milkyway_formats.names import FleetId, MachineId, UnixSeconds

log = structlog.get_logger()

MAX_BLOB_BYTES = 16 << 30


class OperatorApi:
    """The handler for the operator port."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        wakeups: Wakeups,
        *,
        fleet: FleetId,
        authority: Authority,
        clock: Callable[[], UnixSeconds],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._wakeups = wakeups
        self._fleet = fleet
        self._authority = authority
        self._clock = clock

    async def handle(self, request: Request) -> Response:
        """Return the answer to *request*."""
        operators = [uri.removeprefix(OPERATOR_URI) for uri in request.uris if uri.startswith(OPERATOR_URI)]
        if len(operators) != 1:
            raise HttpError(401, f"cannot answer {request.path}: an operator's certificate is required")
        try:
            return await self._route(request, operators[0])
        except UnknownError as error:
            raise HttpError(404, str(error), hint=error.hint) from error
        except ConflictError as error:
            raise HttpError(409, str(error), hint=error.hint) from error

    async def _route(self, request: Request, operator: str) -> Response:
        if request.path == FLEET_PATH and request.method == "GET":
            return _json(FleetView(fleet=self._fleet))
        if request.path == TOKENS_PATH and request.method == "POST":
            return await self._add_token(request, operator)
        collection, _, rest = request.path.removeprefix("/v1/").partition("/")
        match request.method, f"/v1/{collection}", rest.split("/") if rest else []:
            case "GET", path, [] if path == ENROLMENTS_PATH:
                return await self._pending()
            case "POST", path, [token] if path == ENROLMENTS_PATH:
                return await self._approve(request, token, operator)
            case "HEAD" | "PUT", path, [name] if path == BLOBS_PATH and is_blob_name(name):
                return await self._blob(request, name)
            case "GET", path, [] if path == MACHINES_PATH:
                return _json([_machine_view(row) for row in await trio.to_thread.run_sync(self._store.machines)])
            case method, path, [machine, verb] if path == MACHINES_PATH:
                return await self._machine(request, method, machine, verb, operator)
        raise HttpError(404, f"cannot answer {request.method} {request.path}: there is no such path")

    async def _machine(self, request: Request, method: str, machine: str, verb: str, operator: str) -> Response:
        machine_row = await trio.to_thread.run_sync(self._store.machine, machine)
        if machine_row is None:
            raise HttpError(404, f"cannot find machine {machine[:64]}: it is not enrolled here")
        match method, verb:
            case "POST", "revoke":
                return await self._revoke(machine_row, operator)
            case "GET", "desired":
                return await self._envelopes(request, machine_row, "desired")
            case "GET", "commands":
                return await self._envelopes(request, machine_row, "command")
            case "POST", "desired":
                return await self._add_desired(request, machine_row, operator)
            case "POST", "commands":
                return await self._add_command(request, machine_row, operator)
            case "GET", "reports":
                found = await trio.to_thread.run_sync(self._store.reports, machine_row.id, _limit(request))
                return _json([ReportView(received=row.received, envelope=row.envelope.decode()) for row in found])
            case _:
                raise HttpError(404, f"cannot answer {method} …/{verb}: there is no such path")

    # --- enrolment ---

    async def _add_token(self, request: Request, operator: str) -> Response:
        new = decode(await request.body(MAX_ENVELOPE_BYTES), NewToken, what="token")
        row = TokenRow(id=new.id, name=new.name, operator=operator, created=self._clock(), expires=new.expires)
        await trio.to_thread.run_sync(self._store.add_token, row)
        log.info("token_added", token=new.id, name=new.name, operator=operator)
        return Response(201)

    async def _pending(self) -> Response:
        views = []
        for row in await trio.to_thread.run_sync(self._store.pending):
            token = await trio.to_thread.run_sync(self._store.token, row.token)
            assert token is not None, "the database's foreign key holds"
            views.append(
                PendingView(
                    token=row.token,
                    name=token.name,
                    operator=token.operator,
                    received=row.received,
                    request=row.request.decode(),
                )
            )
        return _json(views)

    async def _approve(self, request: Request, token: str, operator: str) -> Response:
        pending = await trio.to_thread.run_sync(self._store.enrolment, token)
        if pending is None or pending.reply is not None:
            raise HttpError(404, f"cannot enrol: nothing is pending for token {token[:64]}")
        envelope = await request.body(MAX_ENVELOPE_BYTES)
        machine, reply = approve(read_request(pending.request), envelope, self._fleet, self._authority, self._clock())
        await trio.to_thread.run_sync(self._store.enrol, token, machine, reply_bytes(reply))
        self._wakeups.wake(token)
        log.info("machine_enrolled", machine=machine.name, id=machine.id, operator=operator)
        return Response(201)

    async def _revoke(self, machine: MachineRow, operator: str) -> Response:
        await trio.to_thread.run_sync(self._store.revoke, machine.id, self._clock())
        self._wakeups.wake(machine.id)
        log.info("machine_revoked", machine=machine.name, operator=operator)
        return Response(204)

    # --- signed documents ---

    async def _envelopes(self, request: Request, machine: MachineRow, kind: EnvelopeKind) -> Response:
        stream = request.query.get("stream", "")
        rows = await trio.to_thread.run_sync(self._store.envelopes, machine.id, kind, stream, _limit(request))
        return _json(
            [
                EnvelopeView(
                    digest=row.digest,
                    operator=row.operator,
                    received=row.received,
                    envelope=row.envelope.decode(),
                    delivered=kind == "command" and row.cursor <= machine.commands_seen,
                )
                for row in rows
            ]
        )

    async def _add_desired(self, request: Request, machine: MachineRow, operator: str) -> Response:
        envelope = await request.body(MAX_ENVELOPE_BYTES)
        desired = decode(
            _payload(envelope, DESIRED_TYPE, "desired state"), Desired, what="desired state", limit=MAX_DESIRED_BYTES
        )
        self._check_address(desired.fleet, [desired.machine], machine, "desired state")
        previous = request.headers.get(MATCH_HEADER)
        if previous is None:
            raise HttpError(428, "cannot store desired state: no If-Match header says what it was built on")
        if previous == ANY_MATCH:
            newest = await trio.to_thread.run_sync(self._store.newest_desired, machine.id)
            previous = newest.digest if newest else EMPTY_MATCH
        row = self._row(machine, "desired", envelope, desired.version, "", operator)
        await trio.to_thread.run_sync(self._store.add_envelope, row, None if previous == EMPTY_MATCH else previous)
        return self._pushed(row)

    async def _add_command(self, request: Request, machine: MachineRow, operator: str) -> Response:
        envelope = await request.body(MAX_ENVELOPE_BYTES)
        command = decode(_payload(envelope, COMMAND_TYPE, "command"), Command, what="command")
        self._check_address(command.fleet, command.machines, machine, "command")
        row = self._row(machine, "command", envelope, command.sequence, command.stream, operator)
        await trio.to_thread.run_sync(self._store.add_envelope, row)
        return self._pushed(row)

    def _check_address(self, fleet: FleetId, machines: list[MachineId], machine: MachineRow, what: str) -> None:
        if fleet != self._fleet:
            raise HttpError(400, f"cannot store {what}: it is for fleet {fleet}, this is {self._fleet}")
        if machine.id not in machines:
            raise HttpError(400, f"cannot store {what}: it is not for machine {machine.name}")
        if machine.revoked is not None:
            raise HttpError(409, f"cannot store {what}: machine {machine.name} was revoked")

    def _row(
        self, machine: MachineRow, kind: EnvelopeKind, envelope: bytes, number: int, stream: str, operator: str
    ) -> EnvelopeRow:
        return EnvelopeRow(
            cursor=0,
            machine=machine.id,
            kind=kind,
            digest=sha256(envelope).hexdigest(),
            number=number,
            stream=stream,
            operator=operator,
            received=self._clock(),
            envelope=envelope,
        )

    def _pushed(self, row: EnvelopeRow) -> Response:
        self._wakeups.wake(row.machine)
        log.info("envelope_stored", kind=row.kind, machine=row.machine, number=row.number, operator=row.operator)
        return Response(201)

    # --- blobs ---

    async def _blob(self, request: Request, name: str) -> Response:
        size = await trio.to_thread.run_sync(self._blobs.size, name)
        if request.method == "HEAD":
            return Response(404 if size is None else 200)
        if size is not None:
            return Response(200)
        length = request.content_length()
        if length is None or length > MAX_BLOB_BYTES:
            raise HttpError(413, f"cannot store blob {name[:16]}: its length must be given, at most {MAX_BLOB_BYTES}")
        with self._blobs.upload(name) as upload:
            async with aclosing(request.chunks()) as chunks:
                async for chunk in chunks:
                    await trio.to_thread.run_sync(upload.write, chunk)
            await trio.to_thread.run_sync(upload.commit)
        log.info("blob_stored", sha256=name, bytes=length)
        return Response(201)


def _payload(envelope: bytes, payload_type: str, what: str) -> bytes:
    wrapped = read_envelope(envelope, what=what)
    if wrapped.payload_type != payload_type:
        raise HttpError(400, f"cannot store {what}: its type is {wrapped.payload_type}")
    return payload_of(wrapped)


def _machine_view(row: MachineRow) -> MachineView:
    return MachineView(
        id=row.id,
        name=row.name,
        record=row.record.decode(),
        enrolled=row.enrolled,
        last_seen=row.last_seen,
        revoked=row.revoked,
    )


def _limit(request: Request) -> int:
    text = request.query.get("limit", "1")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:3]) <= MAX_LISTED and len(text) <= 3):
        raise HttpError(400, f"cannot list: the limit must be 1 to {MAX_LISTED}")
    return int(text)


def _json(value: object) -> Response:
    return json_response(msgspec.json.encode(value, order="deterministic"))
