"""The operator's tool as a client of the control server: httpx with mutual TLS, typed answers, explained failures.

What it returns is no more than the server's word; verifying it is up to the caller.
"""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from milkyway_control.fleet.config import FleetConfig
from milkyway_control.operator_protocol import (
    BLOBS_PATH,
    EMPTY_MATCH,
    ENROLMENTS_PATH,
    FLEET_PATH,
    MACHINES_PATH,
    MATCH_HEADER,
    MAX_ANSWER_BYTES,
    MAX_LISTED,
    TOKENS_PATH,
    EnvelopeView,
    FleetView,
    MachineView,
    NewToken,
    PendingView,
    ReportView,
)
from milkyway_control.tls import client_context
from milkyway_formats.agent_protocol import MAX_PROBLEM_BYTES, Problem
from milkyway_formats.codec import encode
from milkyway_formats.enrolment import TokenId
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.names import MachineId, Sha256

CHUNK_BYTES = 256 * 1024
TIMEOUT = httpx.Timeout(30.0)

T = TypeVar("T")
Progress = Callable[[int], object]


class ServerRefusedError(RefusedError):
    """The control server refused; the message is its own."""


class ServerUnavailableError(UnavailableError):
    """The control server can't be reached or can't answer now."""


class FleetClient:
    """One session with the control server. Use as a context manager."""

    def __init__(self, config: FleetConfig) -> None:
        settings = config.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._where = f"{settings.host}:{settings.port}"
        self._http = httpx.Client(
            base_url=f"https://{host}:{settings.port}",
            verify=client_context(config.client, config.ca),
            timeout=TIMEOUT,
            trust_env=False,  # no proxy and no other authority through the environment
        )

    def __enter__(self) -> Self:
        self._http.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._http.__exit__(kind, error, traceback)

    def fleet(self) -> FleetView:
        """Return the fleet that the server is for."""
        return self._get(FLEET_PATH, FleetView)

    def add_token(self, token: NewToken) -> None:
        """Register a token's id."""
        self._send("POST", TOKENS_PATH, content=encode(token))

    def pending(self) -> list[PendingView]:
        """Return the machines that wait to be enrolled."""
        return self._get(ENROLMENTS_PATH, list[PendingView])

    def approve(self, token: TokenId, record: bytes) -> None:
        """Give the server the signed enrolment record for *token*."""
        self._send("POST", f"{ENROLMENTS_PATH}/{token}", content=record)

    def machines(self) -> list[MachineView]:
        """Return every machine the server knows."""
        return self._get(MACHINES_PATH, list[MachineView])

    def revoke(self, machine: MachineId) -> None:
        """Tell the server never to let *machine* connect again."""
        self._send("POST", f"{MACHINES_PATH}/{machine}/revoke")

    def desired(self, machine: MachineId) -> list[EnvelopeView]:
        """Return the newest desired states of *machine*, newest first."""
        return self._get(f"{MACHINES_PATH}/{machine}/desired?limit={MAX_LISTED}", list[EnvelopeView])

    def push_desired(self, machine: MachineId, envelope: bytes, previous: Sha256 | None) -> None:
        """Store a desired state that was built on the one whose digest is *previous*."""
        headers = {MATCH_HEADER: previous or EMPTY_MATCH}
        self._send("POST", f"{MACHINES_PATH}/{machine}/desired", content=envelope, headers=headers)

    def commands(self, machine: MachineId, stream: str = "") -> list[EnvelopeView]:
        """Return the newest commands for *machine*, newest first; only those of *stream* if it is given."""
        only = f"&stream={stream}" if stream else ""
        return self._get(f"{MACHINES_PATH}/{machine}/commands?limit={MAX_LISTED}{only}", list[EnvelopeView])

    def push_command(self, machine: MachineId, envelope: bytes) -> None:
        """Store a command for *machine*."""
        self._send("POST", f"{MACHINES_PATH}/{machine}/commands", content=envelope)

    def reports(self, machine: MachineId, limit: int = 1) -> list[ReportView]:
        """Return the newest reports of *machine*, newest first."""
        return self._get(f"{MACHINES_PATH}/{machine}/reports?limit={limit}", list[ReportView])

    def has_blob(self, sha256: Sha256) -> bool:
        """Whether the server holds this blob."""
        return self._send("HEAD", f"{BLOBS_PATH}/{sha256}", also=404).status_code == 200

    def upload(self, sha256: Sha256, file: Path, size: int, progress: Progress) -> None:
        """Send *file*; *progress* is called with the length of every chunk."""
        headers = {"content-length": str(size)}
        self._send("PUT", f"{BLOBS_PATH}/{sha256}", content=_chunks(file, progress), headers=headers)

    def _get(self, path: str, kind: type[T]) -> T:
        response = self._send("GET", path)
        if len(response.content) > MAX_ANSWER_BYTES:
            raise ServerRefusedError(f"cannot read answer of {self._where}: {len(response.content)} bytes")
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.DecodeError as error:
            raise ServerRefusedError(f"cannot read answer of {self._where}: {error}") from error

    def _send(self, method: str, path: str, *, also: int = 200, **arguments: Any) -> httpx.Response:
        """Return the answer if its status is 2xx or *also*; else raise the problem in it."""
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise ServerUnavailableError(f"cannot ask the control server at {self._where}: {_explain(error)}") from error
        if response.is_success or response.status_code == also:
            return response
        try:
            problem = msgspec.json.decode(response.content[:MAX_PROBLEM_BYTES], type=Problem)
        except msgspec.DecodeError:
            problem = Problem(error=f"the control server answered {response.status_code}")
        kind = ServerUnavailableError if response.status_code >= 500 else ServerRefusedError
        raise kind(problem.error, hint=problem.hint)


def _chunks(file: Path, progress: Progress) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
            progress(len(chunk))


def _explain(error: BaseException) -> str:
    """Return why httpx failed, in words: its own say little, and TLS 1.3 reports a refused certificate late."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {reason.verify_message}"
        if isinstance(reason, ssl.SSLError) and "ALERT" in (reason.reason or ""):
            return "it refused our certificate"
        if isinstance(reason, OSError) and reason.strerror:
            return reason.strerror
        reason = reason.__cause__ or reason.__context__
    if isinstance(error, httpx.RemoteProtocolError):
        return "it closed the connection (it may have refused our certificate)"
    return str(error) or type(error).__name__
