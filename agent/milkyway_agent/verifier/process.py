"""The verifier as a process: two channels, a clock, descriptors. What to answer is decided in ``answers``.

Started by PID 1 with fd 3 (the pair with PID 1) and fd 4 (the pair with the uplink), no network and no environment. It
serves until PID 1 has closed its end. When the uplink has ended PID 1 is told, which then ends this process too and
starts both again with a new pair (with the persisted state that is a plain restart); until then everything that needs no
network works. Whatever the uplink sends, and however slowly it reads, PID 1 never waits for it: the uplink has a queue
and a task of its own, and what does not fit is dropped. Whole files are hashed in chunks, so that a large layer delays
nothing else.
"""

import hashlib
import os
import resource
import stat
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import trio

from milkyway_agent.ipc.channel import Channel, ChannelClosedError, MessageRefusedError, close_all
from milkyway_agent.ipc.messages import (
    Acted,
    AdmitLocally,
    Begin,
    CheckPolicy,
    Enrolled,
    Envelope,
    Fetch,
    Fetched,
    FetchLayer,
    FromUplink,
    FromVerifier,
    Handled,
    LinkState,
    RefusalNoted,
    Refused,
    SendReport,
    ToUplink,
    ToVerifier,
    VerifyLayer,
)
from milkyway_agent.system.state_file import KernelDirectory
from milkyway_agent.verifier.answers import Arrival, ForUplink, Outgoing, ToPid1, Verifier
from milkyway_agent.verifier.note_allowance import NoteAllowance
from milkyway_agent.verifier.standing import UNAVAILABLE, noted
from milkyway_formats.envelope import EnvelopeRefusedError
from milkyway_formats.limits import MAX_ENVELOPE_BYTES
from milkyway_formats.names import Sha256

PID1_FD, UPLINK_FD = 3, 4
VENDOR_ROOT = Path("/usr/lib/milkyway/vendor-root.json")
UPLINK_QUEUE = 32
CHUNK_BYTES = 1 << 20


