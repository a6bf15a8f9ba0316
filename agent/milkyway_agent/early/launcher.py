"""The launcher: starts services through one static C program that waits for requests (agent/launch/launch.c, ``--serve``).

A start is one message there and one answer back; the new process is a child of ours, as if we had made it ourselves.
Nothing here waits: requests that the socket has no room for are queued, answers are read when there are any.

Left to others: what to start and when; claiming the children. Whoever reaps strangers must hold back while ``pending``
is not 0: a child that nobody has heard of yet may have ended already. When the launcher dies, what it was asked for is
answered NotStarted, but the one start at hand may have happened: kill its control group before starting it again.

This module is imported before trio, while the first services wait: it imports nothing that Python has not loaded yet
but two extension modules. Hence no ``typing``, ``socket``, ``signal``, ``enum`` or ``os`` here (posix has its calls),
annotations in quotes, and plain classes as values.
"""

import _socket
import posix
import select
import sys

TYPE_CHECKING = False  # typing's own constant costs its import; checkers take any of that name for true
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAUNCH = "/usr/lib/milkyway/launch"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin", "LANG": "C.UTF-8"}
MOST = 4  # launchers at once: more would only wait for one another in the kernel
BURST = 2  # starts that wait in each before there is another
_UNFIT = "a word holds NUL, or a descriptor's number is above 255"
_EINVAL, _EPIPE, _ETOOMANYREFS = 22, 32, 109  # the module errno is one import more
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_ROOM = 8 << 20  # bytes of requests under way: a thousand services, started before anybody reads an answer
_SIGNALS = tuple(number for number in range(1, 65) if number not in (9, 19, 32, 33))


class Started:
    """Request *number* is a process now: it executes its program. *pidfd* is its reader's to close."""

    __slots__ = ("number", "pid", "pidfd")

    def __init__(self, number: int, pid: int, pidfd: int) -> None:
        self.number = number
        self.pid = pid
        self.pidfd = pidfd


class NotStarted:
    """Request *number* came to nothing: the *errno* and, as one line, *why*. Its process, if it had one, was reaped."""

    __slots__ = ("errno", "number", "why")

    def __init__(self, number: int, errno: int, why: str) -> None:
        self.number = number
        self.errno = errno
        self.why = why


class Launcher:
    """One launcher at work. *program*: its path; *environment*: what every service's starts from."""

    def __init__(self, program: str = LAUNCH, environment: "Mapping[str, str]" = ENVIRONMENT) -> None:
        """Start it. Raises OSError when that can't be done."""
        self._program = program
        self._environment = dict(environment)
        self._socket: _socket.socket | None = None
        self._pidfd = -1
        self.pid = 0
        self._sent: set[int] = set()
        self._queue: list[tuple[int, bytes, list[int]]] = []
        self._open_files = 0
        self._watched = select.epoll()  # stays the same when the launcher is another
        self._open()

    @property
    def pending(self) -> int:
        """How many requests are not answered yet."""
        return len(self._sent) + len(self._queue)

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``results`` has something to say: the same for good."""
        return self._watched.fileno()

    @property
    def at_hand(self) -> tuple[int, ...]:
        """The request that it is at, by its number; 0: none."""
        return (min(self._sent, default=0),)

    def give_up(self, hung: tuple[int, ...]) -> list[NotStarted]:
        """End it if it is still at the request *hung*, as ``at_hand`` was; return what was asked of it, as not started.

        Nobody waits for its end: what hangs may hang in the kernel. It is a stranger among our children then.
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
        """Have services begin with the soft limit *most* of open files, where ours has been raised meanwhile; 0: with ours."""
        self._open_files = most
        if most and self.pid:
            import resource  # late: nobody needs it for the first services

            try:  # noqa: SIM105 (contextlib would be one import more)
                resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            except (OSError, ValueError):
                pass  # it has just ended; or they have more than they would

    def submit(self, number: int, words: "Sequence[str] | bytes", descriptors: "Mapping[int, int]") -> None:
        """Ask for one start: *words* as ``launching.arguments``', *descriptors* from the child's number (below 256) to ours.

        *words* may be ``encoded`` already: whoever starts the same again keeps them so.

        The caller may close its descriptors afterwards. *number* comes back with the answer; no two pending are the same.
        Raises OSError when it can't be asked for: it is too long, a descriptor is not open, or no launcher can be started.
        """
        message = request(number, words, list(descriptors))
        if self._socket is None:
            self._open()
        if not self._queue and self._send(number, message, list(descriptors.values())):
            return
        copies: list[int] = []
        try:
            for descriptor in descriptors.values():
                copies.append(posix.dup(descriptor))  # one by one: what was copied before a failure must be closed
        except OSError:
            _close(copies)
            raise
        self._queue.append((number, message, copies))

    def results(self) -> list[Started | NotStarted]:
        """Return the answers that have come since, in the order of the requests."""
        answers: list[Started | NotStarted] = []
        while self._socket is not None:
            try:
                data = self._socket.recv(2048)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # it died with requests unread; what it answered before is still to be read
            if not data:
                self._end()
                answers += [NotStarted(number, _EPIPE, "cannot start it: the launcher ended") for number in sorted(self._sent)]
                self._sent.clear()
                break
            answers.append(self._answer(data))
            if not self._sent:
                break  # nothing else is to come; were it to die now, the descriptor would say so again
        if self._queue:
            answers += self._flush()
        return answers

    def close(self) -> None:
        """End the launcher and forget what was asked of it; what it started goes on. Twice is the same as once."""
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
                    break  # an answer will come, as something is under way, and then there is room
            except OSError as error:
                answers.append(NotStarted(number, error.errno or _EINVAL, f"cannot start it: {error.strerror}"))
            _close(copies)
            del self._queue[0]
        return answers

    def _send(self, number: int, message: bytes, descriptors: list[int]) -> bool:
        """Send one request; tell whether there was room, or a launcher, for it."""
        assert self._socket is not None
        rights = b"".join([descriptor.to_bytes(4, sys.byteorder, signed=True) for descriptor in descriptors])
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else []
        try:
            self._socket.sendmsg([message], ancillary, _socket.MSG_NOSIGNAL)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False  # full, or dead: results() will see to it, as the socket is readable then
        except OSError as error:
            # An ordinary user may have only so many descriptors under way: unix(7), SCM_RIGHTS.
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
            # A child of ours that was not reaped, as it was not answered yet: the pid can't have become another's.
            return Started(number, pid, posix.pidfd_open(pid))
        except OSError as refused:  # no descriptor is left: what can't be held must not run
            posix.kill(pid, 9)
            _reap(pid)
            return NotStarted(number, refused.errno or _EINVAL, f"cannot hold it: {refused.strerror}")

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
        try:  # noqa: SIM105 (contextlib would be one import more)
            posix.waitid(posix.P_PIDFD, self._pidfd, posix.WEXITED)
        except ChildProcessError:
            pass  # whoever reaps strangers was quicker
        posix.close(self._pidfd)
        self._pidfd = -1
        self.pid = 0

    def _let_go(self) -> None:
        """Close its socket, and kill it: it would end by itself, but not while a start hangs."""
        assert self._socket is not None
        self._watched.unregister(self._socket.fileno())
        self._socket.close()
        self._socket = None
        from signal import pidfd_send_signal  # late: it imports enum

        try:  # noqa: SIM105 (as above)
            pidfd_send_signal(self._pidfd, 9)
        except ProcessLookupError:
            pass  # whoever reaps strangers was quicker


