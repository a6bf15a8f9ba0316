"""What machines may request: enrol, poll, fetch a blob, report. Routes and checks; HTTP is in ``http_service``.

Its certificate says which machine a client is, and the machine is looked up for every request, so that a
revocation takes effect at once (it wakes a waiting poll). Only enrolment is open to a client without a
certificate. A report is stored after its signature is checked against the enrolled identity key.
Renewal of certificates (POST /v1/renew) does not exist yet: after 30 days a machine needs a new token.
"""

from collections.abc import AsyncGenerator, Callable

import structlog
import trio

from milkyway_control.server.blobs import Blobs, is_blob_name
from milkyway_control.server.enrolment import machine_of, read_request
from milkyway_control.server.http_service import CHUNK_BYTES, HttpError, Request, Response, json_response
from milkyway_control.server.store import EnvelopeRow, MachineRow, ReportRow, Store
from milkyway_control.server.wakeups import Wakeups
from milkyway_formats.agent_protocol import (
    BLOB_PREFIX,
    CURSOR_HEADER,
    ENROL_PATH,
    KIND_HEADER,
    MACHINE_URI,
    MAX_ENROLMENT_BYTES,
    MAX_REPORT_BYTES,
    POLL_HOLD_S,
    POLL_PATH,
    REPORT_PATH,
    PollQuery,
    read_poll_query,
)
from milkyway_formats.hybrid import HybridPublicKey
from milkyway_formats.names import Sha256, UnixSeconds
from milkyway_formats.report import REPORT_TYPE, Report
from milkyway_formats.trust import verify_by_key

log = structlog.get_logger()