class LayerDescriptor:
    """A layer file by its descriptor, which it owns."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def size(self) -> int:
        """The length of the file now."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at *offset*."""
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class Process:
    """Verifier, channels and clock together. *boottime* returns CLOCK_BOOTTIME in seconds."""

    def __init__(
        self,
        verifier: Verifier,
        pid1: Channel[FromVerifier, ToVerifier],
        uplink: Channel[ToUplink, FromUplink],
        boottime: Callable[[], float],
    ) -> None:
        self._verifier = verifier
        self._pid1 = pid1
        self._uplink = uplink
        self._boottime = boottime
        self._allowance = NoteAllowance(boottime=boottime())
        self._queue, self._queued = trio.open_memory_channel[ForUplink](UPLINK_QUEUE)

    async def run(self) -> None:
        """Serve until PID 1 has closed its end."""
        with self._queue, self._queued:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed_uplink)
                nursery.start_soon(self._serve_uplink, nursery)
                await self._serve_pid1()
                nursery.cancel_scope.cancel()
            while self._queue.statistics().current_buffer_used:
                close_all(self._queued.receive_nowait().fds)

    async def _serve_pid1(self) -> None:
        while True:
            try:
                message, fds = await self._pid1.receive()
            except ChannelClosedError:
                return
            except MessageRefusedError as error:
                await self._deliver([ToPid1(noted(error))])
                continue
            try:
                outgoing = self._from_pid1(message, fds)
            except Exception:  # noqa: BLE001 (a bug that one input meets refuses that input and must not stop the others)
                traceback.print_exc()
                outgoing = [ToPid1(_bug(getattr(message, "request", 0)))]
            await self._deliver(outgoing)

    async def _serve_uplink(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                message, fds = await self._uplink.receive()
            except ChannelClosedError as error:
                await self._deliver([ToPid1(noted(error)), *self._verifier.uplink_gone()])
                return
            except MessageRefusedError as error:
                await self._tell_of_uplink([ToPid1(noted(error))])
                continue
            try:
                outgoing = self._from_uplink(message, fds, nursery)
            except Exception:  # noqa: BLE001 (as above)
                traceback.print_exc()
                outgoing = [ToPid1(RefusalNoted(check="bug", message=f"cannot take {type(message).__name__}: see the log"))]
                if isinstance(message, Envelope):
                    outgoing.append(ForUplink(Handled(number=message.number)))
            await self._tell_of_uplink(outgoing)

    def _from_pid1(self, message: ToVerifier, fds: list[int]) -> list[Outgoing]:
        """Return the answer. All *fds* are closed or passed on when this returns."""
        match message:
            case FetchLayer():
                writer, reader = fds
                outgoing = self._verifier.fetch_layer(message, writer, LayerDescriptor(reader))
                if not any(isinstance(item, ForUplink) for item in outgoing):
                    os.close(writer)
                return outgoing
            case SendReport():
                return self._verifier.send_report(message, self._boottime())
            case Acted():
                return []
            case Begin() | VerifyLayer() | AdmitLocally() | CheckPolicy():
                try:
                    return self._with_descriptors(message, fds)
                finally:
                    close_all(fds)

    def _with_descriptors(self, message: Begin | VerifyLayer | AdmitLocally | CheckPolicy, fds: list[int]) -> list[Outgoing]:
        match message:
            case Begin():
                # The directories are used as long as this process runs: these two stay open.
                trust, secure = (KernelDirectory(os.dup(descriptor)) for descriptor in fds)
                return self._verifier.begin(message, trust, secure, self._boottime())
            case VerifyLayer():
                return self._verifier.verify_layer(message, LayerDescriptor(fds[0]))
            case AdmitLocally():
                return self._verifier.admit_locally(message, lambda: read_envelope_bytes(fds[0]), self._boottime())
            case CheckPolicy():
                layer, output = fds
                return self._verifier.check_policy(message, LayerDescriptor(layer), lambda data: write_all(output, data))

    def _from_uplink(self, message: FromUplink, fds: list[int], nursery: trio.Nursery) -> list[Outgoing]:
        match message:
            case Fetched():
                return self._fetched(message, nursery)
            case Envelope():
                try:
                    outgoing = self._verifier.envelope(lambda: read_envelope_bytes(fds[0]), self._boottime())
                finally:
                    close_all(fds)
                # A full disk, for example. The server still has it, and it would not be sent again otherwise.
                again = any(isinstance(item.message, RefusalNoted) and item.message.check == UNAVAILABLE for item in outgoing)
                return [*outgoing, ForUplink(Handled(number=message.number, again=again))]
            case Enrolled():
                return self._verifier.enrolled(message)
            case LinkState():
                return [ToPid1(message)]

    def _fetched(self, message: Fetched, nursery: trio.Nursery) -> list[Outgoing]:
        result = self._verifier.fetched(message)
        if not isinstance(result, Arrival):
            return result
        nursery.start_soon(self._hash, result)
        return []

    async def _hash(self, arrival: Arrival) -> None:
        try:
            outgoing = self._verifier.arrived(arrival, await sha256_of(arrival), self._boottime())
        except Exception:  # noqa: BLE001 (as above)
            traceback.print_exc()
            outgoing = [ToPid1(_bug(arrival.request))]
        finally:
            arrival.file.close()
        await self._deliver(outgoing)

    async def _tell_of_uplink(self, outgoing: list[Outgoing]) -> None:
        """Deliver what the uplink caused, but no more notes than are allowed."""
        told: list[Outgoing] = []
        for item in outgoing:
            if isinstance(item.message, RefusalNoted):
                if self._allowance.take(self._boottime()):
                    told.append(ToPid1(self._allowance.with_untold(item.message)))
            elif not isinstance(item.message, LinkState) or self._allowance.take(self._boottime()):
                told.append(item)
        await self._deliver(told)

    async def _deliver(self, outgoing: list[Outgoing]) -> None:
        """Send to PID 1, waiting for it; what is for the uplink goes into its queue, or is dropped if that is full."""
        for item in outgoing:
            if isinstance(item, ToPid1):
                try:
                    await self._pid1.send(item.message)
                except ChannelClosedError:
                    return  # the reading task sees it too, and ends
            else:
                try:
                    self._queue.send_nowait(item)
                except trio.WouldBlock:
                    close_all(item.fds)
                    await self._drop(item)

    async def _feed_uplink(self) -> None:
        async for item in self._queued:
            try:
                await self._uplink.send(item.message, item.fds)
            except ChannelClosedError:
                await self._drop(item)
            finally:
                close_all(item.fds)

    async def _drop(self, dropped: ForUplink) -> None:
        """Answer the request behind a message that the uplink does not get."""
        if isinstance(dropped.message, Fetch):
            failed = Fetched(request=dropped.message.request, error="cannot fetch layer: the uplink does not take requests")
            result = self._verifier.fetched(failed)
            if not isinstance(result, Arrival):
                await self._deliver(result)


async def sha256_of(arrival: Arrival) -> Sha256:
    """Return the hash of the whole file, letting other tasks run after each chunk. If it can't be read the hash is wrong."""
    digest, offset = hashlib.sha256(), 0
    while offset < arrival.size:
        try:
            chunk = arrival.file.read(offset, min(CHUNK_BYTES, arrival.size - offset))
        except OSError:
            break
        if not chunk:
            break
        digest.update(chunk)
        offset += len(chunk)
        await trio.lowlevel.checkpoint()
    return digest.hexdigest()


def read_envelope_bytes(descriptor: int) -> bytes:
    """Return what the file holds, at most one byte more than an envelope may have."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise EnvelopeRefusedError("cannot read order: it did not come as a file")  # a pipe could block its reader
    return os.pread(descriptor, MAX_ENVELOPE_BYTES + 1, 0)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of *data*."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _bug(request: int) -> Refused:
    return Refused(request=request, check="bug", message="cannot check this: a bug in the verifier, its log has the details")


async def serve(vendor_root: bytes) -> None:
    """Serve on the two inherited channels."""
    pid1: Channel[FromVerifier, ToVerifier] = Channel.adopt(PID1_FD, ToVerifier, peer="PID 1")
    uplink: Channel[ToUplink, FromUplink] = Channel.adopt(UPLINK_FD, FromUplink, peer="uplink")
    verifier = Verifier(vendor_root=vendor_root, random=os.urandom)
    async with pid1, uplink:
        await Process(verifier, pid1, uplink, lambda: time.clock_gettime(time.CLOCK_BOOTTIME)).run()


def main() -> None:
    """Run the verifier. Its one argument, if any, is where the vendor's root is."""
    # It holds the machine's private keys. (The hard limit stays: changing it takes a permission of its own.)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else VENDOR_ROOT
    try:
        vendor_root = path.read_bytes()
    except OSError as error:
        print(f"cannot read the vendor's root: {error}", file=sys.stderr)
        vendor_root = b""  # refused as anything else that is not a root, and PID 1 is told
    trio.run(serve, vendor_root)
