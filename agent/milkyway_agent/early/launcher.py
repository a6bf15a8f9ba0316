"""The launcher: starts services through a static C program that waits for requests (agent/launch/launch.c, ``--serve``).

A start is one message and one answer; the new process is a child of ours, as if we had made it ourselves. Nothing here
waits: requests that the socket has no room for are queued, answers are read when there are any.

Left to others: what to start and when; claiming the children. Orphans must not be reaped while ``pending`` is not 0: a
child whose start is not answered yet may have ended already. When the launcher dies, all its requests are answered
NotStarted, but the start that it was working on may have happened: kill its control group before starting it again.

This module is imported before trio, while the first services wait: apart from two extension modules it imports only what
Python has loaded already. Hence no ``typing``, ``socket``, ``signal``, ``enum`` or ``os`` here (posix has its calls),
annotations in quotes, and plain classes as values.
"""

import _socket
import posix
import select
import sys

TYPE_CHECKING = False  # typing's own constant costs an import; type checkers take any constant of this name for true
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAUNCH = "/usr/lib/milkyway/launch"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin", "LANG": "C.UTF-8"}
MOST = 4  # launchers at once: more would only wait for one another in the kernel
BURST = 2  # starts that wait in each launcher before another is started
_UNFIT = "an argument holds NUL, or a descriptor's number is above 255"
_EINVAL, _EPIPE, _ETOOMANYREFS = 22, 32, 109  # the module errno would be another import
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_ROOM = 8 << 20  # bytes of requests under way: a thousand services, started before any answer is read
_SIGNALS = tuple(number for number in range(1, 65) if number not in (9, 19, 32, 33))


class Started:
    """The start *number* has succeeded: the process *pid* executes its program. The caller closes *pidfd*."""

    __slots__ = ("number", "pid", "pidfd")

    def __init__(self, number: int, pid: int, pidfd: int) -> None:
        self.number = number
        self.pid = pid
        self.pidfd = pidfd


class NotStarted:
    """The start *number* has failed: the *errno* and, in one line, *why*. Its process, if there was one, was reaped."""

    __slots__ = ("errno", "number", "why")

    def __init__(self, number: int, errno: int, why: str) -> None:
        self.number = number
        self.errno = errno
        self.why = why