class Launchers:
    """Several launchers as one: a start waits for the one before it in its launcher alone, so a burst takes a part of the time.

    The second and further ones are started when there is a burst, and stay.
    """

    def __init__(self, program: str = LAUNCH, environment: "Mapping[str, str]" = ENVIRONMENT, count: int = 0) -> None:
        """Start one. *count*: at most so many, 0: one for each processor, but no more than MOST. Raises OSError."""
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
        return sum(one.pending for one in self._all)

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``results`` has something to say."""
        return self._watched.fileno()

    def submit(self, number: int, words: "Sequence[str] | bytes", descriptors: "Mapping[int, int]") -> None:
        """Ask for one start, of whichever has the least to do; see ``Launcher.submit``."""
        quietest = min(self._all, key=_pending)
        if quietest.pending >= BURST and len(self._all) < self._count:
            quietest = Launcher(self._program, self._environment)
            quietest.limit_open_files(self._open_files)
            self._all.append(quietest)
            self._watched.register(quietest.fileno(), select.EPOLLIN)
        quietest.submit(number, words, descriptors)

    @property
    def at_hand(self) -> tuple[int, ...]:
        """The requests that they are at, by their numbers; 0: none."""
        return tuple(number for one in self._all for number in one.at_hand)

    def give_up(self, hung: tuple[int, ...]) -> list[NotStarted]:
        """See ``Launcher.give_up``: end those that are still at what they were at. Those that were started since come after."""
        return [answer for one, number in zip(self._all, hung, strict=False) for answer in one.give_up((number,))]

    def limit_open_files(self, most: int) -> None:
        """See ``Launcher.limit_open_files``."""
        self._open_files = most
        for one in self._all:
            one.limit_open_files(most)

    def results(self) -> list[Started | NotStarted]:
        """Return the answers that have come since."""
        return [answer for one in self._all for answer in one.results()]

    def close(self) -> None:
        """End all of them; what they started goes on. Twice is the same as once."""
        for one in self._all:
            one.close()
        self._watched.close()


def _pending(launcher: Launcher) -> int:
    return launcher.pending


def request(number: int, words: "Sequence[str] | bytes", targets: "Sequence[int]") -> bytes:
    """Return the message that asks for one start, *targets* being the child's numbers of the descriptors that go with it."""
    if targets and not 0 <= min(targets) <= max(targets) < 256:
        raise OSError(_EINVAL, _UNFIT)
    head = b"".join([value.to_bytes(4, sys.byteorder) for value in (number, len(targets), *targets)])
    return head + (words if isinstance(words, bytes) else encoded(words))


def encoded(words: "Sequence[str]") -> bytes:
    """Return *words* as they are sent. Raises OSError for one that holds NUL."""
    text = "\0".join(words)
    if text.count("\0") != len(words) - 1:
        raise OSError(_EINVAL, _UNFIT)
    return text.encode(errors="surrogateescape") + b"\0"


def _make_room(end: _socket.socket) -> None:
    try:
        end.setsockopt(_socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
    except PermissionError:  # an ordinary user: as much as net.core.wmem_max allows
        end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _ROOM)


def _reap(pid: int) -> None:
    try:  # noqa: SIM105 (contextlib would be one import more)
        posix.waitpid(pid, 0)
    except ChildProcessError:
        pass  # whoever reaps strangers was quicker


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        posix.close(descriptor)