class AgentEndpoint:
    """The handler for the agent port."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        wakeups: Wakeups,
        *,
        fleet: str,
        clock: Callable[[], UnixSeconds],
        hold_s: float = POLL_HOLD_S,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._wakeups = wakeups
        self._fleet = fleet
        self._clock = clock
        self._hold_s = hold_s

    async def handle(self, request: Request) -> Response:
        """Return the answer to *request*."""
        match request.method, request.path:
            case "POST", path if path == ENROL_PATH:
                return await self._enrol(request)
            case "GET", path if path == POLL_PATH:
                return await self._poll(request, await self._machine(request))
            case "GET", path if path.startswith(BLOB_PREFIX):
                await self._machine(request)
                return await self._blob(request, path.removeprefix(BLOB_PREFIX))
            case "POST", path if path == REPORT_PATH:
                return await self._report(request, await self._machine(request))
        await self._machine(request)
        raise HttpError(404, f"cannot answer {request.method} {request.path}: there is no such path")

    async def _machine(self, request: Request) -> MachineRow:
        ids = [uri.removeprefix(MACHINE_URI) for uri in request.uris if uri.startswith(MACHINE_URI)]
        if len(ids) != 1:
            raise HttpError(401, f"cannot answer {request.path}: a machine's certificate is required")
        machine = await trio.to_thread.run_sync(self._store.machine, ids[0])
        if machine is None:
            raise HttpError(403, f"cannot answer machine {ids[0][:16]}: it is not enrolled here")
        if machine.revoked is not None:
            raise HttpError(403, f"cannot answer machine {machine.name}: it was revoked")
        return machine

    async def _enrol(self, request: Request) -> Response:
        """Bind the token to the first request that comes with it, and hold that until an operator approves it."""
        body = await request.body(MAX_ENROLMENT_BYTES)
        wanted = read_request(body)
        token = await trio.to_thread.run_sync(self._store.token, wanted.token)
        if token is None:
            raise HttpError(403, f"cannot enrol: token {wanted.token} is not known here")
        before = await trio.to_thread.run_sync(self._store.enrolment, wanted.token)
        if before is None:
            if self._clock() >= token.expires:
                raise HttpError(403, f"cannot enrol: token {wanted.token} has expired")
            before = await trio.to_thread.run_sync(self._store.add_enrolment, wanted.token, body, self._clock())
            log.info("enrolment_requested", token=wanted.token, name=token.name, machine=machine_of(wanted))
        if before.request != body:
            log.warning("enrolment_refused", token=wanted.token, check="token-used-twice", machine=machine_of(wanted))
            raise HttpError(409, f"cannot enrol: token {wanted.token} was used by another machine")
        deadline = self._deadline(read_poll_query(request.query).hold)
        while True:
            event = self._wakeups.event(wanted.token)
            row = await trio.to_thread.run_sync(self._store.enrolment, wanted.token)
            if row is not None and row.reply is not None:
                return json_response(row.reply)
            with trio.move_on_at(deadline) as waited:
                await event.wait()
            if waited.cancelled_caught:
                break
        return Response(202)

    async def _poll(self, request: Request, machine: MachineRow) -> Response:
        query = read_poll_query(request.query)
        await trio.to_thread.run_sync(self._store.saw, machine.id, self._clock(), query.commands)
        if query.commands is not None and query.commands > machine.commands_seen:
            log.info("commands_acknowledged", machine=machine.name, cursor=query.commands)
        deadline = self._deadline(query.hold)
        while True:
            event = self._wakeups.event(machine.id)
            machine = await self._machine(request)
            row = await trio.to_thread.run_sync(self._news, machine, query)
            if row is not None:
                return _envelope(row)
            with trio.move_on_at(deadline) as waited:
                await event.wait()
            if waited.cancelled_caught:
                break
        return Response(204)

    def _news(self, machine: MachineRow, query: PollQuery) -> EnvelopeRow | None:
        desired = self._store.newest_desired(machine.id)
        if desired is not None and desired.digest != query.desired:
            return desired
        return self._store.next_command(machine.id, machine.commands_seen if query.commands is None else query.commands)

    def _deadline(self, hold: int | None) -> float:
        """Return until when a request is held whose client asks for *hold* seconds."""
        return trio.current_time() + (self._hold_s if hold is None else min(self._hold_s, hold))

    async def _blob(self, request: Request, sha256: str) -> Response:
        size = await trio.to_thread.run_sync(self._blobs.size, sha256) if is_blob_name(sha256) else None
        if size is None:
            raise HttpError(404, f"cannot send blob {sha256[:16]}: it is not here", hint="milkyway fleet upload LAYER")
        start = _range_start(request.headers.get("range"), size)
        headers = {"content-type": "application/octet-stream", "accept-ranges": "bytes"}
        if start is not None:
            headers["content-range"] = f"bytes {start}-{size - 1}/{size}"
        return Response(
            200 if start is None else 206, headers=headers, stream=self._read(sha256, start or 0), length=size - (start or 0)
        )

    async def _read(self, sha256: Sha256, start: int) -> AsyncGenerator[bytes, None]:
        with await trio.to_thread.run_sync(self._blobs.open, sha256) as file:
            file.seek(start)
            while chunk := await trio.to_thread.run_sync(file.read, CHUNK_BYTES):
                yield chunk

    async def _report(self, request: Request, machine: MachineRow) -> Response:
        body = await request.body(MAX_REPORT_BYTES)
        report, _ = verify_by_key(body, HybridPublicKey(machine.identity), REPORT_TYPE, Report, what="report")
        if (report.machine, report.fleet) != (machine.id, self._fleet):
            raise HttpError(400, f"cannot accept report: it is not of machine {machine.name}")
        row = ReportRow(0, machine.id, report.sequence, self._clock(), body)
        await trio.to_thread.run_sync(self._store.add_report, row)
        log.info("report_stored", machine=machine.name, sequence=report.sequence)
        return Response(204)


def _envelope(row: EnvelopeRow) -> Response:
    headers = {"content-type": "application/json", KIND_HEADER: row.kind}
    if row.kind == "command":
        headers[CURSOR_HEADER] = str(row.cursor)
    return Response(200, row.envelope, headers)


def _range_start(header: str | None, size: int) -> int | None:
    """Return where to begin, for the only form of range that a resumed download needs: ``bytes=N-``."""
    if header is None:
        return None
    digits = header.removeprefix("bytes=").removesuffix("-")
    if header != f"bytes={digits}-" or not (digits.isascii() and digits.isdigit() and len(digits) <= 16):
        raise HttpError(416, "cannot send a range other than bytes=N-")
    if int(digits) >= size:
        raise HttpError(416, f"cannot send from byte {digits}: the blob has {size}")
    return int(digits)