class Launcher:
    """A launcher's process. *program*: its path; *environment*: the one to which each service's variables are added."""

    def __init__(self, program: str = LAUNCH, environment: "Mapping[str, str]" = ENVIRONMENT) -> None:
        """Start the launcher. Raises OSError."""
        self._program = program
        self._environment = dict(environment)
        self._socket: _socket.socket | None = None
        self._pidfd = -1
        self.pid = 0
        self._sent: set[int] = set()
        self._queue: list[tuple[int, bytes, list[int]]] = []
        self._open_files = 0
        self._watched = select.epoll()  # stays the same when the process is another
        self._open()

    @property
    def pending(self) -> int:
        """How many requests are not answered yet."""
        return len(self._sent) + len(self._queue)

    def fileno(self) -> int:
        """Return the descriptor, always the same, that is readable when ``results`` has answers."""
        return self._watched.fileno()

    @property
    def at_hand(self) -> tuple[int, ...]:
        """The number of the request that the launcher is working on; 0: none."""
        return (min(self._sent, default=0),)

    def give_up(self, hung: tuple[int, ...]) -> list[NotStarted]:
        """End the launcher if ``at_hand`` is still *hung*; return all its requests, as not started.

        Does not wait for the process, which may hang in the kernel; it is reaped as an orphan.
        """
        if self._socket is None or hung == (0,) or self.at_hand != hung:
            return []
        answers = [
            NotStarted(number, _EPIPE, "cannot start it: the launcher hung, and was ended") for number in sorted(self._sent)
        ]
        self._sent.clear()
        self._let_go()
        posix.close(self._pidfd)
        self._pidfd, self.pid = -1, 0
        return answers

    def limit_open_files(self, most: int) -> None:
        """Have services begin with the soft limit *most* of open files, even if ours was raised meanwhile; 0: with ours."""
        self._open_files = most
        if most and self.pid:
            import resource  # late: the first services do not need it

            try:  # noqa: SIM105 (contextlib would be another import)
                resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            except (OSError, ValueError):
                pass  # the launcher has just ended, or its services begin with more

    def submit(self, number: int, arguments: "Sequence[str] | bytes", descriptors: "Mapping[int, int]") -> None:
        """Request a start: *arguments* from ``launching.arguments``, *descriptors* from the child's number (< 256) to ours.

        *arguments* may be ``encoded`` already, which is worth it for what is started again.

        The caller may close its descriptors afterwards. The answer repeats *number*, which no other pending request has.
        Raises OSError: the request is too long, a descriptor is not open, or no launcher can be started.
        """
        message = request(number, arguments, list(descriptors))
        if self._socket is None:
            self._open()
        if not self._queue and self._send(number, message, list(descriptors.values())):
            return
        copies: list[int] = []
        try:
            for descriptor in descriptors.values():
                copies.append(posix.dup(descriptor))  # singly: on a failure those copied before must be closed
        except OSError:
            _close(copies)
            raise
        self._queue.append((number, message, copies))

    def results(self) -> list[Started | NotStarted]:
        """Return the answers that have come since the last call, in the order of the requests."""
        answers: list[Started | NotStarted] = []
        while self._socket is not None:
            try:
                data = self._socket.recv(2048)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # the launcher died with requests unread; what it answered before can still be read
            if not data:
                self._end()
                answers += [NotStarted(number, _EPIPE, "cannot start it: the launcher ended") for number in sorted(self._sent)]
                self._sent.clear()
                break
            answers.append(self._answer(data))
            if not self._sent:
                break  # nothing else can come; if the launcher dies now, the descriptor becomes readable again
        if self._queue:
            answers += self._flush()
        return answers

    def close(self) -> None:
        """End the launcher and forget its requests; the processes that it started live on. Idempotent."""
        self._end()
        for _, _, copies in self._queue:
            _close(copies)
        self._queue.clear()
        self._sent.clear()
        self._watched.close()

    def _flush(self) -> list[Started | NotStarted]:
        """Send what is queued, as far as there is room."""
        answers: list[Started | NotStarted] = []
        while self._queue:
            number, message, copies = self._queue[0]
            try:
                if self._socket is None:
                    self._open()
                if not self._send(number, message, copies):
                    break  # requests are under way: with their answers there is room again
            except OSError as error:
                answers.append(NotStarted(number, error.errno or _EINVAL, f"cannot start it: {error.strerror}"))
            _close(copies)
            del self._queue[0]
        return answers

    def _send(self, number: int, message: bytes, descriptors: list[int]) -> bool:
        """Send a request; return False if there was no room for it, or the launcher is dead."""
        assert self._socket is not None
        rights = b"".join([descriptor.to_bytes(4, sys.byteorder, signed=True) for descriptor in descriptors])
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else []
        try:
            self._socket.sendmsg([message], ancillary, _socket.MSG_NOSIGNAL)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False  # full, or dead: then the socket becomes readable, and results() handles it
        except OSError as error:
            # An ordinary user may have a limited number of descriptors under way: unix(7), SCM_RIGHTS.
            if error.errno == _ETOOMANYREFS and self._sent:
                return False
            raise
        self._sent.add(number)
        return True

    def _answer(self, data: bytes) -> Started | NotStarted:
        number, pid, error = (int.from_bytes(data[at : at + 4], sys.byteorder, signed=at > 0) for at in (0, 4, 8))
        self._sent.discard(number)
        if error:
            if pid > 0:
                _reap(pid)
            return NotStarted(number, error, f"cannot {data[12:].decode(errors='replace')}")
        try:
            # The child has not been reaped, as its start was pending until now: the pid can't have been reused.
            return Started(number, pid, posix.pidfd_open(pid))
        except OSError as refused:  # no descriptor is left, and it must not run without a pidfd
            posix.kill(pid, 9)
            _reap(pid)
            return NotStarted(number, refused.errno or _EINVAL, f"cannot open a pidfd for it: {refused.strerror}")

    def _open(self) -> None:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            for end in (ours, theirs):
                _make_room(end)
            ours.setblocking(False)
            self.pid = posix.posix_spawn(
                self._program,
                [self._program, "--serve", "3"],
                self._environment,
                file_actions=[
                    (posix.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
                    *((posix.POSIX_SPAWN_OPEN, number, "/dev/null", posix.O_RDWR, 0) for number in range(3)),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_SIGNALS,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._pidfd = posix.pidfd_open(self.pid)
        self._socket = ours
        self._watched.register(ours.fileno(), select.EPOLLIN)
        self.limit_open_files(self._open_files)

    def _end(self) -> None:
        if self._socket is None:
            return
        self._let_go()
        try:  # noqa: SIM105 (contextlib would be another import)
            posix.waitid(posix.P_PIDFD, self._pidfd, posix.WEXITED)
        except ChildProcessError:
            pass  # it was reaped as an orphan
        posix.close(self._pidfd)
        self._pidfd = -1
        self.pid = 0

    def _let_go(self) -> None:
        """Close the launcher's socket and kill it: it would end by itself, but not while a start hangs."""
        assert self._socket is not None
        self._watched.unregister(self._socket.fileno())
        self._socket.close()
        self._socket = None
        from signal import pidfd_send_signal  # late: it imports enum

        try:  # noqa: SIM105 (as above)
            pidfd_send_signal(self._pidfd, 9)
        except ProcessLookupError:
            pass  # it was reaped as an orphan


class Launchers:
    """Several launchers as one: a start waits only for those before it in the same launcher, so a burst takes less time.

    All but the first are started when there is a burst, and stay.
    """

    def __init__(self, program: str = LAUNCH, environment: "Mapping[str, str]" = ENVIRONMENT, count: int = 0) -> None:
        """Start the first. *count*: the maximum; 0: one for each processor, but no more than MOST. Raises OSError."""
        self._program = program
        self._environment = environment
        self._open_files = 0
        self._count = count or min(len(posix.sched_getaffinity(0)), MOST)
        self._all = [Launcher(program, environment)]
        self._watched = select.epoll()
        self._watched.register(self._all[0].fileno(), select.EPOLLIN)

    @property
    def pending(self) -> int:
        """How many requests are not answered yet."""
        return sum(launcher.pending for launcher in self._all)

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``results`` has answers."""
        return self._watched.fileno()

    def submit(self, number: int, arguments: "Sequence[str] | bytes", descriptors: "Mapping[int, int]") -> None:
        """Request a start from the launcher with the fewest pending ones; see ``Launcher.submit``."""
        quietest = min(self._all, key=_pending)
        if quietest.pending >= BURST and len(self._all) < self._count:
            quietest = Launcher(self._program, self._environment)
            quietest.limit_open_files(self._open_files)
            self._all.append(quietest)
            self._watched.register(quietest.fileno(), select.EPOLLIN)
        quietest.submit(number, arguments, descriptors)

    @property
    def at_hand(self) -> tuple[int, ...]:
        """The number of the request that each launcher is working on; 0: none."""
        return tuple(number for launcher in self._all for number in launcher.at_hand)

    def give_up(self, hung: tuple[int, ...]) -> list[NotStarted]:
        """See ``Launcher.give_up``: end the launchers that are still at *hung*, which lacks those that were started since."""
        return [answer for launcher, number in zip(self._all, hung, strict=False) for answer in launcher.give_up((number,))]

    def limit_open_files(self, most: int) -> None:
        """See ``Launcher.limit_open_files``."""
        self._open_files = most
        for launcher in self._all:
            launcher.limit_open_files(most)

    def results(self) -> list[Started | NotStarted]:
        """Return the answers that have come since the last call."""
        return [answer for launcher in self._all for answer in launcher.results()]

    def close(self) -> None:
        """End all launchers; the processes that they started live on. Idempotent."""
        for launcher in self._all:
            launcher.close()
        self._watched.close()


def _pending(launcher: Launcher) -> int:
    return launcher.pending


def request(number: int, arguments: "Sequence[str] | bytes", targets: "Sequence[int]") -> bytes:
    """Return the message that requests a start; *targets* are the child's numbers for the descriptors that go with it."""
    if targets and not 0 <= min(targets) <= max(targets) < 256:
        raise OSError(_EINVAL, _UNFIT)
    head = b"".join([value.to_bytes(4, sys.byteorder) for value in (number, len(targets), *targets)])
    return head + (arguments if isinstance(arguments, bytes) else encoded(arguments))


def encoded(arguments: "Sequence[str]") -> bytes:
    """Return *arguments* in the form in which they are sent. Raises OSError if one holds NUL."""
    text = "\0".join(arguments)
    if text.count("\0") != len(arguments) - 1:
        raise OSError(_EINVAL, _UNFIT)
    return text.encode(errors="surrogateescape") + b"\0"


def _make_room(end: _socket.socket) -> None:
    try:
        end.setsockopt(_socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
    except PermissionError:  # an ordinary user: as much as net.core.wmem_max allows
        end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _ROOM)


def _reap(pid: int) -> None:
    try:  # noqa: SIM105 (contextlib would be another import)
        posix.waitpid(pid, 0)
    except ChildProcessError:
        pass  # it was reaped as an orphan


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        posix.close(descriptor)
