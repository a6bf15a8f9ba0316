"""One command at a time through the shell on a development machine's virtio console.

Input and output are base64 between lines with a random mark drawn for each command, so a prompt,
an echo or a message in between does no harm, and any bytes pass. The pure half (``script``,
``Reader``) knows the lines; ``Shell`` moves bytes over a socket.
"""

import base64
import re
import secrets
import socket
import time
from typing import NamedTuple

from milkyway_formats.errors import UnavailableError

LINE = 76  # the machine's terminal takes lines of up to 4095 bytes
ASK_EVERY_S = 0.5
INTERRUPT = b"\x03"


class Executed(NamedTuple):
    """The result of a command: its exit code and both outputs."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Return the standard output as text, without the last line feed."""
        return self.stdout.decode(errors="replace").rstrip("\n")


def script(command: str, stdin: bytes, mark: str) -> bytes:
    """Return the lines that make the shell run *command* with *stdin* and frame its outputs with *mark*."""
    files = f"/tmp/{mark}"
    return b"".join([
        _file(f"{files}.command", command.encode(), mark), _file(f"{files}.stdin", stdin, mark),
        f"sh {files}.command <{files}.stdin >{files}.stdout 2>{files}.stderr\n".encode(),
        f'echo "{mark}:code:$?"; base64 {files}.stdout; echo "{mark}:stderr:$?"\n'.encode(),
        f'base64 {files}.stderr; echo "{mark}:end:$?"; rm -f {files}.*\n'.encode(),
    ])  # fmt: skip


def _file(path: str, content: bytes, mark: str) -> bytes:
    coded = base64.b64encode(content)
    lines = b"".join(coded[start : start + LINE] + b"\n" for start in range(0, len(coded), LINE))
    return f"base64 -d >{path} <<'{mark}'\n".encode() + lines + f"{mark}\n".encode()


class Reader:
    """Collects the shell's output until a command's frame is complete.

    An echo of the input cannot be taken for the frame: it has a ``$?`` where the frame has a number.
    """

    def __init__(self, mark: str) -> None:
        # Each part is whole lines of base64; all other output comes before the first mark.
        lines = r"\r?\n([A-Za-z0-9+/=\r\n]*)"
        frame = rf"^{mark}:code:(\d+){lines}{mark}:stderr:\d+{lines}{mark}:end:\d+\r?\n"
        self._frame = re.compile(frame.encode(), re.MULTILINE)
        self._end = f"{mark}:end:".encode()
        self._said = bytearray()

    @property
    def said(self) -> bytes:
        """Return all output so far."""
        return bytes(self._said)

    def feed(self, data: bytes) -> Executed | None:
        """Take *data*; return the command's result once it is complete."""
        self._said += data
        if self._end not in self._said[-len(data) - 2 * len(self._end) :]:
            return None
        found = self._frame.search(self._said)
        return Executed(int(found[1]), base64.b64decode(found[2]), base64.b64decode(found[3])) if found else None


class Shell:
    """The shell at the other end of *connection*, which nothing else may use meanwhile."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def execute(self, command: str, *, stdin: bytes = b"", deadline_s: float = 60) -> Executed:
        """Run *command* with ``sh`` and return its result. Raises UnavailableError when no answer comes in time."""
        until = time.monotonic() + deadline_s
        self._reach(until)
        mark = f"vm-{secrets.token_hex(6)}"
        self._send(script(command, stdin, mark), deadline_s)
        reader = Reader(mark)
        while True:
            data = self._receive(until)
            if not data:
                self._send(INTERRUPT, ASK_EVERY_S)
                raise UnavailableError(
                    f"cannot execute {command[:60]!r}: no answer within {deadline_s:.0f} s", hint=_tail(reader.said)
                )
            if executed := reader.feed(data):
                return executed

    def _reach(self, until: float) -> None:
        """Ask until a shell answers, and silence its prompt and echo."""
        while time.monotonic() < until:
            first, second = secrets.randbelow(10**6), secrets.randbelow(10**6)
            # The answer is a sum, so that an echo of the question is not taken for it.
            self._send(b"\nPS1= PS2=; stty -echo 2>/dev/null; echo =$((%d+%d))=\n" % (first, second), ASK_EVERY_S)
            said, expected = b"", b"=%d=" % (first + second)
            ask_again = min(until, time.monotonic() + ASK_EVERY_S)
            while data := self._receive(ask_again):
                said += data
                if expected in said:
                    return
        raise UnavailableError("cannot reach the machine's shell: it does not answer")

    def _send(self, data: bytes, deadline_s: float) -> None:
        self._connection.settimeout(deadline_s)
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise UnavailableError(f"cannot reach the machine's shell: {error}") from error

    def _receive(self, until: float) -> bytes:
        """Return what comes next, or b"" if nothing comes before *until*. Raises UnavailableError when the machine is gone."""
        left = until - time.monotonic()
        if left <= 0:
            return b""
        self._connection.settimeout(left)
        try:
            data = self._connection.recv(65536)
        except TimeoutError:
            return b""
        except OSError as error:
            raise UnavailableError(f"cannot reach the machine's shell: {error}") from error
        if not data:
            raise UnavailableError("cannot reach the machine's shell: the machine has ended")
        return data


def _tail(said: bytes) -> str:
    return said[-200:].decode(errors="replace").strip()
