"""One request to the local API, from a command that must start fast.

The standard library's http.client would double mwctl's start (it imports email and ssl: 18 ms of
37 natively, a third of a second under emulation), and httpx costs a second and 22 MiB. So this
speaks HTTP/1.0, where an answer is a head, an empty line and bytes until the end, with the
``socket`` module alone. The other end is our own front process; anything unexpected is an error.
"""

import socket
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from milkyway_formats.errors import MilkyWayError, RefusedError, UnavailableError

SOCKET_PATH = "/run/milkyway/mwctl.sock"
ANSWER_SECONDS = 120.0
MAX_HEAD_LINE = 8192
MAX_HEAD_LINES = 64


class Reply(NamedTuple):
    """The HTTP status and the body: *length* bytes, or everything up to the end if that is None."""

    status: int
    body: BinaryIO
    length: int | None

    def read(self) -> bytes:
        """Return the whole body. Raises UnavailableError when it was cut short."""
        try:
            data = self.body.read() if self.length is None else self.body.read(self.length)
        except ConnectionResetError as error:
            raise _gone() from error
        except OSError as error:
            raise UnavailableError(f"cannot read the agent's answer: {_reason(error)}") from error
        if self.length is not None and len(data) < self.length:
            raise _gone()
        return data

    def lines(self) -> Iterator[bytes]:
        """Yield the body line by line, as they come. Raises UnavailableError when the connection breaks."""
        while True:
            try:
                line = self.body.readline()
            except OSError as error:
                raise _gone() from error
            if not line:
                return
            yield line


def ask(path: str, method: str, target: str, body: bytes = b"", *, seconds: float | None = ANSWER_SECONDS) -> Reply:
    """Send one request to the socket at *path* and return the reply, its body not yet read.

    Raises UnavailableError when nothing answers, or nothing more for *seconds*, and RefusedError when this
    user may not connect.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with connection:
        connection.settimeout(seconds)
        try:
            connection.connect(path)
        except PermissionError as error:
            raise RefusedError(f"cannot reach the agent at {path}: permission denied") from error
        except OSError as error:
            raise UnavailableError(
                f"cannot reach the agent at {path}: {_reason(error)}",
                hint="is it running? On a MilkyWay server it always is; --socket selects another agent's socket",
            ) from error
        try:
            _send(connection, method, target, body)
            # The file keeps the connection open after this block.
            return _read_head(connection.makefile("rb"))
        except ConnectionResetError as error:  # closed before the agent had read what was sent
            raise _gone() from error
        except OSError as error:
            raise UnavailableError(f"cannot read the agent's answer: {_reason(error)}") from error


def failure(status: int, body: bytes) -> MilkyWayError:
    """Return the error that an answer other than 2xx stands for."""
    import json  # late: only some answers need it here

    try:
        error = json.loads(body)["error"]
        kind, message, hint = str(error["kind"]), str(error["message"]), str(error["hint"])
    except (ValueError, KeyError, TypeError):
        return MilkyWayError(f"cannot understand the agent's answer: HTTP {status} without a reason")
    if kind == "refused":
        return RefusedError(message, hint=hint)
    if kind == "unavailable":
        return UnavailableError(message, hint=hint)
    return MilkyWayError(message, hint=hint)


def _send(connection: socket.socket, method: str, target: str, body: bytes) -> None:
    head = (
        f"{method} {target} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n" if body else f"{method} {target} HTTP/1.0\r\n\r\n"
    )
    try:
        connection.sendall(head.encode("ascii") + body)
    except (BrokenPipeError, ConnectionResetError):
        return  # the agent may have answered before it read everything: the answer says why


def _read_head(answer: BinaryIO) -> Reply:
    first = answer.readline(MAX_HEAD_LINE).split(maxsplit=2)
    if not first:
        raise _gone()
    if len(first) < 2 or not first[0].startswith(b"HTTP/1.") or not first[1].isdigit():
        raise MilkyWayError("cannot understand the agent's answer: it is not HTTP")
    length = None
    for _ in range(MAX_HEAD_LINES):
        line = answer.readline(MAX_HEAD_LINE)
        if not line.endswith(b"\n"):
            raise _gone()
        if line in (b"\r\n", b"\n"):
            return Reply(int(first[1]), answer, length)
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            length = int(value)
    raise MilkyWayError("cannot understand the agent's answer: its head does not end")


def _gone() -> UnavailableError:
    return UnavailableError(
        "cannot read the agent's answer: it closed the connection",
        hint="too many connections, or the API is being restarted: try again in a moment",
    )


def _reason(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
